"""The relay over gRPC: readers, sends, statuses, access, health checking and reflection, with grpcio as the client."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from guestctl.core.clock import SystemClock
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox.tls import certificates
from tests.cli.conftest import Front
from tests.relay.processes import ROOT, EventReader, flood, push, relaying, sockets
from tests.sandbox.stranger import Control

grpc = pytest.importorskip("grpc", reason="guestctl[grpc] is not installed (CONTRIBUTING.md has the command)")

from guestctl.relay.proto import chat_stream_pb2 as pb  # noqa: E402
from tests.grpc.clients import (  # noqa: E402
    GRPC,
    NARROW,
    Chat,
    channel_to,
    chatting,
    details_of,
    record_of,
    texts_until,
)

Code = grpc.StatusCode


def code_of(call: Callable[[], object]) -> tuple[object, str]:
    """Return the status and the message of a call that fails."""
    with pytest.raises(grpc.RpcError) as failed:
        call()
    return failed.value.code(), failed.value.details()


def first_of(chat: Chat, request: dict[str, Any]) -> pb.ChatMessage:
    """Return the first message of a subscription."""
    message: pb.ChatMessage = next(chat.subscribe(**request))
    return message


# --- reading ---


def test_grpc_delivers_the_records_and_ids_of_the_other_readers_and_a_last_event(
    sandbox: Sandbox, front: Front
) -> None:
    with relaying(front, *GRPC) as relay, chatting(relay) as chat:
        stream = chat.subscribe(after="first")
        plain = EventReader(relay, "?after=first")
        push(sandbox, "one", "two")
        got, expected = [], []
        for id_, record in plain:
            expected.append((id_, record))
            if record.get("text") == "two":
                break
        for message in stream:
            record = record_of(message)
            got.append((message.id, record))
            assert (message.kind, message.message_id, message.text, message.direction, message.sender) == (
                record["kind"],
                record["id"],
                record["text"],
                record["direction"],
                record["from"]["role"],
            )
            assert message.time.ToJsonString() == record["time"]
            if message.text == "two":
                break
        assert got == expected
        assert sockets(sandbox) == 1
        assert b'guestctl_relay_readers{protocol="grpc",session="default"} 1' in relay.get("/metrics").content
        assert relay.stop() == (0, "")
        (last,) = stream
        assert (last.kind, last.id, last.code, last.resume_after) == ("end", "", "", got[-1][0])
        assert stream.code() is Code.OK


def test_a_reader_that_returns_continues_after_its_last_id(sandbox: Sandbox, front: Front) -> None:
    with relaying(front, *GRPC) as relay:
        with chatting(relay, relay.key) as chat:
            stream = chat.subscribe(after="first", kinds=["message", "connection"])
            push(sandbox, "one")
            found = [next(stream) for _ in range(4)]
            assert [message.kind for message in found] == ["connection", "message", "connection", "message"]
            push(sandbox, "two")
        relay.stop(signal.SIGKILL)
    push(sandbox, "three")
    with relaying(front, *GRPC) as relay, chatting(relay, relay.key) as chat:
        push(sandbox, "four")
        assert texts_until(chat.subscribe(after=found[-1].id), "four") == ["two", "three", "four"]


def test_the_typed_fields_alone_are_much_smaller_than_json(sandbox: Sandbox, front: Front) -> None:
    with relaying(front, *GRPC) as relay, chatting(relay) as chat:
        push(sandbox, "Your parcel has left the warehouse.")
        typed = next(iter(chat.subscribe(after="first", typed_only=True, kinds=["message"])))
        full = next(iter(chat.subscribe(after="first", kinds=["message"])))
        assert (typed.record, typed.text, typed.id) == ("", full.text, full.id)
        assert typed.ByteSize() < 0.6 * len(full.record)


def test_what_the_log_dropped_is_a_gap_or_out_of_range(sandbox: Sandbox, front: Front) -> None:
    texts = [str(n) for n in range(20)]
    with relaying(front, *GRPC, "--retain", "5") as relay, chatting(relay) as chat:
        stream = chat.subscribe(after="first")
        first = next(stream).id
        flood(sandbox, texts)
        assert texts_until(stream, "19") == texts
        late = chat.subscribe(after=first)
        gap = next(late)
        assert (gap.kind, gap.reason, gap.last_missing) == ("gap", "not_retained", gap.id)
        assert gap.first_missing == f"{first.rpartition('-')[0]}-{int(first.rpartition('-')[2]) + 1}"
        assert texts_until(late, "19") == texts[-5:]
        with pytest.raises(grpc.RpcError) as failed:
            chat.subscribe(after=first, strict=True).next()
        assert failed.value.code() is Code.OUT_OF_RANGE
        missing = details_of(failed.value, pb.ChatMessage)
        assert (missing.kind, missing.first_missing, missing.last_missing) == (
            "gap",
            gap.first_missing,
            gap.last_missing,
        )
        assert texts_until(chat.subscribe(after=gap.id, strict=True), "19") == texts[-5:]


def test_a_slow_reader_is_cut_and_keeps_nobody_waiting(sandbox: Sandbox, front: Front) -> None:
    texts = [f"{n} {'x' * 800}" for n in range(1_500)]
    with relaying(front, *GRPC) as relay, chatting(relay) as chat, channel_to(relay, options=NARROW) as narrow:
        slow = Chat(narrow, relay.key).subscribe(after="first")
        quick = chat.subscribe(after="first")
        flood(sandbox, texts[:500])
        assert texts_until(quick, texts[499])[1:] == texts[:500]
        flood(sandbox, texts[500:])
        assert texts_until(quick, texts[-1]) == texts[500:]
        got: list[pb.ChatMessage] = []
        with pytest.raises(grpc.RpcError) as failed:
            got.extend(slow)
        assert failed.value.code() is Code.RESOURCE_EXHAUSTED
        assert len(got) < len(texts)
        # Within the time for its last entries the reader gets `slow`; later, only the status.
        last = got.pop() if got[-1].kind == "slow" else None
        assert last is None or last.resume_after == got[-1].id
        back = texts_until(chat.subscribe(after=got[-1].id), texts[-1])
        assert [message.text for message in got][1:] + back == texts


def test_the_end_of_the_session_is_the_last_message(front: Front) -> None:
    with relaying(front, *GRPC) as relay, chatting(relay) as chat:
        stream = chat.subscribe(after="first")
        assert texts_until(stream, "hello") == ["hello"]
        assert front("session", "clear", "--yes", "-q").code == 0
        *_, last = stream
        assert (last.kind, last.code) == ("end", "session.cleared")
        _, err = relay.process.communicate(timeout=60)
        assert relay.process.returncode == 10
        assert "session.cleared" in err.decode()


def test_history_is_a_stream_of_messages_without_ids(sandbox: Sandbox, front: Front) -> None:
    with relaying(front, *GRPC) as relay, chatting(relay) as chat:
        push(sandbox, "one", "two")
        assert texts_until(chat.subscribe(after="first"), "two") == ["hello", "one", "two"]
        found = chat.history()
        assert [(message.id, message.kind, message.text) for message in found] == [
            ("", "message", "hello"),
            ("", "message", "one"),
            ("", "message", "two"),
        ]
        lines = relay.get("/v1/history").text.splitlines()
        assert [message.record for message in found] == lines
        assert [message.text for message in chat.history(last=1)] == ["two"]
        assert [message.text for message in chat.history(since=found[0].message_id)] == ["one", "two"]


# --- sending ---


def test_one_key_is_sent_once_over_every_protocol(sandbox: Sandbox, front: Front) -> None:
    key = str(uuid.uuid4())
    with relaying(front, *GRPC) as relay, chatting(relay) as chat:
        sent = chat.send("once", key)
        assert (sent.delivery, sent.key) == ("accepted", key)
        assert chat.send("once", key) == sent
        assert relay.post({"text": "once"}, key).text.strip() == sent.record
        assert code_of(lambda: chat.send("another", key)) == (
            Code.ALREADY_EXISTS,
            "this idempotency key belongs to another message",
        )
        assert texts_until(chat.subscribe(after="first"), "once") == ["hello", "once"]
        assert sockets(sandbox) == 1


def test_a_rejected_message_is_failed_precondition_with_its_answer(
    sandbox: Sandbox, sandboxed: Callable[[Sandbox], Front]
) -> None:
    front = sandboxed(sandbox)
    front = Front({**front.environ, "GUESTCTL_API": "messaging-conversations"}, front.cwd)
    assert front("session", "create", "--as", "default", "-q").code == 0
    with relaying(front, *GRPC) as relay, chatting(relay) as chat:
        sandbox.call(lambda: sandbox.faults.add("http:status=403,on=send,times=1"))
        with pytest.raises(grpc.RpcError) as failed:
            chat.send("no", "key-1")
        assert failed.value.code() is Code.FAILED_PRECONDITION
        answer = details_of(failed.value, pb.SendResponse)
        assert answer.delivery == "rejected"
        assert answer.record == relay.post({"text": "no"}, "key-1").text.strip()
        sandbox.call(lambda: sandbox.faults.add("http:status=403,on=send,times=1"))
        with pytest.raises(grpc.RpcError) as failed:
            chat.send("long " * 800, "key-3")
        long = details_of(failed.value, pb.SendResponse)
        assert (failed.value.code(), long.delivery, long.record) == (Code.FAILED_PRECONDITION, "rejected", "")
        conversation = next(iter(chat.subscribe(after="first", kinds=["connection"]))).conversation_id
        assert conversation
        assert chat.send("yes", "key-2", conversation_id=conversation).delivery == "accepted"
        assert [message.text for message in chat.history(conversation_id=conversation)] == ["yes"]
        assert code_of(lambda: chat.history(conversation_id="other"))[0] is Code.NOT_FOUND


def test_a_message_in_doubt_is_ok_and_settled_later(sandboxed: Callable[[Sandbox], Front]) -> None:
    with running(SandboxOptions(fast=True, agent=True)) as sandbox:
        front = sandboxed(sandbox)
        assert front("session", "create", "--as", "default", "-q").code == 0
        with relaying(front, *GRPC, "--timeout", "1") as relay, chatting(relay) as chat:
            stream = chat.subscribe(kinds=["connection"])
            sandbox.call(lambda: sandbox.faults.add("lag:ms=3600000"))
            sandbox.call(lambda: sandbox.faults.add("drop:code=1006,after=1,on=send"))
            assert chat.send("perhaps", "key-1").delivery == "in_doubt"
            sandbox.call(sandbox.faults.clear)
            next(message for message in stream if record_of(message)["state"] == "live")
            assert chat.send("perhaps", "key-1").delivery == "accepted"


def test_a_message_that_was_not_sent_is_unavailable_and_may_be_repeated(front: Front, sandbox: Sandbox) -> None:
    with relaying(front, *GRPC, "--timeout", "700ms") as relay, chatting(relay) as chat:
        stream = chat.subscribe(kinds=["connection"])
        sandbox.call(lambda: sandbox.faults.add("refuse:status=503"))
        Control(sandbox)("POST", "/disconnect", code=1006)
        next(message for message in stream if record_of(message)["state"] == "lost")
        with pytest.raises(grpc.RpcError) as failed:
            chat.send("later", "key-1")
        assert failed.value.code() is Code.UNAVAILABLE
        assert details_of(failed.value, pb.SendResponse).delivery == "not_sent"
        sandbox.call(sandbox.faults.clear)
        next(message for message in stream if record_of(message)["state"] == "live")
        assert chat.send("later", "key-1").delivery == "accepted"


# --- access and requests that are refused ---


def test_a_call_needs_a_key_with_the_right(front: Front) -> None:
    with relaying(front, *GRPC) as relay:
        for key in ("", "wrong", relay.key + "x"):
            with chatting(relay, key) as chat:
                for call in (lambda: next(chat.subscribe()), chat.history, lambda: chat.send("x", "k")):
                    assert code_of(call)[0] is Code.UNAUTHENTICATED
        with chatting(relay, relay.key) as chat:
            assert len(chat.history()) == 1
            assert code_of(lambda: chat.send("x", "k"))[0] is Code.PERMISSION_DENIED
        assert relay.front("relay", "key", "--rotate").code == 0
        with chatting(relay, relay.key) as chat:
            assert code_of(chat.history)[0] is Code.UNAUTHENTICATED


def test_a_wrong_request_is_answered_with_the_reason(front: Front) -> None:
    with relaying(front, *GRPC) as relay, chatting(relay) as chat, channel_to(relay) as channel:
        for request, code, part in (
            ({"after": "yesterday"}, Code.INVALID_ARGUMENT, '"yesterday" is not a position'),
            ({"kinds": ["message", "nonsense"]}, Code.INVALID_ARGUMENT, 'no kind "nonsense"'),
            ({"session": "other"}, Code.NOT_FOUND, "does not serve this session"),
        ):
            found = code_of(partial(first_of, chat, request))
            assert (found[0], part in found[1]) == (code, True), found
        for call, part in (
            (lambda: chat.send("x", ""), "no idempotency_key"),
            (lambda: chat.send("x", "k" * 256), "1 to 255 printable ASCII characters"),
            (lambda: chat.send("", "k"), "empty"),
            (lambda: chat.send("x", "k", form="[1]"), "form is not a JSON object"),
            (lambda: chat.history(since="nothing", last=1), "nothing"),
        ):
            found = code_of(call)
            assert (found[0], part in found[1]) == (Code.INVALID_ARGUMENT, True), found
            assert not re.search(r"guestctl|--[a-z]", found[1]), found  # a reader has no command line
        raw = channel.unary_unary("/guestctl.relay.v1.ChatStream/Send")
        metadata = (("authorization", f"Bearer {relay.send_key}"),)
        assert code_of(lambda: raw(b"\xff", metadata=metadata)) == (
            Code.INVALID_ARGUMENT,
            "the request is not a SendRequest (use code made from chat_stream.proto)",
        )


def test_several_sessions_are_named(sandbox: Sandbox, front: Front) -> None:
    assert front("session", "create", "--as", "other", "-q").code == 0
    with relaying(front, *GRPC, sessions=("default", "other")) as relay:
        with chatting(relay) as chat:
            assert code_of(chat.history)[0] is Code.INVALID_ARGUMENT
            assert [message.text for message in chat.history(session="default")] == ["hello"]
            assert code_of(lambda: chat.history(session="other"))[0] is Code.NOT_FOUND
        with chatting(relay, relay.send_keys["other"]) as chat:
            stream = chat.subscribe(session="other", after="first")
            assert chat.send("to the other", "k", session="other").delivery == "accepted"
            assert texts_until(stream, "to the other") == ["to the other"]


def test_a_relay_without_room_refuses_another_reader(front: Front) -> None:
    with relaying(front, *GRPC, "--readers", "1") as relay, chatting(relay) as chat:
        stream = chat.subscribe(after="first")
        assert code_of(lambda: next(chat.subscribe()))[0] is Code.RESOURCE_EXHAUSTED
        stream.cancel()


# --- the server ---


def test_the_ready_block_names_grpc(front: Front) -> None:
    with relaying(front, *GRPC) as relay:
        assert relay.ready["grpc"].startswith("127.0.0.1:")
        second = front("relay", "serve", "--http", "127.0.0.1:0", "--grpc", relay.ready["grpc"])
        assert second.code == 2  # before anything is bound: another relay serves the session
        assert front("session", "create", "--as", "other", "-q").code == 0
        taken = front("relay", "serve", "-s", "other", "--http", "127.0.0.1:0", "--grpc", relay.ready["grpc"])
        assert taken.code == 2
        assert f"cannot listen on {relay.ready['grpc']}: Address already in use" in taken.err
        assert "choose another --grpc" in taken.err
        wrong = front("relay", "serve", "-s", "other", "--grpc", "8788")
        assert (wrong.code, '--grpc: "8788" is not an address' in wrong.err) == (2, True)


def test_grpc_is_served_over_tls(front: Front) -> None:
    made = certificates(SystemClock(), ["127.0.0.1", "localhost"])
    with (
        relaying(front, *GRPC, "--tls-cert", str(made.certificate), "--tls-key", str(made.key)) as relay,
        channel_to(relay, root_certificates=Path(made.ca).read_bytes()) as channel,
    ):
        chat = Chat(channel, relay.key)
        assert texts_until(chat.subscribe(after="first"), "hello") == ["hello"]
        with channel_to(relay) as cleartext:
            assert code_of(Chat(cleartext, relay.key).history)[0] is Code.UNAVAILABLE
    made.remove()


def test_health_checking_reports_the_state_of_the_connection(sandbox: Sandbox, front: Front) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    states = health_pb2.HealthCheckResponse
    with relaying(front, *GRPC) as relay, channel_to(relay) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest()).status == states.SERVING
        watched = stub.Watch(health_pb2.HealthCheckRequest(service="guestctl.relay.v1.ChatStream"))
        next(found for found in watched if found.status == states.SERVING)
        sandbox.call(lambda: sandbox.faults.add("refuse:status=503"))
        Control(sandbox)("POST", "/disconnect", code=1006)
        next(found for found in watched if found.status == states.NOT_SERVING)
        sandbox.call(sandbox.faults.clear)
        next(found for found in watched if found.status == states.SERVING)
        code, err = relay.stop()
        assert (code, "Traceback" in err) == (0, False), err


def test_reflection_describes_the_service(front: Front) -> None:
    from google.protobuf import descriptor_pb2
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    with relaying(front, *GRPC) as relay, channel_to(relay) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest
        listed, symbol = stub.ServerReflectionInfo(
            iter([ask(list_services=""), ask(file_containing_symbol="guestctl.relay.v1.ChatStream")])
        )
        assert {each.name for each in listed.list_services_response.service} == {
            "guestctl.relay.v1.ChatStream",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in symbol.file_descriptor_response.file_descriptor_proto
        ]
        (service,) = [service for file in files for service in file.service]
        assert [method.name for method in service.method] == ["Subscribe", "Send", "History"]


# --- secrets and the documentation ---


def test_a_relay_writes_no_key_of_a_grpc_reader(front: Front, tmp_path: Path) -> None:
    trace = tmp_path / "relay.trace"
    with relaying(front, *GRPC, "-vv", "--debug", "--trace", str(trace)) as relay:
        answers = []
        for key in (relay.key, relay.send_key, relay.key + "x"):
            with chatting(relay, key) as chat:
                for call in (chat.history, partial(first_of, chat, {"after": "first"}), partial(chat.send, "x", "k")):
                    try:
                        answers.append(str(call()))
                    except grpc.RpcError as error:
                        answers.append(f"{error} {error.trailing_metadata()}")
        code, err = relay.stop()
        assert code == 0
        written = [err, trace.read_text(), *answers]
        assert len(written) == 11
        for secret in (relay.key, relay.send_key):
            assert not [text for text in written if secret in text]


def test_the_reader_of_the_documentation_reads(sandbox: Sandbox, front: Front, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "relay.md").read_text(encoding="utf-8")
    program = tmp_path / "reader.py"
    program.write_text(page.partition("## gRPC")[2].partition("```python\n")[2].partition("```")[0])
    with relaying(front, *GRPC) as relay:
        environ = {"RELAY": relay.ready["grpc"], "RELAY_KEY": relay.key, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(
            [sys.executable, "-u", program], env=environ, stdout=subprocess.PIPE, text=True
        ) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "guest hello\n"
            push(sandbox, "Your parcel is on its way.")
            assert reader.stdout.readline() == "agent Your parcel is on its way.\n"
            reader.kill()
