"""`send` and `ask`: saying something, and hearing the answer.

Knows: where the words come from and what is shown of the outcome. Must not know: how anything is sent.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guestctl.cli.commands.dry_run import PrintCurl, PrintFrames, printed
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, pairs, pattern
from guestctl.core.errors import Failure, UsageError
from guestctl.core.model import Outgoing
from guestctl.output.records import Record, message_record, sent_record

if TYPE_CHECKING:
    from guestctl.core.results import Sent


@command('guestctl ask "opening hours?"', 'guestctl ask --new "hello" --timeout 5')
def ask(
    run: Invocation,
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="the question; - reads stdin")],
    new: Annotated[bool, typer.Option("--new", help="start a new session first")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="with -o json: the service's own object too")] = False,
    print_frames: PrintFrames = False,
    print_curl: PrintCurl = False,
) -> None:
    """Send a question and print only the reply's text.

    The stored session is resumed; one is created when there is none, or always with --new. What greets
    a guest who has just joined is no reply: it is waited for, two seconds at most. Text that begins
    with a dash goes behind `--`.
    """
    words = _words(run, text)
    if printed(run, print_frames, print_curl, lambda plan: plan.ask(Outgoing(str(uuid.uuid4()), words), new=new)):
        return
    reply = run.client.ask(words, new=new)
    if run.out.mode in {"auto", "table"}:
        run.out.text(reply.text)
    else:
        run.out.one(message_record(reply, run.client.session_name, raw=raw))


@command('guestctl send "Where is my parcel?" --wait', "guestctl send --pick 2 --wait")
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
    file: Annotated[
        list[Path] | None, typer.Option("--file", metavar="PATH", help="attach a file; several make several messages")
    ] = None,
    pick: Annotated[
        list[str] | None,
        typer.Option("--pick", metavar="N|PAYLOAD", help="answer with what is offered: number, label, payload, date"),
    ] = None,
    form: Annotated[
        list[str] | None,
        typer.Option("--form", metavar="FIELD=VALUE|FILE", help="fill in a form, from a YAML or JSON file too"),
    ] = None,
    id_: Annotated[
        str | None, typer.Option("--id", metavar="UUID", help="the message's own id, to repeat it safely")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="the service's own object too")] = False,
    print_frames: PrintFrames = False,
    print_curl: PrintCurl = False,
) -> None:
    """Send one message and return when the service has accepted it.

    Exit 13 means in doubt: the next run settles it. With --wait or --expect the reply is awaited; no
    match before --timeout exits 9. Text that begins with a dash goes behind `--`.
    """
    attributes, answers = pairs("--attr", attr), _answers(run, form)
    pattern("--expect", expect)
    if lines and text != ["-"]:
        raise UsageError("--lines reads stdin: give - as the text", hint="`… | guestctl send - --lines`")
    if lines and (id_ or file or pick or form):
        raise UsageError("--lines goes with neither --id, --file, --pick nor --form")
    if id_ is not None:
        id_ = _uuid(id_)

    awaited = wait or expect is not None
    files = [run.world.cwd / path for path in file or ()]
    if print_frames or print_curl:
        if pick or answers is not None:
            raise UsageError("what --pick and --form answer is looked up first: it cannot be shown without asking")
        said = list(_each_line(run)) if lines else [_words(run, text or [])]
        key = id_ or str(uuid.uuid4())
        outgoing = [Outgoing(key if n == 0 else str(uuid.uuid4()), words, attributes) for n, words in enumerate(said)]
        printed(run, print_frames, print_curl, lambda plan: plan.send(outgoing, files, awaited=awaited))
        return

    def one(words: str, tell: Callable[[list[Record]], None]) -> None:
        try:
            sent = run.client.send(
                words,
                attributes=attributes,
                key=id_,
                pick=pick or (),
                files=files,
                form=answers,
                wait=wait,
                expect=expect,
                progress=run.out.progress("uploading", run.clock.monotonic),
            )
        except Failure as failure:
            became = getattr(failure, "sent", None)
            if became is not None:
                # Its `delivery` is the outcome; a reply that did not come is null.
                tell(_records(run, became, awaited=awaited, raw=raw))
            raise
        tell(_records(run, sent, awaited=awaited, raw=raw))

    if not lines and len(files) < 2:
        one(_words(run, text or []), lambda records: _tell(run, records[-1]))
        return
    # The record of a text that fails is added like the others, before the list is closed: it stays valid.
    with run.out.listing(chat=True) as add:
        for words in _each_line(run) if lines else [_words(run, text or [])]:
            one(words, lambda records: _add(run, records, add))


def _tell(run: Invocation, record: Record) -> None:
    """A single result."""
    with _settled(record):
        run.out.spoken(_shown(run, record), record)


def _add(run: Invocation, records: list[Record], add: Callable[[Record], None]) -> None:
    """What became of one more text of a list: several records where it came with several files."""
    with _settled(records[-1]):
        for record in records:
            for shown in _shown(run, record):
                add(shown)


@contextmanager
def _settled(record: Record) -> Iterator[None]:
    """What became of the message is told with the failure, where stdout takes nothing any more."""
    try:
        yield
    except UsageError as failure:
        if failure.code == "output.failed":
            failure.message += f"; the message was {record['delivery'].replace('_', ' ')} (--id {record['key']})"
        raise


def _shown(run: Invocation, record: Record) -> list[Record]:
    """For people the reply is a line of its own; elsewhere it is part of the record."""
    return [record, record["reply"]] if run.out.human and record.get("reply") else [record]


def _records(run: Invocation, sent: Sent, *, awaited: bool, raw: bool) -> list[Record]:
    """What became of each message: those accepted before it, then the one that was sent last."""
    name = run.client.session_name
    records = [
        sent_record(message, session=name, key=message.key or "", text=message.text, delivery="accepted", raw=raw)
        for message in sent.earlier
    ]
    last = sent_record(
        sent.message,
        session=name,
        key=sent.key,
        text=sent.text,
        delivery=sent.delivery,
        reply=sent.reply,
        awaited=awaited,
        raw=raw,
    )
    return [*records, last]


def _answers(run: Invocation, words: list[str] | None) -> dict[str, list[str]] | None:
    """What `--form` says: FIELD=VALUE words, and files that hold as much; a field given again has several values."""
    if words is None:
        return None
    found: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        given = [(key, value)] if equals and key and "/" not in key else _form_file(run.world.cwd / word)
        for field, one in given:
            found.setdefault(field, []).append(one)
    return found


def _form_file(path: Path) -> Iterator[tuple[str, str]]:
    """Fields and their values, one by one, as written. Raises UsageError saying where the file is wrong."""
    from guestctl.core.strict_yaml import read

    located = read(path)
    if not isinstance(located.value, Mapping):
        raise UsageError(
            f"--form: {path}: expected FIELD: VALUE lines", hint="Or give FIELD=VALUE on the command line."
        )
    for field, member in located.value.items():
        values = [member] if member.text is not None else member.value
        for one in values if isinstance(values, list) else [member]:
            if one.text is None:
                raise UsageError(f"--form: {path}:{member.line}: {field}: expected a value, or a list of values")
            if one.value is not None:
                yield field, one.text


def _words(run: Invocation, text: list[str]) -> str:
    if text == ["-"]:
        words = run.world.read()
        return words.removesuffix("\r\n" if words.endswith("\r\n") else "\n")
    return " ".join(text)


def _each_line(run: Invocation) -> Iterable[str]:
    """The lines of stdin as they come; an empty one is no message."""
    return (line for line in (line.rstrip("\r\n") for line in run.world.lines()) if line.strip())


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise UsageError(f"--id {text!r}: not a UUID", hint="`uuidgen` makes one.") from None
