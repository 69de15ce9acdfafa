"""The interactive `chat` command.

Knows: the terminal and the client. Must not know: any API's wire.
"""
