"""`guestctl help TOPIC`: what belongs to no single command.

Knows: how tables kept elsewhere become a page, and the few variables that are in no table. Must
not know: any command. What a table says is never said again here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from guestctl.cli.help import columns, paragraphs

#: Variables of our own that are no profile key.
OURS: dict[str, str] = {
    "GUESTCTL_PROFILE": "the profile, as -p",
    "GUESTCTL_PROFILES": "the profile file, as --profiles",
    "GUESTCTL_SESSION": "the stored session, as -s",
    "GUESTCTL_OUTPUT": "the output mode, as -o",
    "GUESTCTL_STATE": "directory of the state database, instead of the user's state directory",
    "GUESTCTL_PAGER": "a pager for long output on a terminal; none without it",
    "GUESTCTL_CODE_VERIFIER": "PKCE verifier of a sign-in, as --code-verifier",
    "GUESTCTL_ID_TOKEN": "id token of a sign-in, as --id-token",
    "GUESTCTL_SANDBOX_URL": "address of the sandbox that -p sandbox means; set by `sandbox exec`",
    "GUESTCTL_SANDBOX_ADMIN_KEY": "key for `sandbox push`, `fault` and the like; set by `sandbox exec`",
    "GUESTCTL_SANDBOX_CA": "CA file of a sandbox with --tls; set by `sandbox exec`",
}
#: Variables that other programs read, too.
COMMON: dict[str, str] = {
    "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY": "proxy for REST and socket alike; never used for loopback",
    "NO_PROXY": "hosts to reach without it",
    "SSL_CERT_FILE, REQUESTS_CA_BUNDLE": "certificate authorities; tls.ca of the profile is stronger",
    "NO_COLOR, FORCE_COLOR, TERM": "colour: never; always; not when `dumb`",
    "COLUMNS": "how wide the terminal is",
    "TRACEPARENT": "W3C trace context to send, as --traceparent",
    "GITHUB_ACTIONS, GITHUB_WORKSPACE": "`check` annotates the failing lines of a script",
    "XDG_CONFIG_HOME, XDG_STATE_HOME": "on Linux: where the user's profiles and state are",
}
#: Profile key -> what it says.
KEYS: dict[str, str] = {
    "api": "API family (`guestctl apis`)",
    "region": "AWS name or domain of the region",
    "base_url": "REST address, instead of the region's; enough alone",
    "socket_url": "socket address, instead of the region's",
    "config_url": "address of the deployment's configuration",
    "deployment_id": "the deployment",
    "origin": "Origin to send, where the deployment restricts its domains",
    "attributes": "custom attributes of every session: a mapping of texts",
    "tls.ca": "PEM file of certificate authorities",
    "tls.cleartext": "true: http:// and ws:// to other machines, on a test network; only here, never by a variable",
    "retry.attempts": "tries to reconnect",
    "retry.base": "first pause between them",
    "retry.cap": "longest pause",
    "name": "the guest's name",
    "email": "the guest's e-mail address",
    "queue": "queue to ask for",
    "skill": "skill to ask for",
    "language": "the guest's language",
    "environment": "the platform's environment, part of a host name",
    "org": "the organisation, part of a host name",
    "aws_region": "AWS region, part of a host name",
    "socket_path": "path of the socket",
    "refresh_style": "guest-refresh or guest-token",
    "store_tokens": "database or memory",
    "journey_context": "journeyContext of the session: a mapping",
    "application": "the application's name, in the socket's address",
    "oauth.client_id": "OAuth client",
    "oauth.client_secret": "its secret; write ${VARIABLE}",
}


#: Key of a bot script -> what it does. `sandbox/script.py` reads them.
BOT_KEYS: dict[str, str] = {
    "name": "the bot's name",
    "greeting": "an answer to the guest's arrival (on web-messaging only with --auto-start)",
    "rules": "a list; the first rule that fits answers",
    "otherwise": "the answer when none fits",
    "match": "in a rule: a regular expression, found anywhere, in any case",
    "contains": "in a rule: a text found anywhere, in any case",
    "equals": "in a rule: the whole text, in any case",
    "payload": "in a rule: exactly what a button sends",
    "times": "in a rule: at most so often in one conversation",
    "after_handover": "in a rule: only after (true) or only before (false) an agent took over",
    "reply": "one reply: a text, or `text` with the keys below",
    "replies": "several replies; [] is silence",
    "delay": "wait before a reply; at the top: before each (30ms)",
    "typing": "show that the bot is typing first",
    "quickReplies": "[LABEL or {text, payload, image}, …], or {title, replies: [LABEL, …]}",
    "card": "{title, description, image, video, defaultAction, actions: [LABEL or {text, payload} or {text, url}, …]}",
    "carousel": "[card, …]",
    "datePicker": "{title, subtitle, image, id, format, min, max, times: [ISO or {at, duration}, …]}",
    "listPicker": "{title, subtitle, id, reply, multiple, items: [TITLE or {id, title, subtitle, image}, …]}, or "
    "instead of multiple and items sections: [{title, multiple, items}, …]",
    "form": "{title, subtitle, id, image, button, summary, received, reply, fields: [{id, type, title, subtitle, "
    "required, placeholder, keyboard, autocomplete}, …]}, or instead of fields pages: [{title, subtitle, fields}, …]; "
    "type is text, multiline, date, list or wheel, the last two with items",
    "attachment": "URL or {url, name, type, size, text, id}",
    "handover": "an agent answers from here on: {name: NAME}",
    "disconnect": "true ends the conversation",
}
#: A script that works as it stands.
BOT = """\
greeting: Hello!
rules:
  - match: parcel (\\d+)
    reply: Parcel ${1} is on its way.
    quickReplies: [Track it, Send it back]
  - contains: human
    replies: [One moment, {text: I fetch somebody., delay: 500ms}]
    handover: {name: Mina}
  - equals: bye
    reply: Goodbye
    disconnect: true
