"""Nobody is let in: secrets stay secret, hostile text stays text, bytes from outside make typed failures only."""
