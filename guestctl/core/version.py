"""The version of guestctl. Knows: nothing else."""

__version__ = "0.1.0"
