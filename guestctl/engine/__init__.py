"""Performs the flows of a dialect over real connections: connect, send, listen, read history.

Knows: dialects, transport and storage. Must not know: argv, printing, exit codes.
"""
