"""The transport against raw peers on loopback."""
