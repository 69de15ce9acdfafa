"""Settings of a sandbox that shows client keys and stores each once. No source states that the service does either."""

from typing import Any

RETURNED: dict[str, Any] = {"keys": "returned", "deduplicates": "yes"}
