"""Changing the profiles file: a profile added, the default chosen, and every other line as it was.

Knows: how a YAML document is changed without touching what people wrote in it, and how a file is replaced
whole or not at all, by one process at a time. Must not know: where the file is looked for, how a value takes
effect (`profiles`).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeAlias

from guestctl.config.profile_keys import GROUPS, KEYS, read_value, unknown_key
from guestctl.config.profiles import SANDBOX, VARIABLE, bad_name, load, validated
from guestctl.core.clock import Clock, Deadline, SystemClock
from guestctl.core.errors import UsageError
from guestctl.core.strict_yaml import MAX_BYTES, PERMISSIONS, parse

#: One thread of this process at a time. Closing any descriptor of the lock file would drop the others' locks.
_TURN = threading.Lock()
#: What YAML 1.1 ends a line at and nobody else does (YAML 1.2 §5.4).
_NO_BREAKS = "\x85\u2028\u2029"


def add(path: Path, name: str, values: Mapping[str, str], clock: Clock | None = None) -> None:
    """Add a profile to the file, made with its directory when absent; everything else in it stays.

    `values` by dotted key (`attributes.plan`, too), as text. Raises UsageError for a name that is
    taken, a wrong value, or a literal client secret: it would have come from the command line.
    """
    if why := bad_name(name):
        raise UsageError(why, code="config.profile")
    tree: dict[str, Any] = {}
    for key, text in values.items():
        if key == "oauth.client_secret" and not VARIABLE.fullmatch(text):
            raise UsageError(
                "oauth.client_secret: a secret is never taken from the command line",
                hint="Give the name of a variable instead: oauth.client_secret='${MY_SECRET}'",
            )
        group, _, inner = key.partition(".")
        if group == "attributes" and inner:
            tree.setdefault(group, {})[inner] = text
            continue
        if key not in KEYS:
            raise UsageError(unknown_key(key), code="usage.option", hint="`guestctl help profiles` lists the keys.")
        value = text if "${" in text and not KEYS[key].tree else read_value(key, text, key, code="usage")
        if group in GROUPS:
            tree.setdefault(group, {})[inner] = text
        else:
            tree[key] = value if KEYS[key].tree else text

    def change(document: MutableMapping[str, Any]) -> None:
        if document.get("profiles") is None:
            document["profiles"] = {}
        document["profiles"][name] = tree

    def check() -> None:
        if os.path.exists(path) and name in load(path).names:
            raise UsageError(
                f"{path} already has a profile {name!r}", code="config.profile", hint="Edit the file, or choose a name."
            )

    _rewrite(path, check, change, clock)


def use(path: Path, name: str, clock: Clock | None = None) -> None:
    """Make a profile the file's default. Raises UsageError when there is no such profile."""

    def check() -> None:
        if os.path.exists(path) or name != SANDBOX:
            file = load(path)
            if name != SANDBOX:
                file.values(name)

    def change(document: MutableMapping[str, Any]) -> None:
        if "default" in document:
            document["default"] = name
        else:
            insert: Callable[[int, str, str], None] = getattr(document, "insert")  # noqa: B009  (ruamel's own)
            insert(0, "default", name)

    _rewrite(path, check, change, clock)


Change: TypeAlias = Callable[[MutableMapping[str, Any]], None]


def _rewrite(path: Path, check: Callable[[], None], change: Change, clock: Clock | None) -> None:
    check()  # report errors of the file even if it cannot be written
    with _alone(path, clock or SystemClock()):
        check()
        _replace(path, _changed(path, change))


def _cannot(path: Path, why: str, hint: str) -> UsageError:
    return UsageError(f"{path}: {why}", code="config.file", hint=hint)


