"""Connections to the service: HTTP with requests, WebSocket with websocket-client, and one network below both.

Knows: deadlines on the wire, TLS, proxies, framing. Must not know: any dialect, retry policy, state. Importing
this package imports neither library.
"""
