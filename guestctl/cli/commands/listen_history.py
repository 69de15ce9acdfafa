"""`listen`, `history` and `resume`: print a conversation.

Knows: which events are printed, and when to stop. Must not know: how they are fetched or drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from guestctl.cli.commands.dry_run import PrintCurl, PrintFrames, printed
from guestctl.cli.commands.stop_rules import StopRules
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, duration, moment, pattern
from guestctl.cli.parameters import CommandOption
from guestctl.core.errors import TimedOut, UsageError
from guestctl.core.interrupts import INTERRUPTS
from guestctl.core.model import Connection, Event, Gap, Message
from guestctl.output.batches import print_together
from guestctl.output.records import (
    EVENT_KINDS,
    USUAL_KINDS,
    Record,
    resumed_record,
    session_record,
    stream_record,
)
from guestctl.output.writer import ClosedPipe

if TYPE_CHECKING:
    from guestctl.cli.commands.cursor import CursorFile
    from guestctl.cli.commands.hooks import Hooks
    from guestctl.core.model import Position
    from guestctl.engine.listener import EventStream
    from guestctl.output.transcript import Format

Raw = Annotated[bool, CommandOption("--raw", help="include the service's own object")]


@dataclass
class Selection:
    """Which records of a stream are printed and passed on, when it stops, and where the position is stored.

    `roles`: the senders whose records are printed, None: all.
    """

    kinds: frozenset[str]
    rules: StopRules
    raw: bool = False
    cursor: CursorFile | None = None
    roles: frozenset[str] | None = None
    hooks: Hooks | None = None
    #: The last event whose line was printed, and the last one that the hooks have received, too.
    printed: Event | None = None
    completed: Event | None = None

    def includes(self, record: Record) -> bool:
        """Return whether the record is printed."""
        if record["kind"] not in self.kinds:
            return False
        if self.roles is None:
            return True
        from guestctl.cli.commands.hooks import comes_from

        return comes_from(record, self.roles)

    @property
    def only_prints(self) -> bool:
        """Whether nothing but its line depends on an event, so that several lines can be written at once."""
        return self.cursor is None and self.hooks is None and self.rules.until is None

    @property
    def counted(self) -> frozenset[str]:
        """The record kinds that --max counts: messages, or every printed kind when --only leaves messages out."""
        return frozenset({"message"}) if "message" in self.kinds else self.kinds


@command("guestctl listen --max 1 --for 10", "guestctl listen -o jsonl --until goodbye | jq -r .text")
def listen(
    run: Invocation,
    replay: Annotated[int, CommandOption("--replay", metavar="N", min=0, help="print the last N messages first")] = 0,
    only: Annotated[
        str | None,
        CommandOption(
            "--only",
            metavar="KIND,...",
            help=f"kinds to print, of {', '.join(EVENT_KINDS)} (default: all but typing and connection)",
            completes="event",
        ),
    ] = None,
    max_: Annotated[int | None, CommandOption("--max", metavar="N", min=1, help="stop after N messages")] = None,
    until: Annotated[
        str | None, CommandOption("--until", metavar="REGEX", help="stop at a message that matches REGEX")
    ] = None,
    for_: Annotated[str | None, CommandOption("--for", metavar="TIME", help="stop after TIME")] = None,
    idle: Annotated[
        str | None, CommandOption("--idle", metavar="TIME", help="stop after TIME without a printed line")
    ] = None,
    cursor: Annotated[
        Path | None,
        CommandOption(
            "--cursor", metavar="FILE", help="continue after the last message written; FILE stores the position"
        ),
    ] = None,
    typing: Annotated[bool, CommandOption("--typing", help="print typing indicators too")] = False,
    from_: Annotated[
        str | None,
        CommandOption(
            "--from",
            metavar="SENDER,...",
            help="print only records of these senders: bot, agent, guest",
            completes=("bot", "agent", "guest"),
        ),
    ] = None,
    exec_: Annotated[
        str | None,
        CommandOption("--exec", metavar="CMD", help="run CMD for each record, without a shell; the text is its stdin"),
    ] = None,
    forward_to: Annotated[
        str | None,
        CommandOption(
            "--forward-to", metavar="URL", help="post each record to URL as JSON, signed, until it answers 2xx"
        ),
    ] = None,
    forever: Annotated[bool, CommandOption("--forever", help="reconnect without a limit")] = False,
    relay: Annotated[
        str | None,
        CommandOption("--relay", metavar="URL", help="read from a `guestctl relay serve` instead of the service"),
    ] = None,
    raw: Raw = False,
) -> None:
    """Print live messages and events, one line each.

    By default guestctl prints what arrives from now on, until Ctrl-C. It reconnects, renews the token, fills gaps,
    removes duplicates and restores order. The exit code is 0 when --max, --idle, --for or a match of --until ends
    the stream, 9 when --until never matched, 8 when reconnecting failed, and 130 after Ctrl-C.

    --exec runs a command, and --forward-to posts to a URL, for each printed record except the guest's own; --from
    guest,bot,agent includes those. A command that fails is reported, and listening continues. A post that fails after
    all retries ends listening. With --cursor, a message counts as written only after both, so that the next run passes
    it on again. GUESTCTL_FORWARD_SECRET is the secret that signs each post.

    --relay reads the same records from a relay, which must be on this machine or have TLS. GUESTCTL_RELAY_KEY is its
    key; by default it is the stored one of the session. --cursor then stores the relay's id of the last record.
    """
    rules = StopRules(
        run.clock,
        most=max_,
        until=pattern("--until", until),
        longest=None if for_ is None else duration("--for", for_),
        idle=None if idle is None else duration("--idle", idle, zero=False),
    )
    if replay and cursor is not None:
        raise UsageError("--replay and --cursor both set where to start", hint="use one of them")
    selection = Selection(_kinds(only, typing=typing), rules, raw)
    if until is not None and "message" not in selection.kinds:
        raise UsageError("--until matches messages, but --only leaves them out", hint="add message to --only")
    if from_ is not None or exec_ is not None or forward_to is not None:
        from guestctl.cli.commands.hooks import Hooks, roles

        selection.roles = roles(from_)
        if exec_ is not None or forward_to is not None:
            selection.hooks = Hooks(run, exec_, forward_to, own=selection.roles is not None)
    if relay is not None:
        for option, given in (("--replay", replay), ("--raw", raw)):
            if given:
                hint = "leave it out; a new --cursor FILE starts with the oldest event of the relay"
                raise UsageError(f"{option} and --relay cannot be combined", hint=hint)
        from guestctl.cli.commands.listen_relay import listen_to_relay

        listen_to_relay(run, relay, selection, cursor, forever=forever)
        return
    after: Position | None = None
    from_start = False
    if cursor is not None:
        from guestctl.cli.commands.cursor import CursorFile

        session = run.client.session()
        selection.cursor = CursorFile(
            cursor, run.state, run.client.scope, session, run.world.stdout, hooked=selection.hooks is not None
        )
        after = selection.cursor.after
        from_start = after is None
    events = run.client.listen(
        replay=replay, after=after, from_start=from_start, forever=forever, shared=True, left=rules.left
    )
    with ExitStack() as stack:
        if selection.hooks is not None:
            stack.callback(selection.hooks.close)
        _print_stream(run, events, selection)


@command("guestctl history -o jsonl", "guestctl history --last 20 --format md > chat.md")
def history(
    run: Invocation,
    last: Annotated[
        int | None, CommandOption("--last", metavar="N", min=0, help="print only the last N messages")
    ] = None,
    since: Annotated[
        str | None,
        CommandOption(
            "--since", metavar="TIME|ID", help="print only messages after this time, 5m ago (--since 5m) or message id"
        ),
    ] = None,
    until: Annotated[
        str | None,
        CommandOption("--until", metavar="TIME|ID", help="print only messages up to this time, 5m ago or message id"),
    ] = None,
    all_: Annotated[bool, CommandOption("--all", help="include earlier conversations and events")] = False,
    format_: Annotated[
        str | None,
        CommandOption(
            "--format", metavar="FORMAT", help="print a document: md, html or txt", completes=("md", "html", "txt")
        ),
    ] = None,
    raw: Raw = False,
    print_frames: PrintFrames = False,
    print_curl: PrintCurl = False,
) -> None:
    """Print the messages of the current conversation in order.

    Each page is printed as soon as it arrives. A time is written 2026-03-09T12:00:00Z, or as the time before now with
    its unit: 90s, 5m, 1.5h or 2d.
    """
    chosen = _format(run, format_)
    if raw and run.out.mode == "csv":
        raise UsageError("--raw has no column in CSV", hint="use -o json or -o jsonl")
    since, until = (None if given is None else moment(given, run.clock.now()) for given in (since, until))
    if printed(run, print_frames, print_curl, lambda plan: plan.history()):
        return
    run.out.usual_sources = frozenset({"history"})
    with run.out.paged(), run.out.gathered() as hand_on:
        items = run.client.history(last=last, since=since, until=until, all=all_, waiting=hand_on)
        records = _records(run, items, raw=raw)
        if chosen is not None:
            from guestctl.output.transcript import document

            run.out.mode = "table"
            for piece in document(records, chosen):
                run.out.verbatim(piece)
            return
        with run.out.listing(conversation=True, header=True, kind="message") as add:
            empty = True
            for record in records:
                add(record)
                empty = False
        if empty and run.out.human:
            run.out.notice("the conversation has no messages")


def _format(run: Invocation, word: str | None) -> Format | None:
    if word is None:
        return None
    from guestctl.output.transcript import FORMATS

    chosen = next((known for known in FORMATS if known == word), None)
    if chosen is None:
        raise UsageError(f'--format: no format "{word}"', hint=f"available formats: {', '.join(FORMATS)}")
    if run.options.output is not None:
        raise UsageError("--format prints a document and --output prints records", hint="use one of them")
    return chosen


@command("guestctl resume -o json | jq .missed", "guestctl resume --on-conflict new --listen")
def resume(
    run: Invocation,
    on_conflict: Annotated[
        str,
        CommandOption(
            "--on-conflict",
            metavar="ACTION",
            help="if the session is locked: wait, fail, or create a new one",
            completes=("wait", "new", "fail"),
        ),
    ] = "wait",
    listen: Annotated[bool, CommandOption("--listen", help="keep listening afterwards")] = False,
    raw: Raw = False,
) -> None:
    """Attach to the stored session again and print the missed messages.

    A missed message arrived after the last one that guestctl printed. With -o json the output is one object: the
    session and its `missed` messages. With --listen the stream starts with the missed messages.
    """
    resumed = run.client.resume(on_conflict=_conflict(on_conflict))
    missed = (_record(run, event, resumed.session.name, raw=raw) for event in resumed.missed)
    if listen:
        for record in missed:
            run.out.event(record)
        seen = run.client.seen_up_to()
        events = run.client.listen(after=seen, from_start=seen is None and resumed.session.new_session, shared=True)
        _print_stream(run, events, Selection(USUAL_KINDS, StopRules(run.clock), raw))
        return
    if not run.out.human:
        run.out.one(resumed_record(resumed.session, missed))
        return
    run.out.usual_sources = frozenset({"replayed"})
    run.out.one(session_record(resumed.session))
    run.out.verbatim("\n" if resumed.missed else "")
    with run.out.listing(conversation=True, header=True) as add:
        for record in missed:
            add(record)
    if not resumed.missed:
        run.out.notice("no missed messages")


class _NotShownError(Exception):
    """Ends a stream at an event that was not printed or not passed on."""


def _print_stream(run: Invocation, events: EventStream, selection: Selection) -> None:
    """Print events until a stop rule applies, then those that were received and waited for their place.

    Raises TimedOut if --until never matched, and the connection's failure if guestctl never connected. A signal ends
    the stream where it waits, so that no message is lost between its arrival and its line.
    """
    name = run.client.session_name
    rules = selection.rules
    rules.holds = lambda: events.holds_messages
    with INTERRUPTS.held():
        lost = _print_events(run, events, name, selection)
    if lost is not None:
        raise lost  # guestctl never connected, so the lack of a match proves nothing
    if rules.until is not None and not rules.matched:
        raise TimedOut(f'no message matched "{rules.until.text}"')


def _print_events(run: Invocation, events: EventStream, name: str, selection: Selection) -> Exception | None:
    """Print the stream. Return the connection's failure if guestctl never connected."""
    rules = selection.rules
    lost: Exception | None = None
    live = False
    event: Event | None = None
    try:
        for event in events:
            if event is None:
                if run.out.reader_is_gone():
                    raise ClosedPipe
            elif selection.only_prints and not isinstance(event, Connection):
                _print_ready(run, events, event, name, selection)
            else:
                _print_selected(run, event, name, selection)
                if isinstance(event, Connection):
                    live = live or event.state == "live"
                    if event.state == "live" or event.failure is not None:
                        rules.attempted(live=event.state == "live")
                    # Keep the most specific failure: a timeout, which --for causes too, never replaces another cause.
                    if event.failure is not None and (lost is None or not isinstance(event.failure, TimedOut)):
                        lost = event.failure
            if rules.met():
                break
        _print_rest(run, events, name, selection)
    except BaseException as error:
        # The stream must not count unprinted messages as shown, and it must end before the state closes.
        if event is not None and event is selection.completed:
            events.close()
        elif not isinstance(error, Exception) and event is not selection.printed:
            with suppress(type(error)):  # a signal: the event is the first of the rest
                events.throw(error)
        else:  # the stream would take a Failure for its own, and go on with what waits
            with suppress(_NotShownError):
                events.throw(_NotShownError())
        selection.hooks = None  # the rest is printed only: passing it on would skip the record that failed
        # With a cursor, the next run finds what waits, and also the line whose writing was interrupted here.
        interrupted = selection.cursor is not None
        if not interrupted and not isinstance(error, ClosedPipe) and getattr(error, "code", None) != "output.failed":
            _print_rest(run, events, name, selection)
        raise
    return None if live else lost


