"""`trace export`: a recorded trace for other tools.

Knows: the options. Must not know: spans, HAR, how a trace is read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command
from guestctl.cli.parameters import CommandArgument, CommandOption
from guestctl.core.errors import NetworkError, UsageError


@command(
    "guestctl trace export bug.trace --har bug.har",
    "guestctl trace export bug.trace --otlp http://127.0.0.1:4318",
    needs="nothing",
)
def export(
    run: Invocation,
    file: Annotated[Path, CommandArgument(metavar="FILE", help="trace written by --trace")],
    otlp: Annotated[
        str | None, CommandOption("--otlp", metavar="URL", help="send spans to a collector (OTLP over HTTP)")
    ] = None,
    har: Annotated[
        Path | None, CommandOption("--har", metavar="FILE", help="write HAR with WebSocket messages; - is stdout")
    ] = None,
) -> None:
    """Turn a recorded trace into spans for a tracing tool, or into HAR for the tools of browsers.

    Requests, connections and messages become spans as they do while a command runs; several commands, and the guests of
    `check`, become several trees. Without a path in URL, /v1/traces is appended. --otlp needs the extra guestctl[otel].
    An existing FILE of --har is not replaced.
    """
    if otlp is None and har is None:
        raise UsageError("trace export needs --otlp or --har", hint="give at least one of them")
    endpoint = None if otlp is None else _endpoint(otlp)
    from guestctl.transport.recorded_trace import lines_in_use, read_trace

    path = run.world.cwd / file
    lines = read_trace(path)
    if har is not None:
        from guestctl.transport.har import har_of

        with lines_in_use(file):
            content = json.dumps(har_of(lines), ensure_ascii=False, indent=1) + "\n"
        if str(har) == "-":
            run.out.verbatim(content)
        else:
            write_new(run.world.cwd / har, content.encode("utf-8", "surrogatepass"), "--har")
    if endpoint is not None:
        _send(run, path, endpoint)


def write_new(path: Path, content: bytes, option: str) -> None:
    """Write a new file that only its owner can read. `option` names it. Raises UsageError `output.failed`."""
    from guestctl.transport.output_files import is_pipe, open_output, write_all

    new = 0 if is_pipe(path) else os.O_CREAT | os.O_EXCL
    try:
        descriptor = open_output(path, option, new)
    except FileExistsError:
        if path.is_dir():
            hint = f"give the name of a file: {path / 'trace.har' if option == '--har' else path / 'trace.html'}"
            raise UsageError(f"{option} {path}: is a directory", code="output.failed", hint=hint) from None
        raise UsageError(f"{option} {path}: the file exists", code="output.failed", hint="give another name") from None
    try:
        write_all(descriptor, content)
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror or error}", code="output.failed") from error
    finally:
        os.close(descriptor)


def _send(run: Invocation, path: Path, endpoint: str) -> None:
    from guestctl.transport.recorded_trace import read_trace, spans_of
    from guestctl.transport.spans import SpanExport

    spans = spans_of(path, read_trace(path))
    exporter = SpanExport(run.world.environ, endpoint=endpoint)
    for span in spans:
        exporter.add(span)
    problem = exporter.close(run.options.timeout or 30.0)
    if problem is not None:
        raise NetworkError(f"{endpoint}: {problem}", code="trace.refused")
    traces = sorted({span.trace_id for span in spans})
    run.out.notice(f"sent {len(spans)} spans of trace {', '.join(traces)} to {endpoint}")


def _endpoint(url: str) -> str:
    """Return the address for spans. Raises UsageError for one that is no http or https address."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f'--otlp: "{url}" is not an http or https address', hint="example: http://127.0.0.1:4318")
    return url if parts.path.strip("/") else url.rstrip("/") + "/v1/traces"
