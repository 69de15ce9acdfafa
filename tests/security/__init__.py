"""Security tests: secrets stay secret, hostile text stays text, and foreign bytes cause only typed failures."""
