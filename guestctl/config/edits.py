"""Changes to the profile file: add, change, rename and remove a profile, set the default, and leave every other line
as it is.

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

from guestctl.config.line_edits import lines_of, with_name, with_value, without
from guestctl.config.profile_keys import GROUPS, KEYS, SECRETS, read_value, unknown_key
from guestctl.config.profiles import SANDBOX, VARIABLE, ProfileFile, bad_name, load, validated
from guestctl.config.trust import digest_of, is_trusted, record
from guestctl.core.clock import Clock, Deadline, SystemClock
from guestctl.core.errors import UsageError
from guestctl.core.strict_yaml import MAX_BYTES, PERMISSIONS, parse
from guestctl.core.values import Json

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
    tree = _tree(values)

    def change(document: MutableMapping[str, Any]) -> None:
        if document.get("profiles") is None:
            document["profiles"] = {}
        document["profiles"][name] = tree

    def check() -> None:
        if os.path.exists(path):
            _check_new(path, name)

    _rewrite(path, check, change, clock, environ)


def _check_new(path: Path, name: str) -> None:
    if name in load(path).names:
        raise UsageError(
            f'profile "{name}" already exists in {path}',
            code="config.profile",
            hint="edit the file, or choose another name",
        )


def _tree(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of dotted keys as the file nests them. Raises UsageError for an invalid one."""
    tree: dict[str, Any] = {}
    for key, text in values.items():
        if key in SECRETS and not VARIABLE.fullmatch(text):
            raise UsageError(
                f"{key}: a secret is not accepted on the command line",
                hint=f"name a variable instead: `--set {key}='${{MY_SECRET}}'`",
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
    return tree


def change_values(
    path: Path,
    name: str,
    values: Mapping[str, str],
    remove: Sequence[str] = (),
    clock: Clock | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Change values of a profile, and remove those of the dotted keys in `remove`. See `add` for `values`.

    Raises UsageError for an unknown profile, an invalid value, a key in `remove` that the profile does not have, and a
    profile that shares its lines with another one.
    """
    tree = _tree(values)
    changes = [
        (keys, tree[key] if len(keys) == 1 else tree[keys[0]][keys[1]])
        for key, keys in ((key, tuple(key.split(".", 1))) for key in values)
    ]
    removals = [tuple(key.split(".", 1)) for key in remove]

    def check() -> None:
        load(path).values(name)
        profile = _profile_in(path.read_bytes().decode("utf-8-sig"), name)
        for key, keys in zip(remove, removals, strict=True):
            if not _has(profile, keys):
                hint = f"`guestctl profile show {name}` shows its keys"
                raise UsageError(f'profile "{name}" has no key "{key}"', code="usage.option", hint=hint)

    def change(document: MutableMapping[str, Any]) -> None:
        if document["profiles"][name] is None:
            document["profiles"][name] = {}
        profile = document["profiles"][name]
        for keys, value in changes:
            inner = profile if len(keys) == 1 else profile.setdefault(keys[0], {})
            inner[keys[-1]] = value
        for keys in removals:
            with suppress(KeyError):  # it comes from a merged mapping; the comparison finds that
                _remove_key(profile, keys)

    def by_line(text: str) -> str | None:
        found: str | None = text
        for keys, value in [*changes, *((keys, None) for keys in removals)]:
            found = None if found is None else _with_key(found, name, keys, value)
        return found

    _rewrite(path, check, change, clock, environ, by_line)


def _profile_in(text: str, name: str) -> dict[str, Any]:
    plain: Any = parse(text, "").plain()
    return dict(plain["profiles"][name] or {})


def _has(profile: Mapping[str, Any], keys: Sequence[str]) -> bool:
    inner = profile if len(keys) == 1 else profile.get(keys[0])
    return isinstance(inner, Mapping) and keys[-1] in inner


def _remove_key(profile: MutableMapping[str, Any], keys: Sequence[str]) -> None:
    """Remove a key, and with its last key a group. Raises KeyError."""
    if len(keys) == 1:
        del profile[keys[0]]
        return
    del profile[keys[0]][keys[1]]
    if not profile[keys[0]]:
        del profile[keys[0]]


def _with_key(text: str, name: str, keys: Sequence[str], value: Any) -> str | None:
    """Set one value of a profile, or remove it (None), in the lines of the file."""
    place = ("profiles", name)
    if len(keys) == 1:
        return without(text, (*place, *keys)) if value is None else with_value(text, (*place, *keys), value)
    before = _profile_in(text, name).get(keys[0]) or {}
    group = {key: kept for key, kept in before.items() if key != keys[1]} | ({} if value is None else {keys[1]: value})
    if not group:
        return without(text, (*place, keys[0]))
    if before:
        changed = without(text, (*place, *keys)) if value is None else with_value(text, (*place, *keys), value)
        if changed is not None and _profile_in(changed, name).get(keys[0]) == group:
            return changed
    return with_value(text, (*place, keys[0]), group)


def remove(path: Path, name: str, clock: Clock | None = None, environ: Mapping[str, str] = os.environ) -> bool:
    """Remove a profile from the file. Return whether it was the default, which the file then no longer has.

    Raises UsageError for an unknown profile.
    """
    defaults: list[bool] = []

    def check() -> None:
        load(path).values(name)

    def change(document: MutableMapping[str, Any]) -> None:
        del document["profiles"][name]
        defaults.append(document.get("default") == name)
        if defaults[-1]:
            del document["default"]

    def by_line(text: str) -> str | None:
        found = without(text, ("profiles", name))
        return without(found, ("default",)) if found is not None and _default_in(text) == name else found

    _rewrite(path, check, change, clock, environ, by_line)
    return defaults[-1]


def rename(path: Path, old: str, new: str, clock: Clock | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Give a profile of the file another name. The default follows. Raises UsageError for an unknown profile, an
    invalid name and one that exists."""
    if why := bad_name(new):
        raise UsageError(why, code="config.profile")

    def check() -> None:
        load(path).values(old)
        _check_new(path, new)

    def change(document: MutableMapping[str, Any]) -> None:
        profiles = document["profiles"]
        names = list(profiles)
        values = {name: profiles.pop(name) for name in names}
        for name in names:  # in the same order
            profiles[new if name == old else name] = values[name]
        if document.get("default") == old:
            document["default"] = new

    def by_line(text: str) -> str | None:
        found = with_name(text, ("profiles", old), new)
        return with_value(found, ("default",), new) if found is not None and _default_in(text) == old else found

    _rewrite(path, check, change, clock, environ, by_line)


def _default_in(text: str) -> Any:
    plain: Any = parse(text, "").plain()
    return plain.get("default")


def use(path: Path, name: str, clock: Clock | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Make a profile the default of the file, which stays trusted. Raises UsageError for an unknown profile."""

    def check() -> None:
        if os.path.exists(path) or name != SANDBOX:
            file = load(path) if os.path.exists(path) else ProfileFile(path, None, {})
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
    path: Path,
    check: Callable[[], None],
    change: Change,
    clock: Clock | None,
    environ: Mapping[str, str],
    by_line: Callable[[str], str | None] | None = None,
) -> None:
    """Change the file. `by_line` returns its text after the change without the YAML writer, None where it cannot."""
    check()  # report a wrong request even if the file cannot be written
    with _locked(path, clock or SystemClock()):
        check()
        trusted = not os.path.exists(path) or is_trusted(load(path).digest, environ)
        text = _changed(path, change) if by_line is None else _changed_by_line(path, change, by_line)
        _replace(path, text)
        if trusted:
            with suppress(UsageError):  # the change is done; the next command asks for trust
                record(digest_of(text.encode()), environ)


def _changed_by_line(path: Path, change: Change, by_line: Callable[[str], str | None]) -> str:
    """Return the text of the file after the change: by lines, or else with the YAML writer.

    The writer takes a comment before a profile for a part of the profile above it, and would move or remove it. Raises
    UsageError if the change would concern another profile, too.
    """
    before = path.read_bytes().decode("utf-8-sig")
    wanted: Any = parse(before, str(path)).plain()  # aliases are copies here
    change(wanted)
    text = by_line(before)
    if text is None or not _means(text, wanted, path):
        text = _changed(path, change)
        if not _means(text, wanted, path):
            raise UsageError(
                f"{path}: the profile shares its lines with another profile through an alias",
                code="config.file",
                hint="edit the file",
            )
    validated(parse(text, str(path)), path, exposed=False)
    return text


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
    step = next((len(line) - len(line.lstrip(" ")) for line in lines_of(before) if re.match(r" +[^ #]", line)), 2)
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
    wanted = parse(after, str(path))
    validated(wanted, path, exposed=False)
    text = _merged(before, normal, after)
    return text if _means(text, wanted.plain(), path) else after


def _means(text: str, wanted: Json, path: Path) -> bool:
    """Return whether a text has this content."""
    try:
        same: bool = _filled(parse(text, str(path)).plain()) == _filled(wanted)
    except UsageError:
        return False
    return same


def _filled(document: Any) -> Any:
    """Return a document with empty mappings where it has no profiles, or a profile has no values."""
    if not isinstance(document, Mapping):
        return document
    profiles = document.get("profiles") or {}
    return {**document, "profiles": {name: profile or {} for name, profile in profiles.items()}}


def _merged(before: str, normal: str, after: str) -> str:
    """Return `after`, with the lines that it shares with `normal` (the writer's form of `before`) as in `before`."""
    old, plain, new = (lines_of(text) for text in (before, normal, after))
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
