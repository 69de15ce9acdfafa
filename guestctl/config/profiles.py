"""Profiles: the profile file, and the precedence of options, environment variables and the file.

Knows: the location of the file, `${VAR}`, precedence, and the built-in `sandbox` profile (contract.md §3). Must not
know: how one value is read; what a dialect does with it; the sandbox's code (its documented deployment and OAuth client
are repeated here on purpose).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from guestctl.config.profile_keys import GROUPS, KEYS, SECRETS, SURROGATE, read_value, unknown_key, variable
from guestctl.config.regions import REGIONS
from guestctl.core.errors import UsageError
from guestctl.core.input_files import read_bytes
from guestctl.core.model import Profile, Retry, Secret
from guestctl.core.strict_yaml import MAX_BYTES, PERMISSIONS, Located, parse_bytes
from guestctl.core.suggestions import did_you_mean
from guestctl.core.values import Json, immutable

FILE = "profiles.yaml"
FOUND_HERE = "working directory"
SANDBOX = "sandbox"
#: The name of a profile that consists of options and variables only, if there is no file. One of these keys creates it.
UNNAMED = "default"
_WHERE = frozenset({"region", "base_url", "org", "environment", "aws_region"})

#: The constants of every sandbox (contract.md §7), and a value for each key that a dialect may need. The domain never
#: resolves, so an address that is derived from it by mistake reaches nobody.
_SANDBOX_VALUES: Mapping[str, str] = {
    "region": "sandbox.invalid",
    "deployment_id": "5a4db0c5-0000-4000-8000-677565737463",
    "origin": "http://localhost",
    "name": "Sandbox Guest",
    "email": "guest@sandbox.invalid",
    "queue": "sandbox-queue",
    "skill": "sandbox-skill",
    "language": "en-US",
    "environment": "sandbox",
    "org": "sandbox",
    "aws_region": "us-east-1",
    "oauth.client_id": "sandbox-client",
    "oauth.client_secret": "sandbox-secret",
}
#: These values come from the sandbox only. A variable for a real service must not redirect the sandbox's token.
_SANDBOX_FIXED = frozenset({"base_url", "socket_url", "config_url", "tls.ca", "service.deduplicates"})


# --- the file ---


@immutable
class ProfileFile:
    """A valid profile file. `profiles` maps a name to the profile's values by dotted key, as written in the file."""

    path: Path
    default: str | None
    profiles: Mapping[str, Mapping[str, Located]]
    exposed: bool = False
    """Whether other users of this machine can read the file."""
    digest: str = ""
    """The digest of the content, by which it is trusted."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.profiles)

    def values(self, name: str) -> Mapping[str, Located]:
        """Return the values of a profile by dotted key. Raises UsageError (config.profile) for an unknown name."""
        if name not in self.profiles:
            known = (*self.names, SANDBOX)
            raise UsageError(
                f'no profile "{name}" in {self.path}{did_you_mean(name, known)}',
                code="config.profile",
                hint=f"available profiles: {', '.join(known)}",
            )
        return self.profiles[name]

    def warnings(self, name: str) -> tuple[str, ...]:
        """Return warnings about one profile for the owner of the file."""
        values = self.profiles.get(name, {})
        written = {key: values[key] for key in SECRETS if key in values and "${" not in (values[key].text or "")}
        return tuple(
            f"{self.path}:{found.line}: {key} is in a file that other users can read; "
            f"write ${{VARIABLE}} instead, or run: chmod 600 {self.path}"
            for key, found in written.items()
            if self.exposed
        )


def locate(option: str | None, environ: Mapping[str, str], cwd: Path) -> tuple[Path, str]:
    """Return the path of the profile file and what selects it. The file need not exist."""
    if option:
        return _under(cwd, option), "option --profiles"
    if named := environ.get("GUESTCTL_PROFILES"):
        return _under(cwd, named), "environment GUESTCTL_PROFILES"
    if os.path.exists(cwd / FILE):
        return cwd / FILE, FOUND_HERE
    from platformdirs import user_config_path

    return user_config_path("guestctl", appauthor=False) / FILE, "user configuration directory"


def _under(directory: Path, name: str) -> Path:
    return directory / os.path.expanduser(name)


def find(option: str | None, environ: Mapping[str, str], cwd: Path) -> ProfileFile:
    """Return the selected profile file. If nothing names a file and none exists, it has no profiles.

    Raises UsageError (config.file).
    """
    path, why = locate(option, environ, cwd)
    if why == "user configuration directory" and not os.path.exists(path):
        return ProfileFile(path, None, {})
    return load(path)


def load(path: Path) -> ProfileFile:
    """Read a profile file and validate every profile in it. Values with `${…}` are validated when they are used.

    Raises UsageError (config.file) that names file, line and key.
    """
    from guestctl.config.trust import digest_of

    try:
        content = read_bytes(path, MAX_BYTES + 1)
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{path}: {why}", code="config.file", hint=PERMISSIONS) from error
    exposed = os.name == "posix" and stat.S_ISREG(mode) and bool(mode & 0o044)
    return replace(validated(parse_bytes(content, str(path)), path, exposed=exposed), digest=digest_of(content))


def validated(root: Located, path: Path, *, exposed: bool) -> ProfileFile:
    """Return the parsed YAML as a valid profile file. Raises UsageError (config.file)."""
    members = {} if root.value is None else _mapping(root, path, "the file", "default and profiles")
    for key, found in members.items():
        if key not in {"default", "profiles"}:
            raise _wrong(path, found, f'unknown key "{key}"' + did_you_mean(key, ["default", "profiles"]))
    profiles: dict[str, Mapping[str, Located]] = {}
    if (listed := members.get("profiles")) is not None and listed.value is not None:
        for name, profile in _mapping(listed, path, "profiles", "one entry per profile").items():
            if why := bad_name(name):
                raise _wrong(path, profile, why)
            profiles[name] = dict(_flat(profile, path, name))
    default = members.get("default")
    if default is not None and default.text not in {*profiles, SANDBOX}:
        known = [*profiles, SANDBOX]
        given = f'"{default.text}"' if default.text is not None else "of that name"
        raise _wrong(
            path,
            default,
            f"default: no profile {given}{did_you_mean(default.text or '', known)}; there are: {', '.join(known)}",
        )
    return ProfileFile(path, None if default is None else default.text, profiles, exposed)


def bad_name(name: str) -> str | None:
    """Return why a profile cannot have this name, or None if it can."""
    if name == SANDBOX:
        return f'the profile "{SANDBOX}" is built in; choose another name'
    if not name or name != name.strip() or not name.isprintable():
        return f"{json.dumps(name)} is not a valid profile name"
    return None


def _flat(profile: Located, path: Path, name: str) -> Iterator[tuple[str, Located]]:
    """Return the values of one profile by dotted key. Checks each value that has no variables."""
    if profile.value is None:
        return
    for key, found in _mapping(profile, path, name, "keys such as region and deployment_id").items():
        if "." in key:  # dotted keys exist only in messages and options
            raise _wrong(path, found, unknown_key(key))
        if key in GROUPS:
            inside = [k.partition(".")[2] for k in KEYS if k.startswith(key + ".")]
            for inner, value in _mapping(found, path, key, ", ".join(inside)).items():
                yield _checked(f"{key}.{inner}", value, path)
        else:
            yield _checked(key, found, path)


def _checked(key: str, found: Located, path: Path) -> tuple[str, Located]:
    if key not in KEYS:
        raise _wrong(path, found, unknown_key(key))
    if KEYS[key].tree:
        for inner, value in _mapping(found, path, key, "keys and values").items():
            if key == "attributes" and (value.text is None or value.value is None):
                raise _wrong(path, value, f"attributes.{inner}: expected text")
        _check_variables(found, path, key)
    elif found.text is None:
        raise _wrong(path, found, f"{key}: expected one value, not a list or mapping")
    elif found.value is None:
        raise _wrong(path, found, f"{key}: has no value; give it one or remove the line")
    elif "${" in found.text:
        _check_variables(found, path, key)
    elif found.text:
        read_value(key, found.text, f"{path}:{found.line}: {key}", code="config.file")
    return key, found


def _mapping(found: Located, path: Path, what: str, expected: str) -> Mapping[str, Located]:
    if not isinstance(found.value, Mapping):
        raise _wrong(path, found, f"{what}: expected a mapping with {expected}")
    return found.value


def _wrong(path: Path, found: Located, problem: str) -> UsageError:
    return UsageError(f"{path}:{found.line}: {problem}", code="config.file")


# --- variables ---

VARIABLE = re.compile(r"\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\})?", re.ASCII)


def _leaves(found: Located) -> Iterator[Located]:
    if isinstance(found.value, Mapping):
        for member in found.value.values():
            yield from _leaves(member)
    elif isinstance(found.value, list):
        for item in found.value:
            yield from _leaves(item)
    else:
        yield found


def _check_variables(found: Located, path: Path, key: str) -> None:
    for leaf in _leaves(found):
        for match in VARIABLE.finditer(leaf.text or ""):
            if match[1] is None:
                raise _wrong(path, leaf, f"{key}: expected ${{NAME}} or ${{NAME:-default}}")


def _expand(leaf: Located, environ: Mapping[str, str] | None, path: Path, key: str) -> str:
    """Return the text with its variables replaced. As in a shell, `:-` also replaces an empty variable.

    Without an environment nothing is replaced.
    """
    if environ is None:
        return leaf.text or ""

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = environ.get(name) or default if default is not None else environ.get(name)
        if found is None:
            raise UsageError(
                f"{path}:{leaf.line}: {key}: the environment variable {name} is not set",
                code="config.key",
                hint=f"set {name}, or write ${{{name}:-default}} in the profile",
            )
        if SURROGATE.search(found):
            raise UsageError(
                f"{path}:{leaf.line}: {key}: the environment variable {name} is not valid UTF-8", code="config.key"
            )
        return found

    return VARIABLE.sub(value, leaf.text or "")


def _tree(found: Located, environ: Mapping[str, str] | None, path: Path, key: str) -> Json:
    if isinstance(found.value, Mapping):
        return {name: _tree(member, environ, path, f"{key}.{name}") for name, member in found.value.items()}
    if isinstance(found.value, list):
        return [_tree(item, environ, path, key) for item in found.value]
    return _expand(found, environ, path, key) if isinstance(found.value, str) else found.value


# --- resolving ---


@immutable
class Resolved:
    """A complete profile, with the value of each dotted key (None: not set) and the origin of the value.

    The caller must show `warnings`. `path` is the file, or None for the built-in sandbox.
    """

    profile: Profile
    values: Mapping[str, Any]
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    path: Path | None = None


def resolve(
    name: str | None,
    *,
    options: Mapping[str, str],
    environ: Mapping[str, str],
    cwd: Path,
    profiles_option: str | None,
    sandbox: Callable[[], Mapping[str, Json] | None],
    as_written: bool = False,
    to_show: bool = False,
) -> Resolved:
    """Return a profile's values. Precedence: option, environment, profile, default (contract.md §3).

    `options` maps dotted keys to text. `sandbox` returns the last started sandbox; it is called only if needed.
    `as_written` ignores options and environment. `to_show`: the profile is not used for a connection, so a file of
    the working directory needs no trust; its variables, and variables that are not set, then stay as written.
    Raises UsageError with code config.profile, config.file, config.key, config.untrusted or sandbox.absent.
    """
    chosen = name or environ.get("GUESTCTL_PROFILE") or None
    file: ProfileFile | None = None
    if chosen != SANDBOX:
        file = find(profiles_option, environ, cwd)
        if chosen is None and not file.names:
            values, origins = _stronger(options, environ, cwd)
            if values.keys() & _WHERE:  # they suffice without a file
                return _resolved(UNNAMED, values, origins)
        chosen = chosen or _only(file)
    if file is None or chosen == SANDBOX:
        return _sandbox(options, environ, cwd, sandbox)

    values, origins = ({}, {}) if as_written else _stronger(options, environ, cwd)
    untrusted = _untrusted(file, chosen, values, locate(profiles_option, environ, cwd)[1], environ)
    if untrusted is not None and not to_show:
        raise untrusted
    warnings = list(file.warnings(chosen))
    if untrusted is not None:
        warnings.append(f"{untrusted.message}; {untrusted.hint}")
    kept: set[str] = set()
    for key, found in file.values(chosen).items():
        if key in values:
            continue
        variables: Mapping[str, str] | None = environ
        missing = sorted(_used(found, required=True) - environ.keys()) if to_show else []
        if missing:
            warnings.append(f"{file.path}:{found.line}: {key}: not set: {', '.join(missing)}")
        if (untrusted is not None or missing) and _used(found):
            variables = None
            kept.add(key)
        value = _value(key, found, variables, file.path)
        if value is not None:
            values[key], origins[key] = value, f"{file.path.name}:{found.line}"
    warnings += _redirect_warning(chosen, values, origins)
    return _resolved(chosen, values, origins, warnings=tuple(warnings), path=file.path, kept=kept)


def _value(key: str, found: Located, environ: Mapping[str, str] | None, path: Path) -> Any:
    """Return one value of the file, as written without an environment. None: it is empty, which counts as unset."""
    if key == "attributes":  # text, whatever it looks like
        members = _mapping(found, path, key, "keys and values")
        return {inner: _expand(leaf, environ, path, f"{key}.{inner}") for inner, leaf in members.items()}
    if KEYS[key].tree:
        return _tree(found, environ, path, key)
    text = _expand(found, environ, path, key)
    if not text or environ is None:
        return text or None
    value = read_value(key, text, f"{path}:{found.line}: {key}", code="config.file")
    return str(_under(path.parent, value)) if key == "tls.ca" else value


def _only(file: ProfileFile) -> str:
    """Return the profile to use if none is named. Raises UsageError (config.profile)."""
    if file.default is not None:
        return file.default
    if len(file.names) == 1:
        return file.names[0]
    if file.names:
        raise UsageError(
            f"several profiles and no default in {file.path}: {', '.join(file.names)}",
            code="config.profile",
            hint="add -p NAME, or set the default with `guestctl profile use NAME`",
        )
    raise UsageError(
        f"no profile found (looked for ./{FILE} and {file.path})",
        code="config.profile",
        hint="run `guestctl profile add NAME --region REGION --deployment-id ID`, or use -p sandbox",
    )


def _stronger(
    options: Mapping[str, str], environ: Mapping[str, str], cwd: Path, without: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values from options and environment variables, and their origins."""
    for key in options:
        if key not in KEYS or KEYS[key].file_only:
            raise UsageError(unknown_key(key), code="usage.option")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key in KEYS:
        if key in without or KEYS[key].file_only:
            continue
        option = "--" + key.replace(".", "-").replace("_", "-")
        named = variable(key)
        if key in options:
            text, origin, hint = options[key], f"option {option}", f"correct {option}"
        elif environ.get(named):
            text, origin, hint = environ[named], f"environment {named}", f"correct or unset {named}"
        else:
            continue
        values[key] = read_value(key, text, origin, code="config.key", hint=hint)
        if key == "tls.ca":
            values[key] = str(_under(cwd, values[key]))
        origins[key] = origin
    return values, origins


