"""Finds out why a command cannot work, one finding for each cause.

Knows: probes and how to judge them. Must not know: argv, printing.
"""