otherwise: I do not understand ${text}
"""
#: The least a check script may be.
CHECK = """\
scenarios:
  "Knows the hours":
    - say: When are you open?
    - expect: {contains: Monday, within: 5s}
"""
_FAULT_KEYS: dict[str, str] = {
    "after=N": "first before the Nth frame or request from now on; once, unless `times` says otherwise",
    "every=N": "at each Nth",
    "times=N": "so often in all",
    "on=WHAT": "only what belongs to create, send, history, socket, refresh, typing or upload",
}


def page(topic: str, width: int | None) -> str:
    """The text of one of `registry.TOPICS`."""
    return "\n".join(_PAGES[topic](width))


def _environment(width: int | None) -> Iterator[str]:
    from guestctl.config import profile_keys

    yield paragraphs(
        "A value comes from an option, else the environment, else the profile, else it is the default.", width
    )
    yield "Of guestctl:\n" + columns(OURS.items(), width)
    yield "Profile keys:\n" + columns(
        ((profile_keys.variable(key), key) for key, rule in profile_keys.KEYS.items() if not rule.file_only), width
    )
    yield "Of others, too:\n" + columns(COMMON.items(), width)
    yield "`guestctl profile show` prints each value and where it came from.\n"


def _bots(width: int | None) -> Iterator[str]:
    yield paragraphs(
        "A YAML file that says what the sandbox's bot answers: `guestctl sandbox serve --script bot.yaml`. "
        "An answer is a text, a list of replies, or a mapping.",
        width,
    )
    yield BOT
    yield paragraphs(
        "${1} and ${name} are captures of `match`; ${text}, ${payload}, ${count} (of the guest's messages) and "
        "${attr.KEY} are always there. Without a script the bot echoes.",
        width,
    )
    yield "Keys:\n" + columns(BOT_KEYS.items(), width)
    yield "`guestctl sandbox exec --script bot.yaml -- guestctl ask hi` tries one.\n"


def _checks(width: int | None) -> Iterator[str]:
    from guestctl.checks import script_keys

    yield paragraphs(
        "A YAML file of conversations that should go as written, for `guestctl check`: `scenarios` is a mapping of "
        "name to steps. Times are 2s, 500ms or 1m; ${name} and ${name:-default} may stand in every text.",
        width,
    )
    yield CHECK
    for title, table in script_keys.PARTS:
        rows = (
            (name, key.meaning if key.value == "–" else f"{key.value}: {key.meaning}") for name, key in table.items()
        )
        yield f"{title}:\n" + columns(rows, width)
    yield "`guestctl check FILE.yaml` runs them; `guestctl check --keys` prints this as Markdown.\n"


def _faults(width: int | None) -> Iterator[str]:
    from guestctl.sandbox.faults import KINDS

    yield paragraphs(
        "`guestctl sandbox fault SPEC` arms a running sandbox, --fault SPEC of `serve` and `exec` one from its start. "
        "A spec is kind:key=value,key=value. What concerns a message's frame never concerns the message: it is "
        "stored.",
        width,
    )
    yield "Kinds, with their own keys:\n" + columns(((kind.written, kind.does) for kind in KINDS.values()), width)
    yield "Keys of every kind:\n" + columns(_FAULT_KEYS.items(), width)
    yield "`guestctl sandbox fault` lists what is armed, `guestctl sandbox fault --clear` ends it.\n"


def _exit_codes(width: int | None) -> Iterator[str]:
    from guestctl.cli.commands.explanations import everything

    yield columns(((entry.code, entry.meaning) for entry in everything() if entry.kind == "exit code"), width)
    yield paragraphs(
        "A failure is one line on stderr: what, why, and the next step. Where the output is JSON it is one object, "
        '{"error": {"code", "exit", "message", "hint", …}}, whose `code` is a stable name.',
        width,
    )
    yield "`guestctl explain CODE` explains each of those names, `guestctl explain exit 9` a number.\n"


def _output(width: int | None) -> Iterator[str]:
    from guestctl.output.schema import SCHEMAS

    modes = {
        "auto": "table on a terminal; in a pipe one JSON object, or one a line for lists and streams",
        "table": "tables and chat lines",
        "json": "one object for a single result, an array for a list, one object a line for a stream",
        "jsonl": "one object a line",
        "yaml": "the same records as YAML; a document for each of a stream",
    }
    yield paragraphs(
        "stdout is data, stderr is talk. Names of members are stable; times are RFC 3339, UTC, with milliseconds; "
        "new members may be added. The service's own objects come with --raw. Tables and chat lines are for people: "
        "their times are local, in tables with the offset from UTC.",
        width,
    )
    yield "Modes, by -o or GUESTCTL_OUTPUT:\n" + columns(modes.items(), width)
    yield "Records, by their `kind`:\n" + columns(((kind, found["title"]) for kind, found in SCHEMAS.items()), width)
    yield "`guestctl schema KIND` prints the JSON Schema of one.\n"


def _profiles(width: int | None) -> Iterator[str]:
    from guestctl.config.regions import REGIONS

    yield paragraphs(
        "A profile says where to talk, and as whom. The file is the first of --profiles, GUESTCTL_PROFILES, "
        "./profiles.yaml, and profiles.yaml in the user's configuration directory; `guestctl profile path` says which. "
        "The profile is -p, else GUESTCTL_PROFILE, else the file's `default`, else its only one. `sandbox` is built in."
        "\n\nA dot is a mapping inside. ${VARIABLE} and ${VARIABLE:-default} are filled in from the environment.",
        width,
    )
    yield "default: staging\nprofiles:\n  staging:\n    region: eu-central-1\n    deployment_id: ID\n"
    yield "Keys:\n" + columns(KEYS.items(), width)
    yield "Regions (any other domain is taken, too):\n" + columns(
        ((found.aws, f"{found.domain}  {found.place}") for found in REGIONS), width
    )
    yield "`guestctl profile add NAME --region REGION --deployment-id ID` writes one.\n"


_PAGES: dict[str, Callable[[int | None], Iterator[str]]] = {
    "bots": _bots,
    "checks": _checks,
    "environment": _environment,
    "exit-codes": _exit_codes,
    "faults": _faults,
    "output": _output,
    "profiles": _profiles,
}