def _sandbox(
    options: Mapping[str, str],
    environ: Mapping[str, str],
    cwd: Path,
    registered: Callable[[], Mapping[str, Json] | None],
) -> Resolved:
    """Return the built-in profile: the constants of every sandbox, and the address of the running one."""
    for key in sorted(_SANDBOX_FIXED & options.keys()):
        raise UsageError(
            f'--{key.replace("_", "-")}: the built-in profile "{SANDBOX}" uses the address of the running sandbox',
            code="usage.option",
            hint="remove the option, or choose another profile (`guestctl profile list`)",
        )
    values, origins = _stronger(options, environ, cwd, _SANDBOX_FIXED)
    ca: str | None
    if url := environ.get("GUESTCTL_SANDBOX_URL"):
        origin, ca = "environment GUESTCTL_SANDBOX_URL", environ.get("GUESTCTL_SANDBOX_CA") or None
        deduplicates = environ.get("GUESTCTL_SANDBOX_DEDUPLICATES") == "yes"
        limits = environ.get("GUESTCTL_SANDBOX_LIMITS")
    elif running := registered():
        url, origin, ca = str(running["url"]), "sandbox started last", running.get("ca")
        deduplicates = running.get("deduplicates") == "yes"
        limits = str(running.get("limits"))
        if "api" in running and "api" not in values:
            values["api"], origins["api"] = running["api"], origin
    else:
        raise UsageError("no sandbox is running here", code="sandbox.absent")
    url = read_value("base_url", url.rstrip("/"), origin, code="config.key", hint="correct the address of the sandbox")
    parts = urlsplit(url)
    socket = urlunsplit(("wss" if parts.scheme == "https" else "ws", parts.netloc, "", "", ""))
    place = {"base_url": url, "config_url": url, "socket_url": socket}
    values["service.deduplicates"], origins["service.deduplicates"] = deduplicates, origin
    if ca is not None:
        place["tls.ca"] = str(_under(cwd, ca))
    for key, value in place.items():
        values[key], origins[key] = value, origin
    for key, text in _SANDBOX_VALUES.items():
        if key not in values:
            values[key], origins[key] = KEYS[key].read(text), "built-in sandbox"
    found = _resolved(SANDBOX, values, origins, sandbox=True)
    # Only on this machine: elsewhere, a guest that does not pace itself would burden a service of other people.
    return replace(found, profile=replace(found.profile, paced=limits != "none" or not _is_local(url)))


