"""Changing the profiles file: a profile added, the default chosen, and every other line as it was.

Knows: how a YAML document is changed without touching what people wrote in it, and how a file is replaced
whole or not at all. Must not know: where the file is looked for, how a value takes effect (`profiles`).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from guestctl.errors import UsageError
from guestctl.profiles import GROUPS, KEYS, SANDBOX, VARIABLE, bad_name, load, read_value, unknown_key, validated
from guestctl.strict_yaml import MAX_BYTES, parse


def add(path: Path, name: str, values: Mapping[str, str]) -> None:
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

    if os.path.exists(path) and name in load(path).names:
        raise UsageError(
            f"{path} already has a profile {name!r}", code="config.profile", hint="Edit the file, or choose a name."
        )
    _rewrite(path, change)


def use(path: Path, name: str) -> None:
    """Make a profile the file's default. Raises UsageError when there is no such profile."""
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

    _rewrite(path, change)


def _rewrite(path: Path, change: Callable[[MutableMapping[str, Any]], None]) -> None:
    """Change the document and nothing else: lines the change does not touch stay byte for byte."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    before = path.read_bytes().decode("utf-8-sig") if os.path.exists(path) else ""
    writer = YAML()
    writer.preserve_quotes = True
    writer.width = MAX_BYTES
    step = next((len(line) - len(line.lstrip(" ")) for line in before.splitlines() if re.match(r" +[^ #]", line)), 2)
    writer.indent(mapping=step, sequence=step + 2, offset=step)

    def dumped(document: Any) -> str:
        from io import StringIO

        stream = StringIO()
        writer.dump(document, stream)
        return stream.getvalue()

    try:
        document = writer.load(before)
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
    _replace(path, text if same else after)


def _merged(before: str, normal: str, after: str) -> str:
    """`after`, with every line it shares with `normal` (what the writer makes of `before`) as it was."""
    old, plain, new = (text.splitlines(keepends=True) for text in (before, normal, after))
    if len(old) != len(plain):
        return after
    lines: list[str] = []
    for kind, start, end, begin, stop in SequenceMatcher(None, plain, new, autojunk=False).get_opcodes():
        kept = old[start:end] if kind == "equal" else new[begin:stop]
        if lines and kept and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines += kept
    return "".join(lines)


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: temporary file, data to disk, rename, directory to disk."""
    import tempfile

    try:
        target = path.resolve()  # a link to a file kept elsewhere stays a link
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
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
        raise UsageError(f"{path}: {error.strerror}", code="config.file") from error