def _print_rest(run: Invocation, events: EventStream, name: str, selection: Selection) -> None:
    """Print what was received and waited for its place. After --max or --until, only a gap is printed.

    With --cursor, nothing is printed after a gap: the next run continues before it, and finds what was missing.
    """
    with closing(events.rest(gaps_only=selection.rules.satisfied)) as rest:
        for event in rest:
            _print_selected(run, event, name, selection)
            if selection.rules.satisfied and isinstance(event, Message):
                break
            if selection.cursor is not None and isinstance(event, Gap):
                break


def _print_ready(run: Invocation, events: EventStream, first: Event, name: str, selection: Selection) -> None:
    """Print an event and those that follow it without waiting, with as few writes as possible."""
    rules, counted = selection.rules, selection.counted
    room = rules.room

    def selected() -> Iterator[tuple[tuple[Event, int], Record]]:
        event: Event | None = first
        count = 0
        while event is not None:
            record = _record(run, event, name, raw=selection.raw)
            if selection.includes(record):
                count += record["kind"] in counted
                yield (event, count), record
            event = events.take_ready() if count < room and not rules.met() else None

    before = 0
    for event, count in print_together(run.out, selected()):
        events.shown(event)
        rules.printed(counts=count - before)
        before = count
    selection.printed = selection.completed = first


