"""Run every command against every trick of a gateway that repeats secrets, and search all output for secrets.

Knows: commands, output modes, where guestctl may write. Must not know: how anything is masked.
`python -m tests.security.sweep` runs the whole product; the test suite runs a part of it, another
one for each API.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from guestctl.cli.commands.traffic_log import TrafficLog
from guestctl.cli.invocation import Environment, Invocation
from guestctl.cli.main import run
from guestctl.cli.options import Common
from guestctl.client import Client
from guestctl.core.errors import Failure
from guestctl.core.model import Secret, SignIn
from guestctl.dialects import NAMES
from guestctl.dialects.capabilities import Ability
from guestctl.inspector.of_sandbox import inspector_of
from guestctl.output.terminal import Terminal
from guestctl.output.writer import Output
from guestctl.sandbox import CLIENT_ID, CLIENT_SECRET
from guestctl.sandbox.server import Sandbox
from guestctl.storage.state import State
from tests.cli.conftest import Stream
from tests.inspector.page import Page
from tests.integration.front import Guest, InstantClock
from tests.security.canaries import Canaries
from tests.security.gateway import TRICKS, Teller

SCRIPT = """\
config: {}
scenarios:
  "Says hello":
    - say: hello
    - waitForReplyContaining: echo
  "Hears nothing":
    - say: hello
    - waitForReplyContaining: nothing of the kind
"""

#: A profile with a secret in a file that other users can read, and what guestctl says about it.
LOOSE = """\
profiles:
  loose:
    api: {api}
    base_url: {url}
    deployment_id: 5a4db0c5-0000-4000-8000-677565737463
    origin: http://localhost
    name: Ann
    email: ann@shop.example
    queue: sandbox-queue
    environment: sandbox
    org: sandbox
    aws_region: us-east-1
    oauth: {{client_id: {id}, client_secret: {secret}}}
