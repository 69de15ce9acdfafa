"""Bytes to and from the service: requests for HTTP, websocket-client for frames, one network under both.

Knows: deadlines on the wire, TLS, proxies, framing. Must not know: any dialect, retry policy,
state. Importing this package imports neither library.
"""
