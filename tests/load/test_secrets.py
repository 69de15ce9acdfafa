"""No file, no line and no process argument of a load test shows a secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from guestctl.sandbox.server import Sandbox
from tests.load.conftest import Room
from tests.load.test_processes import children, read_until

SECRET = "canary-f3b1c7"
SCRIPT = f"""
variables: {{login_token: {SECRET}}}
scenarios:
  secret:
    - say: my token is ${{login_token}}
    - expect: the reply that never comes with ${{login_token}}
      timeout: 100ms
load: {{think: 100ms}}
"""


def test_nothing_that_is_written_has_a_secret(at_sandbox: Callable[[Sandbox], Room], served: Sandbox) -> None:
    room = at_sandbox(served)
    room.write("secret.yaml", SCRIPT)
    environ = {**room.environ, "GUESTCTL_OAUTH_CLIENT_ID": "shop", "GUESTCTL_OAUTH_CLIENT_SECRET": f"{SECRET}-oauth"}
    guest = Room(room.path, environ)
    command = "load secret.yaml --guests 2 --workers 2 --conversations 2 -o json --csv load.csv --html load.html"
    with guest.start(command) as process:
        said = read_until(process, "running 2 guests")
        shown = [Path(f"/proc/{one}/cmdline").read_bytes() for one in children(process)]
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert '"failed":0' not in out
    files = [(room.path / name).read_text(encoding="utf-8") for name in ("load.csv", "load.html")]
    for text in (said, out, err, *files, *map(repr, shown)):
        assert SECRET not in text