"""
WARNING = "oauth.client_secret is in a file that other users can read"

#: What a command is asked to write. Traces and pipes, terminals, and the plain case that knows least.
MODES: Mapping[str, tuple[str, ...]] = {
    "all told, json": ("--debug", "-vv", "--trace", "trace.jsonl", "-o", "json"),
    "all told, terminal": ("--debug", "-vv", "--trace", "trace.jsonl"),
    "plain pipe": (),
    "verbose yaml": ("-v", "--debug", "-o", "yaml"),
}

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "send": ("send", "hi"),
    "send and wait": ("send", "hi", "--wait", "--raw"),
    "send a file": ("send", "look", "--file", "note.txt"),
    "ask": ("ask", "hi"),
    "listen": ("listen", "--for", "30ms", "--only", "message,connection,unknown,gap,session", "--raw", "--replay", "5"),
    "history": ("history", "--all", "--raw"),
    "document": ("history", "--format", "html"),
    "resume": ("resume", "--raw"),
    "create": ("session", "create", "--as", "another", "--attr", "a=b"),
    "attach": ("session", "attach", "--as", "another", "--no-state"),
    "refresh": ("refresh-token",),
    "typing": ("typing",),
    "download": ("download", "no-such-id"),
    "sync": ("guest", "sync", "--provider", "shop", "--email", "ann@shop.example"),
    "doctor": ("doctor",),
    "check": ("check", "talk.yaml", "--junit", "report.xml", "--html", "report.html", "--retries", "0"),
    "tap": ("check", "talk.yaml", "--tap"),
    "sandbox sessions": ("sandbox", "sessions"),
    "push": ("sandbox", "push", "hello"),
    "clear": ("session", "clear", "--yes"),
    "end": ("session", "end", "--yes"),
}
#: Seconds between two runs: no API's own limit of requests (200 a minute) keeps one from meeting its trick.
PAUSE = 3.0
#: Nothing of these meets the gateway: once for each API is enough.
LOCAL: Mapping[str, tuple[str, ...]] = {
    "show": ("session", "show"),
    "list": ("session", "list"),
    "report": ("session", "report"),
    "export": ("session", "export"),
    "inspect": ("token", "inspect"),
    "use": ("session", "use", "default"),
    "profiles": ("profile", "list"),
    "faults": ("sandbox", "fault"),
    "profile": ("profile", "show", "sandbox"),
    "apis": ("apis",),
    "har": ("trace", "export", "kept.jsonl", "--har", "-"),
    "trace page": ("trace", "view", "kept.jsonl", "--html", "-"),
    "usage": ("send", "--no-such-option", "x"),
    "relay key": ("relay", "key"),
    "listen to no relay": ("listen", "--relay", "http://127.0.0.1:1", "--for", "30ms"),
    "forget": ("session", "forget", "default"),
}
#: Commands that are not swept, each with its reason. Every other one of `cli.registry` is.
NOT_SWEPT: Mapping[tuple[str, ...], str] = {
    ("chat",): "needs a keyboard; what it writes is what listen, send and ask write",
    ("session", "sign-in"): "its secrets come from the service's own redirect: `sign_in` does it through the library",
    ("session", "sign-out"): "ends the session for all that follow it",
    ("profile", "add"): "writes a file of the user's",
    ("profile", "set"): "writes a file of the user's",
    ("profile", "rename"): "writes a file of the user's",
    ("profile", "remove"): "writes a file of the user's",
    ("profile", "use"): "writes a file of the user's",
    ("profile", "path"): "prints a path",
    ("profile", "trust"): "stores a hash of the file",
    ("profile", "check"): "reads the file alone",
    ("relay", "serve"): "serves until it is stopped; tests/security/test_relay_secrets.py searches what it writes",
    ("load",): "starts Locust; tests/load/test_secrets.py searches what it writes",
    ("judge",): "meets a model and no service; `checks/test_ai_wire.py` searches what a model's server repeats",
    ("proxy",): "serves until it is stopped; tests/proxy/test_secrets.py searches what it writes",
    ("replay",): "serves until it is stopped, from a trace that is searched when it is written",
    ("explain",): "a table of ours; knows no session",
    ("schema",): "a table of ours; knows no session",
    ("sandbox", "serve"): "serves until it is stopped; its log, its trace and the feed of its inspector are searched",
    ("sandbox", "exec"): "starts processes; its key is the sandbox's own; it logs and records as `sandbox serve`",
    ("sandbox", "disconnect"): "the admin endpoint as `sandbox push` uses it; ends every session",
    ("sandbox", "expire"): "the admin endpoint as `sandbox push` uses it; ends every session",
    ("demo",): "a sandbox of its own, and commands that are swept",
    ("completion",): "a script of ours",
}


class ServiceLog:
    """What a sandbox with -vv and --trace writes. Its observer is that of `sandbox serve`."""

    def __init__(self, room: Path, clock: InstantClock) -> None:
        self._err = Stream()
        self._path = room.with_name(f"{room.name}-service.trace")
        self._read = [0, 0]
        world = Environment(Stream(b""), Stream(), self._err, {}, room, clock)
        out = Output(Stream(), self._err, Terminal(), mode="auto", now=clock.now, environ={}, verbose=2)
        self._run = Invocation(Common(verbose=2, trace=self._path), world, out)
        self.log = TrafficLog(self._run)

    def written(self) -> list[tuple[str, bytes]]:
        """Return what was written since the last call, in both places."""
        found = []
        for place, data in enumerate((self._err.text().encode(), self._path.read_bytes())):
            found.append((("log of the service", "trace of the service")[place], data[self._read[place] :]))
            self._read[place] = len(data)
        return found

    def close(self) -> None:
        self._run.close()
        self._path.unlink()


@dataclass
class Sweep:
    """One guest, one gateway, and every secret found in the output."""

    api: str
    room: Path
    sandbox: Sandbox
    teller: Teller
    canaries: Canaries
    clock: InstantClock
    service: ServiceLog
    #: The address of the inspector of the sandbox.
    ui_url: str
    hits: list[str] = field(default_factory=list)
    #: Runs whose output lacks the warning about the profile file (see `warn`).
    silent: list[str] = field(default_factory=list)
    runs: int = 0
    codes: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.environ = {
            "GUESTCTL_PROFILE": "sandbox",
            "GUESTCTL_API": self.api,
            "GUESTCTL_SANDBOX_URL": self.teller.url,
            "GUESTCTL_SANDBOX_ADMIN_KEY": self.sandbox.admin_key,
            "GUESTCTL_OAUTH_CLIENT_SECRET": CLIENT_SECRET,
            "GUESTCTL_STATE": str(self.room / "state"),
            "XDG_CONFIG_HOME": str(self.room / "config"),
            "HOME": str(self.room),
            "COLUMNS": "60",
            "GITHUB_ACTIONS": "true",
        }
        (self.room / "talk.yaml").write_text(SCRIPT)
        (self.room / "note.txt").write_text("a note")
        self.canaries.add("admin key", self.sandbox.admin_key)
        self.canaries.add("client secret", CLIENT_SECRET)
        self.environ["GUESTCTL_RELAY_KEY"] = "grr_relay-key-canary-0815-0815-0815-0815-0815"
        self.canaries.add("relay key", self.environ["GUESTCTL_RELAY_KEY"])

    def warn(self) -> None:
        """Use a profile that deserves a warning from now on: a secret in a file that other users can read."""
        profiles = self.room / "profiles.yaml"
        profiles.write_text(LOOSE.format(api=self.api, url=self.teller.url, id=CLIENT_ID, secret=CLIENT_SECRET))
        profiles.chmod(0o644)
        del self.environ["GUESTCTL_OAUTH_CLIENT_SECRET"]
        self.environ |= {"GUESTCTL_PROFILES": str(profiles), "GUESTCTL_PROFILE": "loose"}

    def __call__(self, what: str, argv: tuple[str, ...], mode: str) -> int:
        """Run one command and search everything that it wrote."""
        more = MODES[mode]
        if "--tap" in argv and "-o" in more:
            more = more[: more.index("-o")]
        if "--format" in argv and "-o" in more:
            more = more[: more.index("-o")]
        words = [*argv, "--timeout", "2", *more]
        for name in ("trace.jsonl", "report.xml", "report.html"):
            if name in words:
                words[words.index(name)] = str(self.room / name)
        words = [str(self.room / w) if w in {"talk.yaml", "note.txt"} else w for w in words]
        terminal = mode.endswith("terminal")
        self.clock.advance(PAUSE)
        self.teller.told = None
        out, err = Stream(terminal=terminal), Stream(terminal=terminal)
        world = Environment(Stream(b"", terminal=False), out, err, self.environ, self.room, self.clock)
        code = int(run(words, world))
        self.runs += 1
        self.codes.add(code)
        self.canaries.remember(self.room / "state" / "state.db")
        # A terminal wraps the warning at spaces.
        if WARNING not in " ".join(f"{out.text()} {err.text()}".split()):
            self.silent.append(f"{self.api}: {what}: {' '.join(words)} [{mode}]: {err.text()[-300:]}")
        streams = [("stdout", out.text().encode()), ("stderr", err.text().encode()), *self.service.written()]
        for where, data in [*streams, *self._files()]:
            for hit in self.canaries.found(data):
                self.hits.append(f"{self.api}: {what}: {' '.join(words)} [{mode}] -> {where}: {hit}")
        if code == 70 or "internal error: " in err.text():
            self.hits.append(f"{self.api}: {what}: {' '.join(words)} [{mode}] -> a bug: {err.text()[-1500:]}")
        return code

    def _files(self) -> Iterator[tuple[str, bytes]]:
        for path in list(self.room.rglob("*")):
            if path.is_file() and not path.name.startswith("state.db"):
                yield path.name, path.read_bytes()
                if path.name in {"trace.jsonl", "report.xml", "report.html"}:
                    path.unlink()

    def begin(self) -> None:
        """Create a session without tricks."""
        self.teller.trick, self.teller.goodbye = None, False
        guest = Guest(self.api, self.environ, self.room, self.clock)
        guest.ok("session", "create", "--new", "--as", "default", "--trace-append", str(self.room / "kept.jsonl"))
        self.canaries.remember(self.room / "state" / "state.db")
        made = guest.ok("session", "export", "--show-token", "-o", "json").record
        self.environ["GUESTCTL_ATTACH_TOKEN"] = made["token"]
        self.environ |= {f"GUESTCTL_ATTACH_{name.upper()}": value for name, value in made["ids"].items() if value}

    def sign_in(self) -> None:
        """Sign the guest in with a code, if the API supports it."""
        guest = Guest(self.api, self.environ, self.room, self.clock)
        if not guest.can(Ability.SIGN_IN):
            return
        code, verifier = "sign-in-code-canary-31337", "verifier-canary-4711-4711-4711-4711-4711-4711-47"
        self.canaries.add("sign-in code", code)
        self.canaries.add("code verifier", verifier)
        from guestctl.config import profiles

        profile = profiles.resolve(
            None, options={}, environ=self.environ, cwd=self.room, profiles_option=None, sandbox=lambda: None
        ).profile
        proof = SignIn(Secret(code), "https://shop.example/in", Secret(verifier))
        with (
            State.open(self.room / "state", self.clock) as state,
            Client(profile, state=state, clock=self.clock, environ=self.environ) as client,
            contextlib.suppress(Failure),
        ):
            client.sign_in(proof)
        self.canaries.remember(self.room / "state" / "state.db")

    def through(self, *, part: int = 1) -> None:
        """Yield all commands with all tricks in all modes, or every `part`-th, different for each API."""
        turn = NAMES.index(self.api)
        for trick, act in TRICKS.items():
            begun = False
            for what, argv in COMMANDS.items():
                for mode in MODES:
                    turn += 1
                    if turn % part:
                        continue
                    if not begun or what in {"end", "clear"}:
                        self.begin()
                        begun = True
                        if trick == "as it should be":
                            self.sign_in()
                    self.teller.trick = act
                    self(f"{trick}: {what}", argv, mode)
                    self.teller.trick = None
        self.begin()
        for mode in list(MODES)[:: min(part, 2)]:
            self.goodbyes(mode)
            for what, argv in LOCAL.items():
                if what != "forget":
                    self(what, argv, mode)
        self("forget", LOCAL["forget"], mode)
        self.search_feed()

    def search_feed(self) -> None:
        """Search everything that a page of the inspector receives."""
        end = {"session": "end", "text": "the end"}
        self.sandbox.call(lambda: self.sandbox.observer and self.sandbox.observer("frame_in", end))
        with Page(self.ui_url) as page:
            page.until_event(summary="the end")
        for message in page.messages:
            for hit in self.canaries.found(json.dumps(message, ensure_ascii=False).encode()):
                self.hits.append(f"{self.api}: -> feed of the inspector: {hit}")

    def goodbyes(self, mode: str) -> None:
        """Close a socket with the guest's own token as the reason."""
        for what in ("send", "listen", "resume", "ask"):
            self.teller.goodbye = True
            self(f"goodbye: {what}", COMMANDS[what], mode)
        self.teller.goodbye = False


