"""`send` and `ask`: send a message and print the outcome or the reply.

Knows: where the text comes from and how the outcome is shown. Must not know: how a message is sent.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from guestctl.cli.commands.dry_run import PrintCurl, PrintFrames, printed
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, duration, pairs, pattern
from guestctl.cli.parameters import CommandArgument, CommandOption, TraceAttribute
from guestctl.core.errors import Failure, UsageError
from guestctl.core.model import Message, Outgoing
from guestctl.output.records import Record, message_record, sent_record

if TYPE_CHECKING:
    from guestctl.core.results import Sent


@command('guestctl ask "opening hours?"', 'guestctl ask --new "hello" --timeout 5')
def ask(
    run: Invocation,
    text: Annotated[list[str], CommandArgument(metavar="TEXT...", help="question to send; - reads it from stdin")],
    new: Annotated[bool, CommandOption("--new", help="start a new session instead of resuming the stored one")] = False,
    first: Annotated[bool, CommandOption("--first", help="print only the first message of the reply")] = False,
    silence: Annotated[
        str | None,
        CommandOption("--silence", metavar="TIME", help="time without a message that ends the reply (default: 500ms)"),
    ] = None,
    raw: Annotated[bool, CommandOption("--raw", help="with -o json, include the service's own object")] = False,
    trace_attribute: TraceAttribute = None,
    print_frames: PrintFrames = False,
    print_curl: PrintCurl = False,
) -> None:
    """Send a question and print only the text of the reply.

    A reply may consist of several messages: it ends when no other message has arrived for 500 ms. A message without
    text is drawn as `send --wait` draws it. With -o json the record is the first message, and the others are its
    `following`.

    By default guestctl resumes the stored session, or creates one if there is none. In a new session it first
    waits up to two seconds for a greeting, which does not count as the reply. Put `--` before text that starts with
    a dash.
    """
    if first and silence is not None:
        raise UsageError("--first and --silence cannot be combined", hint="remove one of them")
    run.trace_attribute = trace_attribute
    pause = None if silence is None else duration("--silence", silence)
    question = _message_text(run, text)
    if printed(run, print_frames, print_curl, lambda plan: plan.ask(Outgoing(str(uuid.uuid4()), question), new=new)):
        return
    client = run.client
    try:
        replies = [client.ask(question, new=new)] if first else client.ask_all(question, new=new, silence=pause)
    except Failure as failure:
        sent: Sent | None = getattr(failure, "sent", None)
        if sent is not None and sent.reply is not None:
            with _outcome_in_failure(f"the question was {_words(sent.delivery)} (--id {sent.key})"):
                _print_replies(run, [sent.reply, *sent.following], raw=raw)
        _name_delivery(failure, "question")
        raise
    with _outcome_in_failure("the question was accepted and answered"):
        _print_replies(run, replies, raw=raw)


def _print_replies(run: Invocation, replies: Sequence[Message], *, raw: bool) -> None:
    """Print the reply to a question: its text, or one record with the later messages in `following`."""
    records = [message_record(reply, run.client.session_name, raw=raw) for reply in replies]
    if run.out.mode in {"auto", "table"}:
        for record in records:
            run.out.reply(record)
    else:
        run.out.one({**records[0], "following": records[1:]})


@command('guestctl send "Where is my parcel?" --wait', "guestctl send --pick 2 --wait")
def send(
    run: Invocation,
    text: Annotated[
        list[str] | None, CommandArgument(metavar="[TEXT... | -]", help="message to send; - reads it from stdin")
    ] = None,
    lines: Annotated[bool, CommandOption("--lines", help="send each line of stdin as one message")] = False,
    cursor: Annotated[
        Path | None,
        CommandOption("--cursor", metavar="FILE", help="with --lines, go on where an interrupted run stopped"),
    ] = None,
    wait: Annotated[bool, CommandOption("--wait", help="wait for the reply and print it too")] = False,
    expect: Annotated[
        str | None, CommandOption("--expect", metavar="REGEX", help="wait for a reply that matches REGEX and print it")
    ] = None,
    attr: Annotated[
        list[str] | None, CommandOption("--attr", metavar="K=V", help="custom attribute of the message")
    ] = None,
    file: Annotated[
        list[Path] | None,
        CommandOption("--file", metavar="PATH", help="file to attach; several files make several messages"),
    ] = None,
    pick: Annotated[
        list[str] | None,
        CommandOption("--pick", metavar="N|PAYLOAD", help="choose an option by its label, payload, place or date"),
    ] = None,
    pick_number: Annotated[
        list[int] | None,
        CommandOption(
            "--pick-number", metavar="N", min=1, help="choose an option by its place, even if a label is a number"
        ),
    ] = None,
    form: Annotated[
        list[str] | None,
        CommandOption("--form", metavar="FIELD=VALUE|FILE", help="field of a form, or a YAML or JSON file of fields"),
    ] = None,
    id_: Annotated[
        str | None,
        CommandOption("--id", metavar="UUID", help="client key of the message, for a safe retry (default: random)"),
    ] = None,
    resend: Annotated[
        bool,
        CommandOption("--resend", help="send a message in doubt again: that with this --id, or the line of --cursor"),
    ] = False,
    raw: Annotated[bool, CommandOption("--raw", help="include the service's own object")] = False,
    trace_attribute: TraceAttribute = None,
    print_frames: PrintFrames = False,
    print_curl: PrintCurl = False,
) -> None:
    """Send one message and wait until the service accepts it.

    --wait and --expect also wait for the reply; the exit code is 9 if none matches before --timeout. Exit code 13
    means that delivery is in doubt: the message may or may not have arrived. Later commands look for it in
    history; only `send --id KEY --resend` sends it again. Put `--` before text that starts with a dash.

    With --lines, Ctrl-C prints how many lines were accepted, and what became of the last one. With --cursor, the
    next run goes on after them. It looks for a line in doubt in history, and sends it again only with --resend.
    """
    if resend and id_ is None and cursor is None:
        raise UsageError("--resend needs the --id of the message", hint="the record of the message has it as `key`")
    if cursor is not None and not lines:
        raise UsageError("--cursor needs --lines", hint="`guestctl send - --lines --cursor FILE < texts`")
    run.trace_attribute = trace_attribute
    attributes, answers = pairs("--attr", attr), _answers(run, form)
    picks = [*(pick or ()), *(pick_number or ())]
    pattern("--expect", expect)
    if not (text or lines or file or picks or form):
        raise UsageError("nothing to send: no text, file, choice or form")
    if lines and text != ["-"]:
        raise UsageError("--lines needs - as the text, because it reads stdin", hint="`… | guestctl send - --lines`")
    if lines and (id_ or file or picks or form):
        raise UsageError(
            "--lines cannot be combined with --id, --file, --pick or --form",
            hint="remove --lines, or send the lines as plain text",
        )
    if id_ is not None:
        id_ = _uuid(id_)

    from guestctl.cli.commands import send_lines  # it needs the transport, which the help of the command does not

    awaited = wait or expect is not None
    files = [run.world.cwd / path for path in file or ()]
    if print_frames or print_curl:
        if picks or answers is not None:
            raise UsageError(
                "--pick and --form cannot be previewed: guestctl must first ask the service for the offer",
                hint="remove --pick and --form, or send the message with --trace FILE",
            )
        texts = list(send_lines.texts(run)) if lines else [_message_text(run, text or [])]
        key = id_ or str(uuid.uuid4())
        outgoing = [Outgoing(key if n == 0 else str(uuid.uuid4()), one, attributes) for n, one in enumerate(texts)]
        printed(run, print_frames, print_curl, lambda plan: plan.send(outgoing, files, awaited=awaited))
        return

    def send_one(message: str, show: Callable[[list[Record]], None], key: str | None = id_) -> None:
        try:
            sent = run.client.send(
                message,
                attributes=attributes,
                key=key,
                pick=picks,
                files=files,
                form=answers,
                wait=wait,
                expect=expect,
                progress=run.out.progress("uploading", run.clock.monotonic),
                resend=resend,
            )
        except Failure as failure:
            outcome = getattr(failure, "sent", None)
            if outcome is not None:
                # The record carries the delivery; a reply that did not arrive is null.
                show(_records(run, outcome, awaited=awaited, raw=raw))
            _name_delivery(failure, "message")
            raise
        show(_records(run, sent, awaited=awaited, raw=raw))

    if not lines and len(files) < 2:
        send_one(_message_text(run, text or []), lambda records: _print_result(run, records[-1]))
        return
    # The record of a failed message is added before the list is closed, so that the JSON stays valid.
    with run.out.listing(conversation=True) as add:
        if not lines:
            send_one(_message_text(run, text or []), lambda records: _add_to_list(run, records, add))
            return
        position = None if cursor is None else send_lines.LineCursor(run.world.cwd / cursor)

        def send_line(message: str, key: str, progress: send_lines.LineProgress) -> None:
            def show(records: list[Record]) -> None:
                progress.hide()
                _add_to_list(run, records, add)

            send_one(message, show, key)

        send_lines.send_lines(run, position, send_line)


def _print_result(run: Invocation, record: Record) -> None:
    """Print the outcome of a single message."""
    with _outcome_in_failure(_outcome_of(record)):
        run.out.one_as_lines(_shown(run, record), record)


def _add_to_list(run: Invocation, records: list[Record], add: Callable[[Record], None]) -> None:
    """Add the outcome of one text to a list: one record per message, since each file is a message."""
    with _outcome_in_failure(_outcome_of(records[-1])):
        for record in records:
            for shown in _shown(run, record):
                add(shown)


def _name_delivery(failure: Failure, what: str) -> None:
    """Add to a failure that the message was accepted nevertheless."""
    sent: Sent | None = getattr(failure, "sent", None)
    if sent is not None and sent.delivery == "accepted":
        failure.message += f"; the {what} was accepted (--id {sent.key})"


@contextmanager
def _outcome_in_failure(outcome: str) -> Iterator[None]:
    """Add the outcome to the failure when stdout cannot be written, because what has it is lost then."""
    try:
        yield
    except UsageError as failure:
        if failure.code == "output.failed":
            failure.message += f"; {outcome}"
        raise


def _outcome_of(record: Record) -> str:
    return f"the message was {_words(record['delivery'])} (--id {record['key']})"


def _words(delivery: str) -> str:
    return delivery.replace("_", " ")


def _shown(run: Invocation, record: Record) -> list[Record]:
    """Return the lines for a record: on a terminal the reply is a line of its own."""
    return [record, record["reply"]] if run.out.human and record.get("reply") else [record]


def _records(run: Invocation, sent: Sent, *, awaited: bool, raw: bool) -> list[Record]:
    """Return one record per message: those accepted earlier in this call, then the last one."""
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
    """Return the fields of `--form`, from FIELD=VALUE words and from files. A repeated field has several values."""
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
    """Yield each field and value of a form file, as written. Raises UsageError naming the line that is wrong."""
    from guestctl.core.strict_yaml import read

    located = read(path)
    if not isinstance(located.value, Mapping):
        raise UsageError(
            f"--form: {path}: expected FIELD: VALUE lines",
            hint="write one FIELD: VALUE per line, or use --form FIELD=VALUE",
        )
    for field, member in located.value.items():
        values = [member] if member.text is not None else member.value
        for one in values if isinstance(values, list) else [member]:
            if one.text is None:
                raise UsageError(f"--form: {path}:{member.line}: {field}: expected a value or a list of values")
            if one.value is not None:
                yield field, one.text


def _message_text(run: Invocation, text: list[str]) -> str:
    """Return the text to send. The line end that closes stdin is not part of it."""
    if text == ["-"]:
        given = run.world.read()
        return given.removesuffix("\r\n" if given.endswith("\r\n") else "\n")
    return " ".join(text)


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise UsageError(f'--id "{text}": not a UUID', hint="create one with `uuidgen`") from None
