"""`listen`, `history` and `resume`: reading a conversation.

Knows: which events are shown, when to stop. Must not know: how they are fetched, how they look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from guestctl.cli.commands.dry_run import PrintCurl, PrintFrames, printed
from guestctl.cli.commands.stopping import StopRules
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, duration, pattern
from guestctl.core.errors import TimedOut, UsageError
from guestctl.core.model import Connection, Event, Message
from guestctl.output.records import (
    EVENT_KINDS,
    USUAL_KINDS,
    Record,
    event_record,
    message_record,
    resumed_record,
    session_record,
)
from guestctl.output.writer import ClosedPipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from guestctl.cli.commands.cursor import CursorFile
    from guestctl.core.model import Position
    from guestctl.output.transcript import Format

Raw = Annotated[bool, typer.Option("--raw", help="the service's own object too")]


@dataclass
class Shown:
    """What is shown of a stream, until when, and where that is remembered."""

    kinds: frozenset[str]
    rules: StopRules
    raw: bool = False
    cursor: CursorFile | None = None

    @property
    def counted(self) -> frozenset[str]:
        """What --max counts: messages, or any printed line when messages are left out."""
        return frozenset({"message"}) if "message" in self.kinds else self.kinds


@command("guestctl listen --max 1 --for 10", "guestctl listen -o jsonl --until goodbye | jq -r .text")
def listen(
    run: Invocation,
    replay: Annotated[int, typer.Option("--replay", metavar="N", min=0, help="show the last N messages first")] = 0,
    only: Annotated[
        str | None, typer.Option("--only", metavar="KIND,...", help=f"of: {', '.join(EVENT_KINDS)}")
    ] = None,
    max_: Annotated[int | None, typer.Option("--max", metavar="N", min=1, help="stop after N messages")] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="REGEX", help="stop at a message that matches")
    ] = None,
    for_: Annotated[str | None, typer.Option("--for", metavar="TIME", help="stop after this long")] = None,
    idle: Annotated[
        str | None, typer.Option("--idle", metavar="TIME", help="stop after this long without a line")
    ] = None,
    cursor: Annotated[
        Path | None, typer.Option("--cursor", metavar="FILE", help="go on after the last line written")
    ] = None,
    typing: Annotated[bool, typer.Option("--typing", help="typing indicators too")] = False,
    forever: Annotated[bool, typer.Option("--forever", help="never give up reconnecting")] = False,
    raw: Raw = False,
) -> None:
    """Print live messages and events, one line each.

    Reconnects, refreshes, fills gaps, drops doubles, repairs order. Prints what arrives after it has
    attached; earlier messages with --replay or --cursor. Ends with 0 by --max, --idle, --for or a
    match of --until; an unmatched --until exits 9, giving up 8, Ctrl-C 130.
    """
    rules = StopRules(
        run.clock,
        most=max_,
        until=pattern("--until", until),
        longest=None if for_ is None else duration("--for", for_),
        idle=None if idle is None else duration("--idle", idle, zero=False),
    )
    if replay and cursor is not None:
        raise UsageError("--replay and --cursor each say where to begin: give one of them")
    shown = Shown(_kinds(only, typing=typing), rules, raw)
    if until is not None and "message" not in shown.kinds:
        raise UsageError("--until looks at messages, which --only leaves out", hint="Add message to --only.")
    after: Position | None = None
    from_start = False
    if cursor is not None:
        from guestctl.cli.commands.cursor import CursorFile

        session = run.client.session()
        shown.cursor = CursorFile(cursor, run.state, run.client.scope, session, run.world.stdout)
        after = shown.cursor.after
        from_start = after is None
    events = run.client.listen(replay=replay, after=after, from_start=from_start, forever=forever, left=rules.left)
    _follow(run, events, shown)


@command("guestctl history -o jsonl", "guestctl history --last 20 --format md > talk.md")
def history(
    run: Invocation,
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=0, help="only the last N")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME|ID", help="only what came after")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME|ID", help="only up to this")] = None,
    all_: Annotated[bool, typer.Option("--all", help="earlier conversations and events too")] = False,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="a document: md, html or txt")
    ] = None,
    raw: Raw = False,
    print_frames: PrintFrames = False,
    print_curl: PrintCurl = False,
) -> None:
    """Print the current conversation's messages in order, page by page as they come."""
    chosen = _format(run, format_)
    if printed(run, print_frames, print_curl, lambda plan: plan.history()):
        return
    with run.out.paged(), run.out.gathered() as hand_on:
        items = run.client.history(last=last, since=since, until=until, all=all_, waiting=hand_on)
        records = _records(run, items, raw=raw)
        if chosen is not None:
            from guestctl.output.transcript import document

            run.out.mode = "table"
            for piece in document(records, chosen):
                run.out.verbatim(piece)
            return
        with run.out.listing(chat=True) as add:
            for record in records:
                add(record)


