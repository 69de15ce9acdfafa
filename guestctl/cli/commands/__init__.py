"""One module for each command or command group.

Knows: options and the client. Must not know: sockets, any API's wire.
"""
