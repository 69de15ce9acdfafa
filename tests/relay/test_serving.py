"""How a relay serves: several sessions, TLS, web pages of other origins, limits, metrics, healthz."""

from __future__ import annotations

import resource
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.openmetrics import parser

from guestctl.core.clock import SystemClock
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.tls import certificates
from tests.cli.conftest import Front
from tests.relay.processes import STUCK, EventReader, Reader, SocketReader, push, relaying, texts_until


def test_several_sessions_in_one_process(front: Front, sandbox: Sandbox) -> None:
    assert front("session", "create", "--as", "cart", "-q").code == 0
    assert front("send", "in the cart", "-s", "cart", "-q").code == 0
    with relaying(front, sessions=("default", "cart")) as relay:
        for query, status in {
            "": 400,
            "?session=default": 200,
            "?session=cart": 404,
            "?conversation_id=x": 404,
        }.items():
            assert relay.get(f"/v1/history{query}", relay.keys["default"]).status_code == status, query
        cart = EventReader(relay, "?session=cart&after=first", key=relay.keys["cart"])
        assert texts_until(cart, "in the cart") == ["in the cart"]
        default = EventReader(relay, "?session=default&after=first", key=relay.keys["default"])
        assert texts_until(default, "hello") == ["hello"]
        answer = relay.post(
            {"text": "two"}, "k", "/v1/messages?session=cart", Authorization=f"Bearer {relay.send_keys['cart']}"
        )
        assert answer.status_code == 200
        assert texts_until(cart, "two") == ["two"]
        refused = relay.post({"text": "two"}, "k", "/v1/messages?session=cart")
        assert refused.status_code == 404
        push(sandbox, "to both")
        assert texts_until(default, "to both") == ["to both"]


def test_a_conversation_id_names_the_session(sandbox: Sandbox, front: Front) -> None:
    front = Front({**front.environ, "GUESTCTL_API": "messaging-conversations"}, front.cwd)
    ids = {}
    for name in ("one", "two"):
        assert front("session", "create", "--as", name, "-q").code == 0
        ids[name] = front("session", "show", "-s", name).record["ids"]["conversation"]
    with relaying(front, sessions=("one", "two")) as relay:
        for name, id_ in ids.items():
            push(sandbox, f"to {name}")
            reader = EventReader(relay, f"?conversation_id={id_}&after=first", key=relay.keys[name])
            (record,) = (record for _, record in _first(reader))
            assert record["session"] == name


def _first(reader: EventReader) -> list[tuple[str | None, dict[str, object]]]:
    return [next(iter(reader))]


def test_tls(front: Front, tmp_path: Path) -> None:
    made = certificates(SystemClock(), ["127.0.0.1", "localhost"])
    try:
        with relaying(front, "--tls-cert", str(made.certificate), "--tls-key", str(made.key)) as relay:
            assert relay.url.startswith("https://127.0.0.1:")
            assert relay.ready["socket"].startswith("wss://127.0.0.1:")
            answer = requests.get(f"{relay.url}/healthz", verify=str(made.ca), timeout=STUCK)
            assert answer.json() == {"status": "serving"}
            with requests.get(
                f"{relay.url}/v1/events?after=first",
                headers={"Authorization": f"Bearer {relay.key}"},
                verify=str(made.ca),
                stream=True,
                timeout=STUCK,
            ) as stream:
                lines = (line for line in stream.iter_lines() if line.startswith(b"data: "))
                assert b'"text":"hello"' in next(lines)
            reader = SocketReader(
                relay, "?after=first", sslopt={"ca_certs": str(made.ca), "cert_reqs": ssl.CERT_REQUIRED}
            )
            assert texts_until(reader, "hello") == ["hello"]
        for options, part in (
            (("--tls-cert", str(made.certificate)), "belong together"),
            (("--tls-cert", str(made.ca), "--tls-key", str(made.key)), "not a certificate with the key"),
            (("--tls-cert", "absent.pem", "--tls-key", str(made.key)), "No such file"),
        ):
            refused = front("relay", "serve", "--http", "127.0.0.1:0", *options)
            assert (refused.code, part in refused.err) == (2, True), refused.err
    finally:
        made.remove()


