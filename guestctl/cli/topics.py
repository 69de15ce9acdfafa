"""The pages of `guestctl help TOPIC`, for what belongs to more than one command.

Knows: how the tables of other modules become a page, and the texts of keys and variables that have no table elsewhere.
Must not know: any command. No page repeats what a table states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from guestctl.cli.help import columns, paragraphs, sentences

#: Variables of guestctl that are not profile keys.
OURS: dict[str, str] = {
    "GUESTCTL_PROFILE": "profile to use, like -p",
    "GUESTCTL_PROFILES": "profile file, like --profiles",
    "GUESTCTL_SESSION": "stored session, like -s",
    "GUESTCTL_OUTPUT": "output mode, like -o",
    "GUESTCTL_STATE": "directory of the state database (default: the user's state directory)",
    "GUESTCTL_TRACE": "trace to create or extend, like --trace-append",
    "GUESTCTL_SPAN_TEXT": "yes: spans contain the text of messages (default: no)",
    "GUESTCTL_PAGER": "pager for long output on a terminal (default: none)",
    "GUESTCTL_CODE_VERIFIER": "PKCE verifier of a sign-in, like --code-verifier",
    "GUESTCTL_ID_TOKEN": "id token of a sign-in, like --id-token",
    "GUESTCTL_ATTACH_TOKEN": "token of the session that `session attach` takes over",
    "GUESTCTL_ATTACH_CONVERSATION": "conversation id of that session, where the API needs it",
    "GUESTCTL_ATTACH_GUEST": "guest id of that session, where the API needs it",
    "GUESTCTL_ATTACH_SESSION": "session id of that session, where the API needs it",
    "GUESTCTL_FORWARD_SECRET": "secret that signs what `listen --forward-to` posts",
    "GUESTCTL_REDIS_PASSWORD": "password for the Redis server of `relay serve --publish`",
    "GUESTCTL_RELAY_KEY": "key of the relay that `listen --relay` reads from",
    "GUESTCTL_RECORD_KIND": "kind of the record; set by `listen --exec`, like the next four",
    "GUESTCTL_RECORD_ID": "service id of the record, empty if it has none",
    "GUESTCTL_RECORD_KEY": "client key of the record, empty if it has none",
    "GUESTCTL_RECORD_ROLE": "sender of the record: bot, agent, guest or system; empty where the API does not name it",
    "GUESTCTL_RECORD_CONVERSATION": "id of the conversation, empty where the API has none",
    "GUESTCTL_SANDBOX_URL": "address of the sandbox for -p sandbox; set by `sandbox exec`",
    "GUESTCTL_SANDBOX_ADMIN_KEY": "key for `sandbox push`, `sandbox fault` and so on; set by `sandbox exec`",
    "GUESTCTL_SANDBOX_DEDUPLICATES": "yes if the sandbox of GUESTCTL_SANDBOX_URL deduplicates; set by `sandbox exec`",
    "GUESTCTL_SANDBOX_LIMITS": "none if that sandbox, on loopback, enforces no rate limits; set by `sandbox exec`",
    "GUESTCTL_SANDBOX_CA": "CA file of a sandbox with --tls; set by `sandbox exec`",
}
#: Variables that other programs also read.
COMMON: dict[str, str] = {
    "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY": "proxy for requests and sockets: http://, https://, "
    "or SOCKS with the extra guestctl[socks] (socks5h://, socks5://, socks4a://, socks4://); "
    "never used for loopback addresses",
    "NO_PROXY": "hosts to reach without a proxy",
    "SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE": "certificate authorities, if the profile has no tls.ca",
    "NO_COLOR, FORCE_COLOR, TERM": "no colour; always colour; no colour if TERM is `dumb`",
    "COLUMNS": "width of the terminal",
    "TRACEPARENT, TRACESTATE": "W3C trace context to send, like --traceparent",
    "BAGGAGE": "W3C baggage to send with --propagate-baggage",
    "OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER, OTEL_SDK_DISABLED": "export spans, with the extra "
    "guestctl[otel] (docs/tracing.md)",
    "GITHUB_ACTIONS, GITHUB_WORKSPACE": "set in GitHub Actions, where `check` annotates failed lines and "
    "a bot's `::` commands are escaped",
    "XDG_CONFIG_HOME, XDG_STATE_HOME": "directories of the user's profiles and state on Linux",
}
#: Profile key -> its meaning.
KEYS: dict[str, str] = {
    "api": "API (`guestctl apis`)",
    "region": "AWS name or domain of the region",
    "base_url": "REST address, instead of the region's; sufficient without a region",
    "socket_url": "socket address, instead of the region's",
    "config_url": "address of the deployment's configuration",
    "deployment_id": "id of the deployment",
    "origin": "Origin header to send, if the deployment restricts its domains",
    "attributes": "custom attributes of every session: a mapping of texts",
    "service.deduplicates": "true if the service stores a repeated message once; allows guestctl to send it again",
    "tls.ca": "PEM file of certificate authorities",
    "tls.cleartext": "true allows http:// and ws:// to other machines, for test networks; no variable sets it",
    "retry.attempts": "maximum number of attempts to reconnect",
    "retry.base": "upper limit of the first random pause between attempts; later ones are longer",
    "retry.cap": "upper limit of all pauses between attempts",
    "name": "name of the guest",
    "email": "e-mail address of the guest",
    "queue": "queue to route the conversation to",
    "skill": "skill to route the conversation by",
    "language": "language of the guest",
    "environment": "environment of the platform, part of the host name",
    "org": "organisation, part of the host name",
    "aws_region": "AWS region, part of the host name",
    "socket_path": "path of the socket",
    "refresh_style": "token renewal: guest-refresh or guest-token",
    "store_tokens": "where tokens are stored: database or memory",
    "journey_context": "journeyContext of the session: a mapping",
    "application": "name of the application, part of the socket address",
    "oauth.client_id": "id of the OAuth client",
    "oauth.client_secret": "secret of the OAuth client, written as ${VARIABLE}",
    "ai.base_url": "address of the model that AI steps of `check` ask, up to /chat/completions",
    "ai.key": "key for that address, written as ${VARIABLE}",
    "ai.model": "model to use where a script names none",
}


#: Key of a bot script -> its meaning. `sandbox/bot/bot_script.py` reads them.
BOT_KEYS: dict[str, str] = {
    "name": "name of the bot",
    "greeting": "answer to a guest who joins (on web-messaging only with --auto-start)",
    "rules": "list of rules; the first matching rule answers",
    "otherwise": "answer if no rule matches",
    "match": "in a rule: a regular expression, found anywhere, ignoring case",
    "contains": "in a rule: a text, found anywhere, ignoring case",
    "equals": "in a rule: the whole text, ignoring case",
    "payload": "in a rule: the exact payload of a button",
    "times": "in a rule: maximum matches per conversation",
    "after_handover": "in a rule: match only after (true) or only before (false) the handover to an agent",
    "reply": "one reply: a text, or a mapping of `text` and the keys below",
    "replies": "several replies; [] sends none",
    "delay": "pause before a reply; at the top level: before each reply (default: 600ms)",
    "typing": "send a typing indicator before the reply",
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
    "handover": "hand over to an agent: {name: NAME}",
    "disconnect": "true ends the conversation",
}
#: A complete bot script.
BOT = """\
greeting: Hello!
rules:
  - match: parcel (\\d+)
    reply: Parcel ${1} is on its way.
    quickReplies: [Track it, Send it back]
  - contains: human
    replies: [One moment, {text: I am calling a colleague., delay: 500ms}]
    handover: {name: Mina}
  - equals: bye
    reply: Goodbye
    disconnect: true
