"""The fault harness: real clients run while faults are injected, and the sandbox's log shows what is true.

The design is in reliability.md §5. README.md in this folder explains how to use it.
"""
