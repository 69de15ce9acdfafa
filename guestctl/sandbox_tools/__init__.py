"""Programs around the sandbox: its admin client, `replay` and the demo.

Knows: the sandbox from outside. Must not know: the command line.
"""
