"""Changes to the profile file: add a profile, set the default, and leave every other line as it is.

Knows: how to change a YAML document without reformatting it, and how to replace a file atomically, by one process
at a time. Must not know: how the file is found, the precedence of values (`profiles`).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeAlias

from guestctl.config.profile_keys import GROUPS, KEYS, read_value, unknown_key
from guestctl.config.profiles import SANDBOX, VARIABLE, bad_name, load, validated
from guestctl.config.trust import digest_of, is_trusted, record
from guestctl.core.clock import Clock, Deadline, SystemClock
from guestctl.core.errors import UsageError
from guestctl.core.strict_yaml import MAX_BYTES, PERMISSIONS, parse

#: Admits one thread of this process: closing a descriptor of the lock file would release other threads' locks.
_THREAD_LOCK = threading.Lock()
#: Characters that end a line in YAML 1.1 only (YAML 1.2 §5.4).
_NO_BREAKS = "\x85\u2028\u2029"


def add(
    path: Path,
    name: str,
    values: Mapping[str, str],
    clock: Clock | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Add a profile to the file and leave everything else in it unchanged. Creates the file and its directory.

    A file that was trusted, or did not exist, is trusted after the change.

    `values` maps dotted keys, including `attributes.plan`, to text. Raises UsageError for a name that exists, an
    invalid value, and a literal client secret, because other users can read command lines.
    """
    if why := bad_name(name):
        raise UsageError(why, code="config.profile")
    tree: dict[str, Any] = {}
    for key, text in values.items():
        if key == "oauth.client_secret" and not VARIABLE.fullmatch(text):
            raise UsageError(
                "oauth.client_secret: a secret is not accepted on the command line",
                hint="name a variable instead: oauth.client_secret='${MY_SECRET}'",
            )
        group, _, inner = key.partition(".")
        if group == "attributes" and inner:
            tree.setdefault(group, {})[inner] = text
            continue
        if key not in KEYS:
            raise UsageError(unknown_key(key), code="usage.option", hint="`guestctl help profiles` lists the keys")
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
                f'profile "{name}" already exists in {path}',
                code="config.profile",
                hint="edit the file, or choose another name",
            )

    _rewrite(path, check, change, clock, environ)


def use(path: Path, name: str, clock: Clock | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Make a profile the default of the file, which stays trusted. Raises UsageError for an unknown profile."""

    def check() -> None:
        if os.path.exists(path) or name != SANDBOX:
            file = load(path)
            if name != SANDBOX:
                file.values(name)

    def change(document: MutableMapping[str, Any]) -> None:
        if "default" in document:
            document["default"] = name
        else:
            insert: Callable[[int, str, str], None] = getattr(document, "insert")  # noqa: B009  (a method of ruamel.yaml only)
            insert(0, "default", name)

    _rewrite(path, check, change, clock, environ)


Change: TypeAlias = Callable[[MutableMapping[str, Any]], None]


def _rewrite(
    path: Path, check: Callable[[], None], change: Change, clock: Clock | None, environ: Mapping[str, str]
) -> None:
    check()  # report a wrong request even if the file cannot be written
    with _locked(path, clock or SystemClock()):
        check()
        trusted = not os.path.exists(path) or is_trusted(load(path).digest, environ)
        text = _changed(path, change)
        _replace(path, text)
        if trusted:
            with suppress(UsageError):  # the change is done; the next command asks for trust
                record(digest_of(text.encode()), environ)


def _cannot(path: Path, why: str, hint: str) -> UsageError:
    return UsageError(f"{path}: {why}", code="config.file", hint=hint)


@contextmanager
def _locked(path: Path, clock: Clock) -> Iterator[None]:
    """Lock the file while it is read, changed and replaced. Without the lock, one of two changes could be lost."""
    from guestctl.storage.locks import wait_for_lock
    from guestctl.storage.private_files import BUSY_TIMEOUT

    with _THREAD_LOCK:
        target = Path(os.path.realpath(path))  # a symbolic link stays a link
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
                path, "another guestctl process is changing the file", "repeat the command when that process has ended"
            )
        try:
            yield
        finally:
            release()


def _grabbed(lock: Path) -> Callable[[], None] | None:
    """Try to lock the lock file and return the function that unlocks it, or None if it is not free.

    The holder removes the lock file at the end. A process that opened the file before holds a deleted file and must
    try again. This process keeps its descriptor open, so that no other file can get the same inode number.
    """
    from guestctl.storage.locks import try_lock_path

    with ExitStack() as held:
        ours = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        held.callback(os.close, ours)
        if hasattr(os, "fchmod"):
            os.fchmod(ours, 0o600)  # a umask such as 777 removes even the owner's permissions
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
    with suppress(OSError):  # Windows cannot remove an open file; it may stay
        os.unlink(lock)


def _changed(path: Path, change: Change) -> str:
    """Return the text of the file after the change. Lines that the change does not concern stay identical."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    before = path.read_bytes().decode("utf-8-sig") if os.path.exists(path) else ""
    # Hide the characters that end a line only for the YAML writer.
    free = (character for number in range(0xE000, 0xF900) if (character := chr(number)) not in before)
    aside = {ord(character): next(free) for character in _NO_BREAKS}
    back = {ord(other): chr(character) for character, other in aside.items()}
    writer = YAML()
    writer.preserve_quotes = True
    writer.width = MAX_BYTES
    writer.composer.warn_double_anchors = False  # an alias means the last anchor of its name
    step = next((len(line) - len(line.lstrip(" ")) for line in _lines(before) if re.match(r" +[^ #]", line)), 2)
    writer.indent(mapping=step, sequence=step + 2, offset=step)

    def dumped(document: Any) -> str:
        from io import StringIO

        stream = StringIO()
        writer.dump(document, stream)
        return stream.getvalue().translate(back)

    try:
        document = writer.load(before.translate(aside))
    except YAMLError as error:  # the two YAML parsers may disagree
        raise UsageError(f"{path}: {str(error).splitlines()[0]}", code="config.file") from error
    if document is None:  # only comments, which belong to no node
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
    """Return `after`, with the lines that it shares with `normal` (the writer's form of `before`) as in `before`."""
    old, plain, new = (_lines(text) for text in (before, normal, after))
    place = _places(old, plain)
    lines: list[str] = []
    for kind, start, end, begin, stop in SequenceMatcher(None, plain, new, autojunk=False).get_opcodes():
        kept = old[place[start] : place[end]] if kind == "equal" else new[begin:stop]
        if lines and kept and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines += kept
    return "".join(lines)


def _places(old: Sequence[str], plain: Sequence[str]) -> list[int]:
    """Return for each line of the writer's form, and for its end, the line of the file that it begins at.

    The writer moves some comments to a line of their own, such as one after an anchor. Such lines have the place of
    the next line that both have.
    """
    if len(old) == len(plain):
        return list(range(len(old) + 1))
    place = [len(old)] * (len(plain) + 1)
    # Spaces do not count: the writer changes them.
    left, right = (["".join(line.split()) for line in text] for text in (old, plain))
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    for begin, start, count in matcher.get_matching_blocks():
        for offset in range(count):
            place[start + offset] = begin + offset
    for at in range(len(plain) - 1, -1, -1):
        place[at] = min(place[at], place[at + 1])
    return place


def _lines(text: str) -> list[str]:
    """Return lines with their ends. Python's `splitlines` knows more line ends than YAML."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)


def _replace(path: Path, text: str) -> None:
    """Replace a file atomically: write a temporary file, sync it, rename it, sync the directory."""
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
