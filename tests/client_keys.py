"""Settings of a sandbox that shows client keys and stores each once. No source states that the service does either."""

RETURNED = {"keys": "returned", "deduplicates": "yes"}
