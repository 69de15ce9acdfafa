"""Turns results into records, text and tables.

Knows: records and terminals. Must not know: sockets, stored state.
"""
