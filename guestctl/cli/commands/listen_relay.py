"""`listen --relay URL`: print the stream of a relay instead of one's own.

Knows: the reader's key, the cursor of relay ids, which records are printed, when to stop. Must not know: how records
arrive.
"""

from __future__ import annotations

import random
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from guestctl.cli.commands.cursor import line_is_complete, place_of_next_line, regular_file
from guestctl.cli.commands.position_file import PositionFile
from guestctl.cli.invocation import Invocation
from guestctl.core.errors import TimedOut, Unauthorised
from guestctl.core.interrupts import INTERRUPTS
from guestctl.core.model import Secret
from guestctl.output.records import Record
from guestctl.output.writer import ClosedPipe

if TYPE_CHECKING:
    from guestctl.cli.commands.hooks import Hooks
    from guestctl.cli.commands.stop_rules import StopRules


class RecordSelection(Protocol):
    """Which records are printed and passed on, and when the stream stops: the parts of `listen_history.Selection`."""

    kinds: frozenset[str]
    rules: StopRules
    hooks: Hooks | None

    @property
    def counted(self) -> frozenset[str]: ...

    def includes(self, record: Record) -> bool: ...


def listen_to_relay(
    run: Invocation, url: str, selection: RecordSelection, cursor: Path | None, *, forever: bool
) -> None:
    """Print the records of a relay until a stop rule applies.

    Raises TimedOut if --until never matched, the failure of the connection if there never was one, and the failures of
    `RelayReader.records`.
    """
    from guestctl.relay.relay_reader import RelayReader, socket_address
    from guestctl.transport.network import Network

    socket_address(url)
    key, session = _key(run)
    run.redactor.add(key)
    rules = selection.rules
    position = None if cursor is None else RelayCursor(cursor, run.world.stdout, hooked=selection.hooks is not None)
    reader = RelayReader(
        url,
        key,
        after="last" if position is None else position.after or "first",
        kinds=selection.kinds,
        session=session,
        # The profile's certificate authorities and its permission for cleartext are those of the service.
        network=Network(ca=None, environ=run.world.environ),
        clock=run.clock,
        random=random.SystemRandom(),
        forever=forever,
        step=run.options.timeout,
        left=rules.left,
        notice=lambda text: run.out.notice(run.redactor.text(text)),
        observer=run.watcher,
    )
    with ExitStack() as stack:
        if selection.hooks is not None:
            stack.callback(selection.hooks.close)
        records = stack.enter_context(closing(reader.records()))
        stack.enter_context(INTERRUPTS.held())
        connected = False
        for record in records:
            if record is not None:
                _print(run, record, selection, position)
            elif run.out.reader_is_gone():
                raise ClosedPipe
            if reader.connected != connected or reader.lost is not None:
                connected = reader.connected
                rules.attempted(live=reader.lost is None)
            if rules.met():
                break
    if reader.lost is not None and not reader.connected:
        raise reader.lost
    if rules.until is not None and not rules.matched:
        raise TimedOut(f'no message matched "{rules.until.text}"')


def _print(run: Invocation, record: Record, selection: RecordSelection, cursor: RelayCursor | None) -> None:
    """Print a record, pass it on, and store its position."""
    id_ = record.get("relay_id")
    shown = selection.includes(record)
    if shown:
        if cursor is None or id_ is None:
            run.out.event(record)
        elif not cursor.has_line(id_):
            cursor.writing(id_, len(run.out.line(record)))
            run.out.event(record)
        if selection.hooks is not None and selection.hooks.wants(record):
            selection.hooks.pass_on(record)
    if cursor is not None and id_ is not None:
        cursor.written(id_)
    if shown:
        text = record.get("text") if record["kind"] == "message" else None
        with INTERRUPTS.allowed():  # a pattern may be slow
            selection.rules.printed(counts=record["kind"] in selection.counted, text=text)


class RelayCursor:
    """The position in a cursor file: the relay's id of the last record that was written.

    `after` is that id; None means the beginning of the relay's log. Before a line is written, the file gets its id and
    the size that stdout will have, so that a run that was killed in between neither repeats nor loses the line.
    `hooked`: a line alone does not settle its record. Raises UsageError if the file is not such a file or cannot be
    written.
    """

    def __init__(self, path: Path, stdout: IO[Any], *, hooked: bool) -> None:
        self._file = PositionFile(path, "listen --relay URL --cursor")
        self._stdout = regular_file(stdout)
        self._has_line: str | None = None
        self.after: str | None = None
        value = self._file.read()
        if value is not None:
            self._resume(value, hooked)
        self._write()

    def _resume(self, value: dict[str, Any], hooked: bool) -> None:
        after, line = value.get("relay_after", ""), value.get("line")
        if after != "" and isinstance(after, str | None) and isinstance(line, dict | None):
            self.after = after
        else:
            raise self._file.bad("not a cursor file of a relay")
        if line is None:
            return
        id_, place, end = line.get("id"), line.get("place"), line.get("end")
        if not (isinstance(id_, str) and isinstance(place, str) and isinstance(end, int)):
            raise self._file.bad("not a cursor file of a relay")
        if line_is_complete(self._stdout, place, end):
            if hooked:
                self._has_line = id_
            else:
                self.after = id_

    def has_line(self, id_: str) -> bool:
        """Return whether an earlier run has written the line of this record."""
        return id_ == self._has_line

    def writing(self, id_: str, size: int) -> None:
        """Store that a line of `size` bytes for this record is about to be written."""
        if self._stdout is not None:
            place, begin = place_of_next_line(self._stdout)
            self._write({"id": id_, "place": place, "end": begin + size})

    def written(self, id_: str) -> None:
        """Store that the record was written, and passed on."""
        self.after = id_
        self._write()

    def _write(self, line: dict[str, Any] | None = None) -> None:
        self._file.replace({"relay_after": self.after, **({} if line is None else {"line": line})})


def _key(run: Invocation) -> tuple[Secret, str | None]:
    """Return the reader's key, and the session that it belongs to: that of -s, or of the key file.

    Raises Unauthorised (`relay.key`) without a key.
    """
    given = run.world.environ.get("GUESTCTL_RELAY_KEY")
    if given:
        return Secret(given.strip()), run.session_name
    from guestctl.relay.access import AccessKeys, relay_files
    from guestctl.storage.state import State

    session = run.client.session()
    keys = AccessKeys(relay_files(State.directory(run.world.environ), run.client.scope, session.name))
    found = keys.stored("read")
    if found is None:
        raise Unauthorised(f'no key is stored for the relay of the session "{session.name}"', code="relay.key")
    return found, session.name
