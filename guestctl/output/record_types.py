"""The types of the records that guestctl prints: the one definition of their members (contract.md §4).

Knows: names, types, order and descriptions of the members. Must not know: how `records` builds a record, how
`schema` turns these types into JSON Schema. Only type checkers and `schema` load this module.

`Annotated` adds what a type cannot express: a text is the description, a dict adds JSON Schema keywords.
Records are open: a later version may add members, so consumers must ignore members that they do not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypedDict

_MOMENT = {
    "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$",
    "description": "RFC 3339 UTC with milliseconds",
}
Moment: TypeAlias = Annotated[str, _MOMENT]
MaybeMoment: TypeAlias = Annotated[str | None, _MOMENT]
Count: TypeAlias = Annotated[int, {"minimum": 0}]
#: What the service sent, secrets masked; only with --raw.
Raw: TypeAlias = Annotated[Any, "the service's own object, secrets masked; only with --raw"]
#: The id that a relay gives an event; only from a relay.
RelayId: TypeAlias = Annotated[
    str | None, "only from a relay: its own id of the event, epoch-number; null if the record has none"
]
Direction: TypeAlias = Literal["inbound", "outbound"]
Source: TypeAlias = Literal["live", "history", "replayed"]


class SenderRecord(TypedDict):
    role: Literal["guest", "bot", "agent", "system"] | None
    name: str | None


class OptionRecord(TypedDict):
    text: str
    payload: str
    kind: str
    url: str | None
    group: str | None


class AttachmentRecord(TypedDict):
    id: str | None
    name: str | None
    mime: str | None
    size: int | None
    media_type: str | None


# A member named `from` cannot be declared in a class body.
_MessageMembers = TypedDict(
    "_MessageMembers",
    {
        "kind": Literal["message"],
        "id": Annotated[str | None, "the service's id; null only for a send that was not accepted"],
        "key": Annotated[str | None, "the client's own id of a guest message"],
        "session": str,
        "direction": Annotated[Direction, "as on the wire: a message from the guest is inbound"],
        "from": SenderRecord,
        "text": str,
        "time": MaybeMoment,
        "source": Source,
        "content": Annotated[list[Any], "the service's structured parts, as sent"],
        "options": list[OptionRecord],
        "attachments": list[AttachmentRecord],
    },
)


class MessageRecord(_MessageMembers, total=False):
    raw: Raw
    relay_id: RelayId
    following: Annotated[list[dict[str, Any]], "only of ask: the messages of the reply after this one"]


class _SentMembers(_MessageMembers):
    delivery: Literal["accepted", "rejected", "not_sent", "in_doubt"]


class SentRecord(_SentMembers, total=False):
    reply: Annotated[MessageRecord | None, "only with --wait or --expect"]
    raw: Raw


class IdsRecord(TypedDict):
    conversation: str | None
    guest: str | None


class ActivityRecord(TypedDict):
    timestamp: Moment
    event: str
    details: dict[str, Any]


class ReportRecord(TypedDict):
    kind: Literal["report"]
    session: str
    api: str
    state: str
    duration_ms: Count
    activity: list[ActivityRecord]


class _SessionMembers(TypedDict):
    kind: Literal["session"]
    name: str
    api: str
    profile: str
    ids: Annotated[IdsRecord, {"additionalProperties": {"type": ["string", "null"]}}]
    state: Annotated[
        Literal["draft", "active", "read_only", "ended", "expired", "cleared", "evicted", "unreadable"],
        "unreadable: only of session forget, when the stored record could not be read",
    ]
    new_session: bool
    read_only: bool
    created_at: MaybeMoment
    expires_at: MaybeMoment
    token_expires_at: MaybeMoment


class SessionRecord(_SessionMembers, total=False):
    token: Annotated[str | None, "only with session show --show-token"]
    report: Annotated[ReportRecord, "only of session end and clear: the duration and the activity"]
    missed: Annotated[
        list[MessageRecord | UnknownRecord | GapRecord], "only of resume: what followed the last message shown"
    ]


class SignInRecord(TypedDict):
    token: str
    refresh_token: str | None
    expires_at: MaybeMoment


class _SessionExportMembers(TypedDict):
    kind: Literal["session-export"]
    api: str
    deployment_id: str | None
    addresses: Annotated[list[str], "the addresses that the token was made for"]
    ids: Annotated[IdsRecord, {"additionalProperties": {"type": ["string", "null"]}}]
    expires_at: MaybeMoment
    token_expires_at: MaybeMoment


class SessionExportRecord(_SessionExportMembers, total=False):
    token: Annotated[str, "only with --show-token"]
    sign_in: Annotated[SignInRecord, "only with --show-token: the sign-in of a signed-in guest"]


_TypingMembers = TypedDict(
    "_TypingMembers",
    {
        "kind": Literal["typing"],
        "session": str,
        "from": SenderRecord,
        "duration_ms": int | None,
        "time": Moment,
    },
)


class TypingRecord(_TypingMembers, total=False):
    raw: Raw
    relay_id: RelayId


_PresenceMembers = TypedDict(
    "_PresenceMembers",
    {
        "kind": Literal["presence"],
        "id": str | None,
        "key": str | None,
        "session": str,
        "direction": Direction,
        "from": SenderRecord,
        "presence": str,
        "read_only": bool,
        "time": Moment,
        "source": Source,
    },
)


class PresenceRecord(_PresenceMembers, total=False):
    raw: Raw
    relay_id: RelayId


# Several kinds have these members. Each has a schema of its own.
_ParticipantEventMembers = TypedDict(
    "_ParticipantEventMembers",
    {
        "id": Annotated[str | None, "the service's id; of a receipt, the id of the message"],
        "session": str,
        "direction": Direction,
        "from": SenderRecord,
        "status": Annotated[str | None, "what happened, as the service spells it: Delivered, Offering, …"],
        "details": Annotated[dict[str, Any], "the other members as the service sent them, secrets masked"],
        "time": Moment,
    },
)


class _ParticipantEvent(_ParticipantEventMembers, total=False):
    raw: Raw
    relay_id: RelayId


class ParticipantEventRecord(_ParticipantEvent):
    kind: Literal["receipt", "cobrowse", "video", "reactions"]


class ReceiptRecord(_ParticipantEvent):
    kind: Literal["receipt"]


class CoBrowseRecord(_ParticipantEvent):
    kind: Literal["cobrowse"]


class VideoRecord(_ParticipantEvent):
    kind: Literal["video"]


class ReactionsRecord(_ParticipantEvent):
    kind: Literal["reactions"]


class _ServiceErrorMembers(TypedDict):
    kind: Literal["error"]
    session: str
    code: Annotated[str | int | None, "the service's own code"]
    message: str
    time: Moment


class ServiceErrorRecord(_ServiceErrorMembers, total=False):
    raw: Raw
    relay_id: RelayId


class _SessionEventMembers(TypedDict):
    kind: Literal["session"]
    session: str
    change: Literal[
        "read_only",
        "expired",
        "cleared",
        "evicted",
        "logged_out",
        "ended",
        "token_expired",
    ]
    reason: str | None
    time: Moment


class SessionEventRecord(_SessionEventMembers, total=False):
    raw: Raw
    relay_id: RelayId


class _ConnectionMembers(TypedDict):
    kind: Literal["connection"]
    session: str
    state: Literal["connecting", "live", "lost", "retrying", "gave_up"]
    detail: str | None
    attempt: Count
    delay: Annotated[float | None, "seconds before the next attempt"]
    close_code: int | None
    recovered: Annotated[int | None, "messages fetched from history after a reconnect"]
    time: Moment


class ConnectionRecord(_ConnectionMembers, total=False):
    raw: Raw
    relay_id: RelayId


class _GapMembers(TypedDict):
    kind: Literal["gap"]
    session: str
    after: str | None
    before: str | None
    reason: Annotated[
        str,
        "unproved, missing or too_long, or why history cannot be read; from a relay also not_retained and other_log",
    ]
    time: Moment


class GapRecord(_GapMembers, total=False):
    raw: Raw
    relay_id: RelayId
    first_missing: Annotated[str | None, "only from a relay: the first id that its log no longer has; null: unknown"]
    last_missing: Annotated[str | None, "only from a relay: the last id that its log no longer has; null: unknown"]


class _SlowMembers(TypedDict):
    kind: Literal["slow"]
    session: str
    resume_after: Annotated[str, "the id with which the reader continues"]
    time: Moment


class SlowRecord(_SlowMembers, total=False):
    relay_id: RelayId


class _EndMembers(TypedDict):
    kind: Literal["end"]
    session: str
    resume_after: Annotated[str, "the id of the newest event of the log"]
    code: Annotated[str | None, "the failure that ended the session, null if only the relay stops"]
    reason: str
    time: Moment


class EndRecord(_EndMembers, total=False):
    relay_id: RelayId


class _UnknownMembers(TypedDict):
    kind: Literal["unknown"]
    session: str
    label: str
    time: Moment


class UnknownRecord(_UnknownMembers, total=False):
    raw: Raw
    relay_id: RelayId


class _ErrorMembers(TypedDict):
    code: str
    exit: int
    message: str
    hint: str
    api: str | None
    http_status: int | None
    service_code: str | int | None
    retry_after: Annotated[float | None, "seconds"]
    body: str | None


class ErrorMembers(_ErrorMembers, total=False):
    warnings: Annotated[list[str], "about safety or damage, that the command could not print before"]


class ErrorRecord(TypedDict):
    error: ErrorMembers


class TokenRecord(TypedDict):
    kind: Literal["token"]
    form: Literal["jwt", "opaque"]
    verified: Literal[False]
    header: dict[str, Any]
    claims: dict[str, Any]
    issued_at: MaybeMoment
    expires_at: MaybeMoment
    seconds_left: int | None
    expired: bool | None
    problems: list[str]


class _ProfileMembers(TypedDict):
    kind: Literal["profile"]
    name: str


class ProfileValueRecord(TypedDict):
    value: Any
    origin: str


class ProfileRecord(_ProfileMembers, total=False):
    default: Annotated[bool, "list: whether it is the file's default"]
    api: Annotated[str, "list"]
    address: Annotated[str | None, "list"]
    values: Annotated[dict[str, ProfileValueRecord], "show: each effective value and its source"]
    change: Annotated[
        Literal["added", "changed", "renamed", "removed", "default"], "add, set, rename, remove, use: what was done"
    ]
    path: Annotated[str, "add, set, rename, remove, use: the file that was changed"]
    sessions: Annotated[Count, "rename, remove: number of stored sessions that were moved or removed"]
    former_name: Annotated[str, "rename: the name until now"]


class ProfileTrustRecord(TypedDict):
    kind: Literal["profile-trust"]
    path: str
    sha256: Annotated[str, "digest of the content that is trusted"]


class ProfilePathRecord(TypedDict):
    kind: Literal["profile-path"]
    path: str
    origin: str
    exists: bool


class ProfileCheckRecord(TypedDict):
    kind: Literal["profile-check"]
    path: str
    profiles: list[str]
    warnings: list[str]


class DownloadRecord(TypedDict):
    kind: Literal["download"]
    id: str
    path: str
    size: Count


class GuestRecord(TypedDict):
    kind: Literal["guest"]
    session: str
    attributes: dict[str, Any]


class _SandboxMembers(TypedDict):
    kind: Literal["sandbox"]


class SandboxRecord(_SandboxMembers, total=False):
    pushed: Annotated[Count, "push: number of sessions that received it"]
    specs: Annotated[list[str], "fault: the armed faults"]
    ended: Annotated[Count, "disconnect: number of conversations"]
    expired: Annotated[Count, "expire: number of sessions"]


class SandboxMessageRecord(TypedDict):
    id: str
    key: str | None
    direction: Direction
    text: str | None
    time: str


class SandboxSessionRecord(TypedDict):
    kind: Literal["sandbox-session"]
    id: str
    api: str
    state: str
    created_at: Moment
    sockets: Count
    refreshes: Count
    configures: Count
    requests: dict[str, Count]
    messages: list[SandboxMessageRecord]


class SandboxChangeRecord(TypedDict):
    kind: Literal["sandbox-change"]
    id: str
    api: str
    state: str
    sockets: Count
    messages: Annotated[Count, "the number of messages"]
    requests: Annotated[Count, "the number of requests, actions and connections"]
    created_at: Moment


class RelayRecord(TypedDict):
    kind: Literal["relay"]
    url: Annotated[str, "the base address"]
    events: Annotated[str, "the address of the event stream"]
    socket: Annotated[str, "the address of the WebSocket"]
    grpc: Annotated[str | None, "the host and port of gRPC, null without --grpc"]
    sessions: Annotated[list[str], "the names of the sessions"]


class RelayKeyRecord(TypedDict):
    kind: Literal["relay-key"]
    session: str
    right: Annotated[Literal["read", "send"], "send: the key may also read"]
    key: str


class TraceViewRecord(TypedDict):
    kind: Literal["trace-view"]
    ui_url: Annotated[str, "the address of the page, with a secret token"]
    files: Annotated[list[str], "the traces that it shows"]


class ProxyRecord(TypedDict):
    kind: Literal["proxy"]
    url: Annotated[str, "the base address for clients"]
    socket_url: Annotated[str, "the base address of the sockets"]
    target: Annotated[str, "the address of the service"]
    ca: Annotated[str | None, "the file of the certificate authority, null without --tls"]
    environment: Annotated[dict[str, str], "the variables with which guestctl uses the proxy"]
    ui_url: Annotated[str | None, "the address of the inspector, with a secret token; null without --ui"]


class DemoRecord(TypedDict):
    kind: Literal["demo"]
    text: str


class StepRecord(TypedDict):
    kind: Literal["step"]
    step: Literal["connect", "frame", "request"]
    method: str | None
    url: str | None
    headers: dict[str, str]
    body: Annotated[Any, "the frame, or the request's body; null without one"]


class DoctorRecord(TypedDict):
    kind: Literal["doctor"]
    check: str
    target: Annotated[str | None, "the host, Origin, session or address that was checked"]
    result: Literal["ok", "warning", "failed", "skipped"]
    found: str
    failure: Annotated[str | None, "the stable failure code, for explain"]
    fix: str | None
    took_ms: float | None
    details: dict[str, Any]


class ExplanationRecord(TypedDict):
    kind: Literal["explanation"]
    code: str
    type: Literal["exit code", "failure", "HTTP status", "close code", "service code", "frame class", "message"]
    meaning: str
    cause: str | None
    guestctl: Annotated[str | None, "what guestctl does about it"]
    next_step: str | None
    failure: Annotated[str | None, "the stable code of the failure that results"]
    exit: Annotated[int | None, "the exit code of that failure"]
    apis: Annotated[list[str], "the APIs that use it; empty: all"]
    source: str


class TranscriptRecord(TypedDict):
    at: Annotated[float, "seconds since the start of the scenario"]
    who: Annotated[str | None, "guest, bot, agent, system or service; null for a remark"]
    text: str
    id: str | None
    options: list[str]
    files: list[str]
    content: Annotated[list[str], "the lines of cards, pickers and forms"]


class ReplyRecord(TranscriptRecord):
    unmet: Annotated[list[str], "the conditions that this reply does not meet"]


class TroubleRecord(TypedDict):
    message: str
    line: Annotated[int, "line of the step in the script"]
    step: str
    expected: str | None
    came: Annotated[list[ReplyRecord], "the last replies that came instead"]
    late: Annotated[list[ReplyRecord], "replies that came after the step had failed"]
    missing: Annotated[list[str], "those of several expected replies that did not come"]
    error: Annotated[ErrorMembers | None, "the failure, unless an expectation was not met"]


class JudgedVoteRecord(TypedDict):
    verdict: Literal["yes", "no", "cannot tell", "invalid"]
    messages: Annotated[list[str | None], "the service's ids of the messages that the vote names"]
    why: str
    problem: Annotated[str | None, "why the vote counts for no side"]


class JudgedRecord(TypedDict):
    criterion: str
    never: Annotated[bool, "whether it must not happen"]
    decision: Annotated[Literal["passed", "failed", "undecided"], "what a strict majority of the votes decides"]
    why: str
    votes: list[JudgedVoteRecord]
    quoted: Annotated[list[TranscriptRecord], "the messages that the deciding votes name"]


class ModelUsageRecord(TypedDict):
    calls: Count
    tokens: Count
    seconds: float


class PassRateRecord(TypedDict):
    script: str
    scenario: str
    runs: Count
    passed: Count
    failed: Count
    rate: Annotated[float | None, "of the runs that passed or failed; null if there is none"]
    low: Annotated[float, "lower bound of the 95 % interval"]
    high: Annotated[float, "upper bound of the 95 % interval"]


class CheckRecord(TypedDict):
    kind: Literal["check"]
    script: str
    scenario: str
    line: int
    tags: list[str]
    verdict: Annotated[
        Literal["passed", "failed", "undecided", "customer_failed", "error"],
        "failed: an expectation was not met; undecided: the judge decided nothing; customer_failed: "
        "the customer of the "
        "test was at fault; error: it could not be tested",
    ]
    seconds: float
    attempts: Annotated[Count, "0 for a scenario that was not started"]
    trouble: Annotated[TroubleRecord | None, "null for a scenario that passed"]
    ids: dict[str, str | None]
    transcript: list[TranscriptRecord]
    remarks: list[str]
    judged: Annotated[list[JudgedRecord], "the judgement on each criterion"]
    model: Annotated[ModelUsageRecord | None, "null if no model takes part"]
    repetition: Annotated[int | None, "the number of the run with --repeat, null without"]


class _CheckRunMembers(TypedDict):
    kind: Literal["check-run"]
    passed: Count
    failed: Count
    undecided: Count
    customer_failed: Count
    errors: Count
    seconds: float
    model: Annotated[ModelUsageRecord | None, "the sum of all scenarios; null if no model takes part"]
    rates: Annotated[list[PassRateRecord], "with --repeat"]


class CheckRunRecord(_CheckRunMembers, total=False):
    scenarios: Annotated[list[CheckRecord], "with -o json and yaml; with -o jsonl each scenario is a line of its own"]


class PlannedScenarioRecord(TypedDict):
    scenario: str
    calls: Count


class PlannedScriptRecord(TypedDict):
    script: str
    scenarios: list[PlannedScenarioRecord]
    calls: Annotated[Count, "the most model calls, within the budget"]
    answer_tokens: Annotated[Count, "the most tokens of all answers"]
    token_budget: int | None


class CheckPlanRecord(TypedDict):
    kind: Literal["check-plan"]
    calls: Count
    answer_tokens: Count
    scripts: list[PlannedScriptRecord]


class LoadTimeRecord(TypedDict):
    count: Count
    min: float | None
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p99_9: float | None
    max: float | None


class LoadTimesRecord(TypedDict):
    connect: Annotated[LoadTimeRecord, "from the first packet to the open socket"]
    create: Annotated[LoadTimeRecord, "until the service has confirmed a new session"]
    accepted: Annotated[LoadTimeRecord, "from writing a message to its echo or answer"]
    reply: Annotated[LoadTimeRecord, "from the moment when the message should have been sent to the first reply"]
    last_reply: Annotated[LoadTimeRecord, "from the same moment to the last reply of the turn"]


class LoadFailureRecord(TypedDict):
    what: str
    count: Count


class LoadObjectiveRecord(TypedDict):
    objective: Annotated[str, "as given with --slo"]
    value: Annotated[float | None, "what was measured: seconds, a share from 0 to 1, or a number; null for nothing"]
    met: bool


class LoadRecord(TypedDict):
    kind: Literal["load"]
    script: str
    seconds: float
    guests: Count
    workers: Annotated[Count, "processes that ran guests for a master; 0 for one process"]
    lost_workers: Count
    complete: Annotated[bool, "false if a worker is gone: the result is then not good, whatever it says"]
    stopped: Annotated[Literal["throttled", "interrupted"] | None, "why the test ended early; null if it did not"]
    conversations: Count
    passed: Annotated[Count, "conversations that went as their script says"]
    not_passed: Count
    unfinished: Annotated[Count, "conversations that the end of the test cut off"]
    turns: Annotated[Count, "messages of guests with their replies"]
    messages: Annotated[Count, "messages that were accepted, or whose outcome is another one"]
    attempts: Annotated[Count, "upgrades, requests and written messages"]
    turns_per_second: float
    failed: Annotated[Count, "turns that failed, and conversations that could not begin"]
    unanswered: Annotated[Count, "turns in which no awaited reply came"]
    in_doubt: Count
    rejected: Annotated[Count, "messages that the service refused or that could not be sent"]
    throttled: Annotated[Count, "answers 429"]
    reconnects: Annotated[Count, "connections that broke and were opened again"]
    gaps: Count
    lost: Annotated[Count, "replies that only history has, and accepted messages that history lacks"]
    duplicates: Annotated[Count, "messages that arrived twice on one socket"]
    swapped: Annotated[Count, "messages that arrived after a later one"]
    errors: Annotated[Count, "internal errors of guestctl"]
    times: Annotated[LoadTimesRecord, "in seconds"]
    failures: Annotated[list[LoadFailureRecord], "what went wrong, the most frequent first"]
    objectives: list[LoadObjectiveRecord]


class JudgedLabelRecord(TypedDict):
    conversation: str
    criterion: str
    never: bool
    label: Annotated[bool, "what the file says"]
    verdict: Annotated[bool | None, "what the majority of the votes says; null if there is none"]
    why: str
    votes: list[JudgedVoteRecord]


class JudgeRunRecord(TypedDict):
    kind: Literal["judge-run"]
    model: str
    votes: Count
    labels: Count
    agreed: Count
    said_yes_for_no: Annotated[Count, "labels no that the judge answered with yes"]
    said_no_for_yes: Annotated[Count, "labels yes that the judge answered with no"]
    undecided: Count
    agreement: Annotated[float | None, "of the decided labels; null if there is none"]
    low: Annotated[float, "lower bound of the 95 % interval"]
    high: Annotated[float, "upper bound of the 95 % interval"]
    usage: ModelUsageRecord
    judged: list[JudgedLabelRecord]


class ApiRecord(TypedDict):
    kind: Literal["api"]
    name: str
    summary: str
    operations: dict[str, Literal["documented", "assumed"] | None]
    fields: list[str]


#: Name in `guestctl schema` -> the title of its schema, and its type.
RECORD_TYPES: dict[str, tuple[str, Any]] = {
    "session": (
        "A session, of session create, list, show, use, end, clear, forget, resume and refresh-token",
        SessionRecord,
    ),
    "session-export": (
        "A session for another machine or program, of session export: what session attach reads",
        SessionExportRecord,
    ),
    "message": ("A message", MessageRecord),
    "sent": ("The outcome of a send: the message with its delivery", SentRecord),
    "typing": ("A participant is typing", TypingRecord),
    "presence": ("A presence event: Join, Disconnect, SignIn … as the service spells it", PresenceRecord),
    "receipt": ("A receipt: a message was delivered or read, or failed", ReceiptRecord),
    "cobrowse": ("An offer of co-browsing, or its outcome", CoBrowseRecord),
    "video": ("An offer of a video call, or its outcome", VideoRecord),
    "reactions": ("Reactions to a message", ReactionsRecord),
    "error-event": ("An error that the service reports in the stream (a record of kind error)", ServiceErrorRecord),
    "session-event": (
        "A change of the session as a whole (a record of kind session with `change`)",
        SessionEventRecord,
    ),
    "connection": (
        "The state of guestctl's own connection; in the stream only with --only connection",
        ConnectionRecord,
    ),
    "gap": ("Messages may be missing between two message ids", GapRecord),
    "unknown": ("A frame or event that guestctl does not know", UnknownRecord),
    "slow": ("The last record of a relay's reader that has fallen behind", SlowRecord),
    "end": ("The last record of a relay's stream: the relay stops, or the session has ended", EndRecord),
    "error": ("A failure, on stderr with JSON output", ErrorRecord),
    "token": ("The contents of a token, of token inspect: not the token itself, and not verified", TokenRecord),
    "report": ("A session's duration and activity, of session report", ReportRecord),
    "profile": ("A profile, of the commands profile list, show, add, set, rename, remove and use", ProfileRecord),
    "profile-trust": ("A trusted profile file", ProfileTrustRecord),
    "profile-path": ("The path of the profile file, and how it was chosen", ProfilePathRecord),
    "profile-check": ("A valid profile file, of profile check", ProfileCheckRecord),
    "download": ("A saved attachment", DownloadRecord),
    "guest": ("Attributes merged into the guest's profile", GuestRecord),
    "sandbox": ("The effect of a sandbox command", SandboxRecord),
    "sandbox-session": ("A session as the sandbox recorded it", SandboxSessionRecord),
    "sandbox-change": ("A session of the sandbox after a change, of sandbox sessions --watch", SandboxChangeRecord),
    "relay": ("A relay that is ready, of relay serve", RelayRecord),
    "relay-key": ("The key that readers of a relay need, of relay key", RelayKeyRecord),
    "trace-view": ("The page of a trace that is ready, of trace view", TraceViewRecord),
    "proxy": ("A proxy that is ready, of proxy", ProxyRecord),
    "demo": ("One line of the demo", DemoRecord),
    "step": ("A frame or request that a command would send, of --print-frames", StepRecord),
    "check": ("A scenario of check", CheckRecord),
    "check-run": ("A run of check", CheckRunRecord),
    "check-plan": ("The most model calls of scripts, of check --dry-run", CheckPlanRecord),
    "load": ("The results of a load test, of load", LoadRecord),
    "judge-run": ("A measured judge, of judge", JudgeRunRecord),
    "doctor": ("One check of doctor", DoctorRecord),
    "explanation": ("The meaning of a code or an error text, of explain", ExplanationRecord),
    "api": ("One API family and the operations of a guest there", ApiRecord),
}