def test_a_web_page_of_a_permitted_origin(front: Front) -> None:
    shop = "https://shop.example"
    with relaying(front, "--cors", shop, "--allow-host", "relay.example") as relay:
        preflight = requests.options(
            f"{relay.url}/v1/events",
            headers={"Origin": shop, "Access-Control-Request-Headers": "authorization,last-event-id"},
            timeout=STUCK,
        )
        assert preflight.status_code == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == shop
        allowed = {name.strip().lower() for name in preflight.headers["Access-Control-Allow-Headers"].split(",")}
        assert {"authorization", "last-event-id", "idempotency-key", "content-type"} <= allowed
        reader = EventReader(relay, "?after=first", Origin=shop)
        assert reader.response.headers["Access-Control-Allow-Origin"] == shop
        assert texts_until(reader, "hello") == ["hello"]
        assert relay.get("/v1/history", "wrong", Origin=shop).headers["Access-Control-Allow-Origin"] == shop
        assert texts_until(SocketReader(relay, "?after=first", origin=shop), "hello") == ["hello"]
        other = relay.get("/v1/history", Origin="https://other.example")
        assert (other.status_code, "Access-Control-Allow-Origin" in other.headers) == (403, False)
        assert relay.get("/healthz", Host="relay.example").status_code == 200
    for wrong in ("*", "shop.example", "https://shop.example/page"):
        refused = front("relay", "serve", "--http", "127.0.0.1:0", "--cors", wrong)
        assert (refused.code, "is not an origin" in refused.err) == (2, True)


def test_metrics(front: Front, sandbox: Sandbox) -> None:
    with relaying(front) as relay:
        readers: list[Reader] = [EventReader(relay), EventReader(relay, lines=True), SocketReader(relay)]
        push(sandbox, "one")
        for reader in readers:
            texts_until(reader, "one")
        assert relay.post({"text": "two"}, "k").status_code == 200
        push(sandbox, "three")
        for reader in readers:
            texts_until(reader, "three")
        assert relay.get("/metrics", "wrong").status_code == 401
        answer = relay.get("/metrics")
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        parse: Any = parser.text_string_to_metric_families
        families = list(parse(answer.text))
        values = {
            (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "session")): sample.value
            for family in families
            for sample in family.samples
        }
        expected = {
            ("guestctl_relay_upstream", "live"): 1,
            ("guestctl_relay_upstream", "lost"): 0,
            ("guestctl_relay_reconnects_total",): 0,
            ("guestctl_relay_events_total", "message"): 4,
            ("guestctl_relay_gaps_total",): 0,
            ("guestctl_relay_reader_gaps_total",): 0,
            ("guestctl_relay_readers", "sse"): 1,
            ("guestctl_relay_readers", "json lines"): 1,
            ("guestctl_relay_readers", "websocket"): 1,
            ("guestctl_relay_reader_lag_events",): 0,
            ("guestctl_relay_slow_readers_total",): 0,
            ("guestctl_relay_sends_total", "accepted"): 1,
            ("guestctl_relay_reply_seconds_count",): 1,
        }
        assert {key: values.get(key) for key in expected} == expected
        assert values[("process_resident_memory_bytes",)] > 0


def test_a_relay_without_a_service_serves_its_log_and_stops_orderly(front: Front, sandbox: Sandbox) -> None:
    with relaying(front) as relay:
        assert texts_until(EventReader(relay, "?after=first"), "hello") == ["hello"]
    sandbox.stop()
    with relaying(front, "--timeout", "200ms", attached=False) as relay:
        assert texts_until(EventReader(relay, "?after=first"), "hello") == ["hello"]
        assert (relay.get("/healthz").status_code, relay.get("/readyz").status_code) == (200, 503)
        assert relay.get("/v1/history").status_code in {502, 504}
        answer = relay.post({"text": "hi"}, "k")
        assert (answer.status_code, answer.json()["delivery"]) == (503, "not_sent")
        states = iter(EventReader(relay, "?after=last&kinds=connection"))
        assert next(record for _, record in states if record["state"] == "retrying")
        code, err = relay.stop()
        assert code == 0
        assert err.startswith('session "default": not connected (')
        assert err.count("\n") == 1


def test_a_session_that_was_deleted_keeps_its_relay(front: Front, sandbox: Sandbox) -> None:
    with relaying(front) as relay:
        reader = EventReader(relay, "?after=first")
        assert front("session", "forget", "default", "-q").code == 0
        push(sandbox, "still there")
        assert texts_until(reader, "still there") == ["hello", "still there"]


_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard}))
from guestctl.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_more_readers_than_files_are_refused(front: Front) -> None:
    limited = [sys.executable, "-c", _LIMITED.format(hard=500), "relay", "serve", "--http", "127.0.0.1:0"]
    environ = {**front.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*limited, "--readers", "480"], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--readers 480: this process may open 500 files, which is enough for 420 readers" in done.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 500
    with relaying(front, "--readers", "2") as relay:
        readers: list[Reader] = [EventReader(relay, "?after=first"), SocketReader(relay, "?after=first")]
        refused = relay.get("/v1/events")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        for reader in readers:
            assert texts_until(reader, "hello") == ["hello"]


@pytest.mark.parametrize("address", ["8787", "127.0.0.1:99999", "127.0.0.1:", "nonsense.invalid:1"])
def test_an_address_that_cannot_be_used(front: Front, address: str) -> None:
    refused = front("relay", "serve", "--http", address)
    assert refused.code == 2
    assert address in refused.err
