"""Reports of a check run, one module for each format.

Knows: outcomes. Must not know: how scenarios run.
"""