def _resolved(
    name: str,
    values: Mapping[str, Any],
    origins: Mapping[str, str],
    *,
    sandbox: bool = False,
    warnings: tuple[str, ...] = (),
    path: Path | None = None,
    kept: Set[str] = frozenset(),
) -> Resolved:
    fields = {str(KEYS[key].field): value for key, value in values.items() if KEYS[key].field is not None}
    for key in SECRETS:
        if key in kept:
            fields[str(KEYS[key].field)] = Secret(values[key])
    retry = {key.partition(".")[2]: value for key, value in values.items() if key.startswith("retry.")}
    profile = Profile(name=name, sandbox=sandbox, retry=Retry(**retry), **fields)
    shown = {
        key: values[key] if key in values else getattr(profile.retry if not rule.field else profile, _attribute(key))
        for key, rule in KEYS.items()
    }
    known = {key: value for key, value in values.items() if key not in kept}
    warnings += tuple(_cleartext_warnings(known, origins))
    return Resolved(profile, shown, {key: origins.get(key, "default") for key in KEYS}, warnings, path)


_ADDRESSES = ("base_url", "socket_url", "config_url")
#: The address of a model, which AI steps of `check` send conversations to.
_MODEL_ADDRESS = "ai.base_url"


def _is_readable(url: str) -> bool:
    """Return whether anyone on the network path can read the traffic: no TLS, and not this machine."""
    return urlsplit(url).scheme in {"http", "ws"} and not _is_local(url)