def _print_selected(run: Invocation, event: Event, name: str, selection: Selection) -> None:
    record = _record(run, event, name, raw=selection.raw)
    if selection.includes(record):
        _print(run, event, record, selection)
    elif isinstance(event, Connection):
        run.out.event_notice(record)


def _print(run: Invocation, event: Event, record: Record, selection: Selection) -> None:
    message = event if isinstance(event, Message) else None
    cursor = selection.cursor if message is not None else None
    if message is None or cursor is None:
        run.out.event(record)
    elif not cursor.has_line(message):
        cursor.writing(message, len(run.out.line(record)))
        run.out.event(record)
    selection.printed = event
    if selection.hooks is not None and selection.hooks.wants(record):
        if message is not None and cursor is not None:
            cursor.before_hooks(message)
        selection.hooks.pass_on(record)
    if message is not None and cursor is not None:
        cursor.written(message)
    selection.completed = event
    with INTERRUPTS.allowed():  # a pattern may be slow
        selection.rules.printed(counts=record["kind"] in selection.counted, text=message.text if message else None)


def _records(run: Invocation, items: Iterator[Event], *, raw: bool) -> Iterator[Record]:
    name = run.client.session_name
    for item in items:
        yield _record(run, item, name, raw=raw)


def _record(run: Invocation, event: Event, session: str, *, raw: bool) -> Record:
    return stream_record(event, session, now=run.now, masked=run.masked, raw=raw)


def _kinds(only: str | None, *, typing: bool) -> frozenset[str]:
    if only is None:
        return USUAL_KINDS | ({"typing"} if typing else set())
    kinds = frozenset(word.strip() for word in only.split(",") if word.strip())
    unknown = sorted(kinds - set(EVENT_KINDS))
    if unknown or not kinds:
        what = f'no kind "{", ".join(unknown)}"' if unknown else "no kind named"
        raise UsageError(f"--only: {what}", hint=f"available kinds: {', '.join(EVENT_KINDS)}")
    return kinds | ({"typing"} if typing else set())


def _conflict(word: str) -> Literal["wait", "new", "fail"]:
    for known in ("wait", "new", "fail"):
        if word == known:
            return known
    raise UsageError(f'--on-conflict: no action "{word}"', hint="available actions: wait, new, fail")
