"""Finds out why a command cannot work, with one finding for each cause.

Knows: the probes and how to judge their answers. Must not know: the command line, printing.
"""