def _cleartext_warnings(values: Mapping[str, Any], origins: Mapping[str, str]) -> Iterator[str]:
    """Return a warning for each address without TLS that the profile permits with `tls.cleartext`.

    Raises UsageError (config.cleartext) for any other address, and for any from the environment.
    """
    for key in _ADDRESSES:
        url = str(values.get(key, ""))
        if not _is_readable(url):
            continue
        text = f"{key} {url} is not encrypted, so others on the network can read the tokens"
        if not values.get("tls.cleartext") or origins[key].startswith("environment "):
            raise UsageError(f"{origins[key]}: {text}", code="config.cleartext")
        yield f"{text} (tls.cleartext)"


# --- warnings about files and variables from elsewhere ---

#: The vendor's domains: those of the regions, and those from which dialects derive hosts.
_VENDOR = (*(region.domain for region in REGIONS), "pure.cloud", "genesys.cloud", "mygen.com")


def elsewhere(key: str, value: object) -> str | None:
    """Return the host that a value leads to, or None for a host of the vendor and for this machine."""
    url = f"https://{value}" if key == "region" else str(value)
    host = (urlsplit(url).hostname or "").rstrip(".")
    if _is_local(url):
        return None
    return None if any(host == domain or host.endswith(f".{domain}") for domain in _VENDOR) else host


