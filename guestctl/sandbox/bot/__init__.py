"""The bots of the sandbox: built-in bots and bot scripts.

Knows: what a bot can do. Must not know: any API's wire.
"""
