"""`listen` goes on when history cannot be read, and reports what it cannot show.

Knows: how a service fails to give history. Must not know: who asks for history, and when.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.integration.conftest import room_of
from tests.integration.front import Guest, listen, texts
from tests.integration.middle import Gateway

#: An answer that no client waits for.
NOTHING = json.dumps({"type": "message", "class": "Nothing", "code": 200, "body": {}})


def no_token(middle: Gateway) -> None:
    """The service does not answer the request for the token of history (`getJwt`)."""
    middle.rewrite = lambda text: NOTHING if '"JwtResponse"' in text else text


def no_history(middle: Gateway) -> None:
    """The service answers every request for history with 503."""
    room_of(middle).faults("http:status=503,on=history")


#: What starts the stream, and whether earlier messages belong to it.
STARTS: dict[str, tuple[list[str], bool]] = {
    "now": ([], False),
    "replay": (["--replay", "3"], True),
    "cursor": (["--cursor", "{}/cursor"], True),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("fails", [no_token, no_history])
@pytest.mark.parametrize("api", ["web-messaging", "messaging-conversations", "guest-sessions"], indirect=True)
def test_listen_goes_on_and_declares_a_gap(
    behind: Guest, middle: Gateway, start: str, fails: Callable[[Gateway], None]
) -> None:
    if fails is no_token and behind.api != "web-messaging":
        pytest.skip("this API reads history with the token of the session")
    behind.ok("session", "create")
    behind.ok("send", "before", "--wait")
    fails(middle)
    options, earlier = STARTS[start]
    argv = [option.format(behind.cwd) for option in (*options, "--timeout", "300ms", "--max", "1")]
    listened = listen(behind, *argv, lives=[lambda: room_of(middle).push("one")])
    assert listened.code == 0, (listened.out, listened.err)
    assert texts(listened) == ["one"]
    assert "cannot read history: " in listened.err
    gaps = [record for record in listened.records if record["kind"] == "gap"]
    assert bool(gaps) == earlier, listened.out
    assert not gaps or gaps[0]["after"] is None, gaps