def _format(run: Invocation, word: str | None) -> Format | None:
    if word is None:
        return None
    from guestctl.output.transcript import FORMATS

    chosen = next((known for known in FORMATS if known == word), None)
    if chosen is None:
        raise UsageError(f"--format {word!r}: it is one of {', '.join(FORMATS)}")
    if run.options.output is not None:
        raise UsageError("--format makes a document and --output records: give one of them")
    return chosen


@command("guestctl resume -o json | jq .missed", "guestctl resume --on-conflict new --listen")
def resume(
    run: Invocation,
    on_conflict: Annotated[
        str, typer.Option("--on-conflict", metavar="ACTION", help="wait, new or fail", show_default=True)
    ] = "wait",
    listen: Annotated[bool, typer.Option("--listen", help="then go on listening")] = False,
    raw: Raw = False,
) -> None:
    """Re-attach to the stored session: prove it is alive, and say what was missed.

    What was missed is everything since the last line seen; with -o json one object, the session and
    its `missed` messages. With --listen the missed messages begin the stream.
    """
    resumed = run.client.resume(on_conflict=_conflict(on_conflict))
    if not listen and not run.out.human:
        run.out.one(resumed_record(resumed.session, resumed.missed, raw=raw))
        return
    if not listen:
        run.out.one(session_record(resumed.session))
    for message in resumed.missed:
        run.out.event(message_record(message, resumed.session.name, raw=raw))
    if listen:
        seen = run.client.seen_up_to()
        events = run.client.listen(after=seen, from_start=seen is None and resumed.session.new_session)
        _follow(run, events, Shown(USUAL_KINDS, StopRules(run.clock), raw))
    elif not resumed.missed:
        run.out.say("nothing was missed")


def _follow(run: Invocation, events: Generator[Event | None, None, None], shown: Shown) -> None:
    """Print events until a rule ends it. Raises TimedOut when --until was given and never matched, and
    what kept it from connecting when it never was connected."""
    name = run.client.session_name
    lost: Exception | None = None
    live = False
    try:
        for event in events:
            if event is None:
                if run.out.abandoned():
                    raise ClosedPipe
            else:
                record = _record(run, event, name, raw=shown.raw)
                if record["kind"] in shown.kinds:
                    _print(run, event, record, shown)
                elif isinstance(event, Connection):
                    run.out.remark(record)
                if isinstance(event, Connection):
                    live = live or event.state == "live"
                    if event.state == "live" or event.failure is not None:
                        shown.rules.tried(live=event.state == "live")
                    # An attempt that our own end cuts short says less than the one before it.
                    if event.failure is not None and (lost is None or not isinstance(event.failure, TimedOut)):
                        lost = event.failure
            if shown.rules.over():
                events.close()
                break
    except BaseException as error:
        # Told to the stream: what was not printed must not count as seen, and it ends before the state closes.
        events.throw(error)
        raise
    if lost is not None and not live:
        raise lost  # it was never connected: that nothing came means nothing
    if shown.rules.until is not None and not shown.rules.matched:
        raise TimedOut(f"no message matched {shown.rules.until.pattern!r}")


def _print(run: Invocation, event: Event, record: Record, shown: Shown) -> None:
    message = event if isinstance(event, Message) else None
    if message is not None and shown.cursor is not None:
        shown.cursor.writing(message, run.out.size(record))
    run.out.event(record)
    if message is not None and shown.cursor is not None:
        shown.cursor.written(message)
    shown.rules.printed(counts=record["kind"] in shown.counted, text=message.text if message else None)


def _records(run: Invocation, items: Iterator[Event], *, raw: bool) -> Iterator[Record]:
    name = run.client.session_name
    for item in items:
        yield _record(run, item, name, raw=raw)


def _record(run: Invocation, event: Event, session: str, *, raw: bool) -> Record:
    # A message has a time of its own: in a stream of them ours would be made for nothing.
    if isinstance(event, Message):
        return event_record(event, session, at="", raw=raw)
    record = dict(event_record(event, session, at=run.now(), raw=raw))
    for told in ("detail", "reason", "label"):  # a service's words may repeat what we told it
        if record.get(told):
            record[told] = run.masked(record[told])
    return record


def _kinds(only: str | None, *, typing: bool) -> frozenset[str]:
    if only is None:
        return USUAL_KINDS | ({"typing"} if typing else set())
    kinds = frozenset(word.strip() for word in only.split(",") if word.strip())
    unknown = sorted(kinds - set(EVENT_KINDS))
    if unknown or not kinds:
        raise UsageError(f"--only {only!r}: {', '.join(unknown) or 'empty'}; there are {', '.join(EVENT_KINDS)}")
    return kinds | ({"typing"} if typing else set())


def _conflict(word: str) -> Literal["wait", "new", "fail"]:
    for known in ("wait", "new", "fail"):
        if word == known:
            return known
    raise UsageError(f"--on-conflict {word!r}: it is one of wait, new, fail")