@contextlib.contextmanager
def sweep(api: str, room: Path) -> Iterator[Sweep]:
    """Sweep one API with a new sandbox and directory."""
    clock = InstantClock()
    canaries = Canaries()
    service = ServiceLog(room, clock)
    with (
        contextlib.closing(service),
        Teller(canaries) as teller,
        inspected(
            Sandbox(fast=True, clock=clock, also_hosts=(f"127.0.0.1:{teller.port}",), observer=service.log.observer)
        ) as sandbox,
    ):
        teller.behind = sandbox.port
        yield Sweep(api, room, sandbox, teller, canaries, clock, service, str(sandbox.ui_url))


@contextlib.contextmanager
def inspected(sandbox: Sandbox) -> Iterator[Sandbox]:
    """Run a sandbox with an inspector, as `sandbox serve --ui` does."""
    inspector = inspector_of(sandbox)
    sandbox.extra_rules = inspector.rules
    sandbox.events.add(inspector.observe)
    with sandbox:
        sandbox.ui_url = inspector.address(sandbox.url)
        yield sandbox


def main() -> int:
    hits: list[str] = []
    for api in sys.argv[1:] or NAMES:
        with tempfile.TemporaryDirectory() as room, sweep(api, Path(room)) as found:
            found.through()
            print(f"{api}: {found.runs} runs, {len(found.canaries.known)} secrets, {len(found.hits)} hits")
            hits += found.hits
    print("\n".join(hits))
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main())