otherwise: I do not understand ${text}
"""
#: A minimal check script.
CHECK = """\
scenarios:
  "Knows the hours":
    - say: When are you open?
    - expect: {contains: Monday, within: 5s}
"""
_FAULT_KEYS: dict[str, str] = {
    "after=N": "fires at the Nth frame or request from now on; fires once unless `times` is set",
    "every=N": "fires at every Nth frame or request",
    "times=N": "fires at most N times",
    "on=WHAT": "counts only create, send, history, socket, refresh, typing or upload",
}


def page(topic: str, width: int | None) -> str:
    """Return the page of a topic in `registry.TOPICS`."""
    return "\n".join(_PAGES[topic](width))


def _environment(width: int | None) -> Iterator[str]:
    from guestctl.config import profile_keys

    yield paragraphs(
        "guestctl takes a value from an option, else from a variable, else from the profile, else from its defaults.",
        width,
    )
    yield "Variables of guestctl:\n" + columns(OURS.items(), width)
    yield "Variables for profile keys:\n" + columns(
        ((profile_keys.variable(key), key) for key, rule in profile_keys.KEYS.items() if not rule.file_only), width
    )
    yield "Variables of other programs:\n" + columns(COMMON.items(), width)
    yield sentences("`guestctl profile show` shows each value and where it comes from.", width)


def _bots(width: int | None) -> Iterator[str]:
    yield paragraphs(
        "A bot script is a YAML or JSON file with the answers of the sandbox's bot: "
        "`guestctl sandbox serve --script bot.yaml`. An answer is a text, a list of replies or a mapping. "
        "Without a script the bot echoes each message.",
        width,
    )
    yield BOT
    yield paragraphs(
        "${1} and ${name} are groups of `match`. ${text}, ${payload}, ${count} (the number of the guest's messages) "
        "and ${attr.KEY} are always defined.",
        width,
    )
    yield "Keys:\n" + columns(BOT_KEYS.items(), width)
    yield sentences("`guestctl sandbox exec --script bot.yaml -- guestctl ask hi` tests a script.", width)


def _checks(width: int | None) -> Iterator[str]:
    from guestctl.checks import script_keys

    yield paragraphs(
        "A check script is a YAML or JSON file of conversation tests for `guestctl check`. `scenarios` maps each "
        "name to its steps. Durations are written 2s, 500ms or 1m. Every text may contain ${name} and "
        "${name:-default}.",
        width,
    )
    yield CHECK
    for title, table in script_keys.PARTS:
        rows = (
            (name, key.meaning if key.value == "–" else f"{key.value}: {key.meaning}") for name, key in table.items()
        )
        yield f"{title}:\n" + columns(rows, width)
    yield sentences(
        "`guestctl check FILE.yaml` runs a script, `guestctl check DIR` all scripts below a directory, and `guestctl "
        "check -` one from stdin. `guestctl check --keys` prints these tables as Markdown.",
        width,
    )


def _faults(width: int | None) -> Iterator[str]:
    from guestctl.sandbox.faults import KINDS

    yield paragraphs(
        "`guestctl sandbox fault SPEC` injects a fault into a running sandbox; --fault SPEC of `sandbox serve` and "
        "`sandbox exec` injects it from the start, and that of `guestctl proxy` between clients and a service. A SPEC "
        "is kind:key=value,key=value. A fault in the frame of a message never affects the message itself, which the "
        "service has stored.",
        width,
    )
    yield "Kinds and their keys:\n" + columns(((kind.written, kind.does) for kind in KINDS.values()), width)
    yield "Keys of every kind:\n" + columns(_FAULT_KEYS.items(), width)
    yield sentences(
        "`guestctl sandbox fault` lists the active faults. `guestctl sandbox fault --clear` removes them.", width
    )


def _exit_codes(width: int | None) -> Iterator[str]:
    from guestctl.cli.commands.explanations import everything

    yield columns(((entry.code, entry.meaning) for entry in everything() if entry.kind == "exit code"), width)
    yield paragraphs(
        "A failure prints two lines on stderr: `error:` with the cause and `hint:` with the next step. "
        'JSON output has one object instead, {"error": {"code", "exit", "message", "hint", …}}, whose `code` is a '
        "stable name. That is so with -o json or jsonl, or if neither stdout nor stderr is a terminal.",
        width,
    )
    yield sentences(
        "`guestctl explain CODE` explains such a name. `guestctl explain exit 9` explains an exit code.", width
    )


def _output(width: int | None) -> Iterator[str]:
    from guestctl.output.schema import SCHEMAS

    modes = {
        "auto": "table on a terminal; elsewhere JSON: one object, or one object per line for lists and streams",
        "table": "tables, as wide as the terminal; in a pipe as wide as COLUMNS or 80, and without colour",
        "json": "one object for a single result, an array for a list, one object per line for a stream",
        "jsonl": "one object per line",
        "yaml": "the same records as YAML; a stream has one document per record",
        "csv": "a header and one row per record, for history and for lists; GUESTCTL_OUTPUT applies it only there",
    }
    yield paragraphs(
        "Data goes to stdout, diagnostics to stderr. The keys of records are stable; new keys may be added. Times are "
        "RFC 3339 in UTC with milliseconds. --raw adds the service's own objects. Tables are for people and may "
        "change. They show local times; with -v every time has its date and its offset from UTC.",
        width,
    )
    yield "Modes of -o and GUESTCTL_OUTPUT:\n" + columns(modes.items(), width)
    yield "Records, by their name for `guestctl schema`:\n" + columns(
        ((kind, found["title"]) for kind, found in SCHEMAS.items()), width
    )
    yield sentences("`guestctl schema NAME` prints the JSON Schema of a record.", width)


def _profiles(width: int | None) -> Iterator[str]:
    from guestctl.config.regions import REGIONS

    yield paragraphs(
        "A profile names the service to connect to and describes the guest. guestctl reads the first of these files: "
        "--profiles, GUESTCTL_PROFILES, ./profiles.yaml, and profiles.yaml in the user's configuration directory. "
        "`guestctl profile path` prints the path. The profile is -p, or GUESTCTL_PROFILE, or the file's `default`, or "
        "the file's only profile. The profile `sandbox` is built in.\n\n"
        "A dot in a key stands for a nested mapping. ${VARIABLE} and ${VARIABLE:-default} are replaced from the "
        "environment.\n\n"
        "./profiles.yaml needs trust before it may name hosts outside the vendor's domains, read variables, name "
        "certificate authorities or allow cleartext: `guestctl profile trust PATH`.",
        width,
    )
    yield "default: staging\nprofiles:\n  staging:\n    region: eu-central-1\n    deployment_id: ID\n"
    yield "Keys:\n" + columns(KEYS.items(), width)
    yield "Regions (any other domain is also accepted):\n" + columns(
        ((found.aws, f"{found.domain}, {found.place}") for found in REGIONS), width
    )
    yield sentences("`guestctl profile add NAME --region REGION --deployment-id ID` adds a profile.", width)


_PAGES: dict[str, Callable[[int | None], Iterator[str]]] = {
    "bots": _bots,
    "checks": _checks,
    "environment": _environment,
    "exit-codes": _exit_codes,
    "faults": _faults,
    "output": _output,
    "profiles": _profiles,
}
