"""Profiles: the YAML file, its keys, changes to it, and regions.

Knows: the profile file. Must not know: sessions, the network.
"""
