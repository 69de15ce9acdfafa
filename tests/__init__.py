"""The tests, a package so that their shared parts can be imported by name."""
