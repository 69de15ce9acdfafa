"""`send` and `ask`: saying something, and hearing the answer.

Knows: where the words come from and what is shown of the outcome. Must not know: how anything is sent.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, pairs, pattern
from guestctl.errors import Failure, UsageError
from guestctl.records import Record, message_record, sent_record

if TYPE_CHECKING:
    from guestctl.client import Sent


@command('guestctl ask "opening hours?"', 'guestctl ask --new "hello" --timeout 5')
def ask(
    run: Invocation,
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="the question; - reads stdin")],
    new: Annotated[bool, typer.Option("--new", help="start a new session first")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="with -o json: the service's own object too")] = False,
) -> None:
    """Send a question and print only the reply's text.

    The stored session is resumed; one is created when there is none, or always with --new. Text that
    begins with a dash goes behind `--`.
    """
    reply = run.client.ask(_words(run, text), new=new)
    if run.out.mode in {"auto", "table"}:
        run.out.text(reply.text)
    else:
        run.out.one(message_record(reply, run.client.session_name, raw=raw))


@command('guestctl send "Where is my parcel?" --wait', "printf 'one\\ntwo\\n' | guestctl send - --lines")
def send(
    run: Invocation,
    text: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT... | -]", help="the message; - reads stdin")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="with -: one message a line")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="print the reply too")] = False,
    expect: Annotated[
        str | None, typer.Option("--expect", metavar="REGEX", help="wait for a reply that matches")
    ] = None,
    attr: Annotated[list[str] | None, typer.Option("--attr", metavar="K=V", help="custom attribute")] = None,
    file: Annotated[list[Path] | None, typer.Option("--file", metavar="PATH", help="attach a file")] = None,
    pick: Annotated[
        list[str] | None,
        typer.Option("--pick", metavar="N|PAYLOAD", help="answer with an offered option: its number, label or payload"),
    ] = None,
    form: Annotated[list[str] | None, typer.Option("--form", metavar="FIELD=VALUE", help="fill in a form")] = None,
    id_: Annotated[
        str | None, typer.Option("--id", metavar="UUID", help="the message's own id, to repeat it safely")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="the service's own object too")] = False,
) -> None:
    """Send one message and return when the service has accepted it.

    Exit 13 means in doubt: the next run settles it. With --wait or --expect the reply is awaited; no
    match before --timeout exits 9. Text that begins with a dash goes behind `--`.
    """
    attributes, answers = pairs("--attr", attr), pairs("--form", form)
    pattern("--expect", expect)
    if lines and text != ["-"]:
        raise UsageError("--lines reads stdin: give - as the text", hint="`… | guestctl send - --lines`")
    if lines and (id_ or file or pick or form):
        raise UsageError("--lines goes with neither --id, --file, --pick nor --form")
    if id_ is not None:
        id_ = _uuid(id_)

    def one(words: str) -> Record:
        try:
            sent = run.client.send(
                words,
                attributes=attributes,
                key=id_,
                pick=pick or (),
                files=file or (),
                form=answers or None,
                wait=wait,
                expect=expect,
                progress=run.out.progress("uploading", run.clock.monotonic),
            )
        except Failure as failure:
            _show_what_was_sent(run, failure, awaited=bool(wait or expect), raw=raw)
            raise
        return _record(run, sent, awaited=bool(wait or expect), raw=raw)

    if lines:
        with run.out.listing(chat=True) as add:
            for line in _each_line(run):
                for shown in _shown(run, one(line)):
                    add(shown)
        return
    record = one(_words(run, text or []))
    run.out.spoken(_shown(run, record), record)


def _shown(run: Invocation, record: Record) -> list[Record]:
    """For people the reply is a line of its own; elsewhere it is part of the record."""
    return [record, record["reply"]] if run.out.human and record.get("reply") else [record]


def _record(run: Invocation, sent: Sent, *, awaited: bool, raw: bool) -> Record:
    return sent_record(
        sent.message,
        session=run.client.session_name,
        key=sent.key,
        text=sent.text,
        delivery=sent.delivery,
        reply=sent.reply,
        awaited=awaited,
        raw=raw,
    )


def _show_what_was_sent(run: Invocation, failure: Failure, *, awaited: bool, raw: bool) -> None:
    """The record of a send that failed, or whose reply did not come: its `delivery` is the outcome."""
    sent = getattr(failure, "sent", None)
    if sent is None:
        return
    record = _record(run, sent, awaited=awaited, raw=raw)
    run.out.spoken([record], record)


def _words(run: Invocation, text: list[str]) -> str:
    if text == ["-"]:
        return run.world.read().removesuffix("\n")
    return " ".join(text)


def _each_line(run: Invocation) -> Iterable[str]:
    """The lines of stdin as they come; an empty one is no message."""
    return (line for line in (line.rstrip("\r\n") for line in run.world.lines()) if line.strip())


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise UsageError(f"--id {text!r}: not a UUID", hint="`uuidgen` makes one.") from None