def _used(found: Located, *, required: bool = False) -> set[str]:
    """Return the variables in a value; with `required`, only those without a default."""
    matches = (match for leaf in _leaves(found) for match in VARIABLE.finditer(leaf.text or ""))
    return {match[1] for match in matches if match[1] and not (required and match[2] is not None)}


def _untrusted(
    file: ProfileFile, name: str, stronger: Mapping[str, Any], why: str, environ: Mapping[str, str]
) -> UsageError | None:
    """Return the failure for a profile that needs trust and has none, otherwise None.

    A file that is used because it is in the working directory may have come with a downloaded directory.
    """
    from guestctl.config.trust import is_trusted

    if why != FOUND_HERE:
        return None
    does = needs_trust(file, name, stronger)
    if not does or is_trusted(file.digest, environ):
        return None
    return UsageError(
        f'./{FILE} of this directory is not trusted: profile "{name}" {" and ".join(does)}',
        code="config.untrusted",
        hint=f"read the file, then run: guestctl profile trust {shlex.quote(str(file.path))}",
    )


def needs_trust(file: ProfileFile, name: str, stronger: Mapping[str, Any]) -> list[str]:
    """Return what a profile does that a file of the working directory may only do with trust.

    `stronger` has the values that replace the file's own. A profile that stays on this machine needs no trust.
    """
    own = {key: found for key, found in file.values(name).items() if key not in stronger}
    if _stays_here(own, stronger):
        return []
    literal = {key: found.text or "" for key, found in own.items() if not _used(found)}
    named = ("region", *_ADDRESSES, _MODEL_ADDRESS)
    hosts = [elsewhere(key, _address(key, literal[key])) for key in named if literal.get(key)]
    does = [f"sends to {host}" for host in dict.fromkeys(host for host in hosts if host)]
    if "tls.ca" in own:
        does.append(f"trusts the certificate authorities in {own['tls.ca'].text}")
    variables = sorted({name for found in own.values() for name in _used(found)})
    if variables:
        does.append("reads " + ", ".join(f"${variable}" for variable in variables))
    if "tls.cleartext" in own and literal.get("tls.cleartext") != "false":
        does.append("allows connections without TLS")
    return does


