"""The client side of the `web-messaging` API.

Knows: the wire in `docs/protocol/web-messaging.md`. Must not know: sockets, clocks, stored state.
"""
