"""Who answers the guest in the sandbox: built-in bots and bot scripts.

Knows: what a bot may do. Must not know: any API's wire.
"""
