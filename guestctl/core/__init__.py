"""The nouns and tools that every other folder builds on.

Knows: nothing of guestctl outside this folder. Must not know: sockets, files, any API.
"""