@contextmanager
def _alone(path: Path, clock: Clock) -> Iterator[None]:
    """While the file is read, changed and replaced: two that do so at once would lose what one of them adds."""
    from guestctl.storage.locks import wait_for_lock
    from guestctl.storage.private_files import BUSY_TIMEOUT

    with _TURN:
        target = Path(os.path.realpath(path))  # a link to a file kept elsewhere stays a link
        lock = target.with_name(f".{target.name}.lock")
        try:
            if target.is_symlink():
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            release = wait_for_lock(lambda: _grabbed(lock), Deadline.after(clock, BUSY_TIMEOUT))
        except OSError as error:
            raise _cannot(path, f"{error.strerror} ({lock})", PERMISSIONS) from error
        if release is None:
            raise _cannot(
                path, "another guestctl process is still changing it", "Run this again when that one has ended."
            )
        try:
            yield
        finally:
            release()


def _grabbed(lock: Path) -> Callable[[], None] | None:
    """Try to lock the lock file. Return what releases it, or None if another process has it.

    The holder deletes the file, so a process that opened it earlier has to try again. Our file stays open, so that no
    other file can get its inode number.
    """
    from guestctl.storage.locks import try_lock_path

    with ExitStack() as held:
        ours = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        held.callback(os.close, ours)
        if hasattr(os, "fchmod"):
            os.fchmod(ours, 0o600)  # a umask such as 777 leaves less than asked for
        try:
            unlock = try_lock_path(lock)
        except OSError:
            if _is(lock, ours):
                raise
            return None
        if unlock is None:
            return None
        held.callback(unlock)
        if not _is(lock, ours):
            return None
        held.callback(_removed, lock)
        return held.pop_all().close


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _removed(lock: Path) -> None:
    with suppress(OSError):  # where open files cannot be removed it stays, and does no harm
        os.unlink(lock)


def _changed(path: Path, change: Change) -> str:
    """The file's text with the document changed and nothing else: lines the change does not touch stay byte for
    byte."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    before = path.read_bytes().decode("utf-8-sig") if os.path.exists(path) else ""
    # No lines end there for us, so they must not for the writer.
    free = (character for number in range(0xE000, 0xF900) if (character := chr(number)) not in before)
    aside = {ord(character): next(free) for character in _NO_BREAKS}
    back = {ord(other): chr(character) for character, other in aside.items()}
    writer = YAML()
    writer.preserve_quotes = True
    writer.width = MAX_BYTES
    step = next((len(line) - len(line.lstrip(" ")) for line in _lines(before) if re.match(r" +[^ #]", line)), 2)
    writer.indent(mapping=step, sequence=step + 2, offset=step)

    def dumped(document: Any) -> str:
        from io import StringIO

        stream = StringIO()
        writer.dump(document, stream)
        return stream.getvalue().translate(back)

    try:
        document = writer.load(before.translate(aside))
    except YAMLError as error:  # what one parser lets pass, the other may not
        raise UsageError(f"{path}: {str(error).splitlines()[0]}", code="config.file") from error
    if document is None:  # nothing but comments, which belong to no node
        document, normal = CommentedMap(), before + ("\n" if before and not before.endswith("\n") else "")
        change(document)
        after = normal + dumped(document)
    else:
        normal = dumped(document)
        change(document)
        after = dumped(document)
    text = _merged(before, normal, after)
    wanted = parse(after, str(path))
    try:
        same = parse(text, str(path)).plain() == wanted.plain()
    except UsageError:
        same = False
    validated(wanted, path, exposed=False)
    return text if same else after


def _merged(before: str, normal: str, after: str) -> str:
    """`after`, with every line it shares with `normal` (what the writer makes of `before`) as it was."""
    old, plain, new = (_lines(text) for text in (before, normal, after))
    if len(old) != len(plain):
        return after
    lines: list[str] = []
    for kind, start, end, begin, stop in SequenceMatcher(None, plain, new, autojunk=False).get_opcodes():
        kept = old[start:end] if kind == "equal" else new[begin:stop]
        if lines and kept and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines += kept
    return "".join(lines)


def _lines(text: str) -> list[str]:
    """Lines with their ends, as a YAML file has them: not all that Python takes for one ends a line there."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: temporary file, data to disk, rename, directory to disk."""
    import tempfile

    try:
        target = path.resolve()
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with open(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.chmod(temporary, mode)
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        if hasattr(os, "O_DIRECTORY"):
            directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
    except OSError as error:
        raise _cannot(path, str(error.strerror), PERMISSIONS) from error