def _address(key: str, text: str) -> str:
    return str(KEYS[key].read(text)) if key == "region" else text


def _stays_here(own: Mapping[str, Located], stronger: Mapping[str, Any]) -> bool:
    """Return whether every address of a profile is a literal address of this machine."""
    addresses = {key: own[key].text or "" for key in _ADDRESSES if key in own}
    addresses |= {key: str(stronger[key]) for key in _ADDRESSES if key in stronger}
    derived = {"region", "org", "environment"} & (own.keys() | stronger.keys())
    model = own[_MODEL_ADDRESS].text or "" if _MODEL_ADDRESS in own else None
    if model is not None and ("${" in model or not _is_local(model)):
        return False
    return (
        bool(addresses)
        and (not derived or len(addresses) == len(_ADDRESSES))
        and all("${" not in url and _is_local(url) for url in addresses.values())
    )


def _is_local(url: str) -> bool:
    """Return whether an address is on this machine."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False


def _redirect_warning(name: str, values: Mapping[str, Any], origins: Mapping[str, str]) -> Iterator[str]:
    """Return a warning if a variable sends a secret of a profile to an address that is not in the profile."""
    model = origins.get(_MODEL_ADDRESS, "")
    moved = model.startswith("environment ") and not origins.get("ai.key", "environment ").startswith("environment ")
    if moved and "ai.key" in values and (host := elsewhere(_MODEL_ADDRESS, values[_MODEL_ADDRESS])):
        yield f'{model} sends the key of the model in profile "{name}" to {host}'
    key = "base_url" if "base_url" in values else "region"
    origin = origins.get(key, "")
    if "oauth.client_secret" not in values or origins["oauth.client_secret"].startswith("environment "):
        return
    if origin.startswith("environment ") and (host := elsewhere(key, values[key])):
        yield f'{origin} sends the OAuth client of profile "{name}" to {host}'


def _attribute(key: str) -> str:
    return KEYS[key].field or key.partition(".")[2]
