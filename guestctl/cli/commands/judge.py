"""`judge`: measures the judge of AI checks with labels of your own.

Knows: the options, the report, the exit code. Must not know: how votes are counted, the wire.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command
from guestctl.cli.parameters import CommandArgument, CommandOption, ModelRecord, ModelReplay
from guestctl.core.errors import Exit, UsageError

if TYPE_CHECKING:
    from guestctl.checks.ai.labelled import JudgeMeasure, LabelledConversation
    from guestctl.checks.ai.model_calls import ConversationCalls
    from guestctl.checks.ai.plans import AiSettings

_HINT = "docs/ai-checks.md shows a file of labels"


@command(
    "guestctl judge labels.yaml",
    "guestctl judge labels.yaml --votes 5 --model-record recordings -o json",
    needs="nothing",
    timeout=None,
)
def judge(
    run: Invocation,
    file: Annotated[Path, CommandArgument(metavar="FILE", help="labelled conversations (YAML or JSON)")],
    votes: Annotated[
        int | None,
        CommandOption("--votes", metavar="N", min=1, max=15, help="votes on each statement (default: the file's)"),
    ] = None,
    model_record: ModelRecord = None,
    model_replay: ModelReplay = None,
    dry_run: Annotated[
        bool, CommandOption("--dry-run", help="send nothing; print how many model calls are made")
    ] = False,
) -> int | None:
    """Measure how often a judge agrees with your own labels, and in which direction it errs.

    Nothing is sent but the calls of the model. Exit codes: 0 every label has a decision, 9 some have none, another
    code: the model could not be asked. --timeout is the maximum duration of one call.
    """
    from guestctl.checks.ai.labelled import measured
    from guestctl.checks.ai.model_calls import calls_for
    from guestctl.checks.ai.recordings import Recorder, Recordings
    from guestctl.checks.service import model_profile
    from guestctl.core.errors import Failure

    if model_record is not None and model_replay is not None:
        raise UsageError(
            "--model-record cannot be combined with --model-replay",
            hint="record with the first option, then replay with the second one",
        )
    settings, in_file, found = _read(run, file)
    number = votes or in_file
    count = number * sum(len(one.labels) for one in found)
    if dry_run:
        _print_bound(run, count, settings)
        return None
    profile = model_profile(lambda: run.resolved, run.world.environ)
    run.redactor.add(profile.ai_key)
    calls = calls_for(
        str(file),
        settings,
        profile,
        clock=run.clock,
        environ=run.world.environ,
        observer=run.watcher,
        recorder=None if model_record is None else Recorder(run.world.cwd / model_record),
        recordings=None if model_replay is None else Recordings(run.world.cwd / model_replay),
    )
    places: dict[str, ConversationCalls] = {}

    def asked(name: str) -> ConversationCalls:
        return places.setdefault(
            name, calls.conversation({"script": file.name, "scenario": name, "run": 1, "attempt": 1})
        )

    try:
        measure = measured(
            found, number, calls.settings, lambda name, request: asked(name).ask(request, run.options.timeout)
        )
    except Failure as failure:
        failure.message = run.redactor.text(failure.message)
        raise
    _print(run, measure, _record(measure, calls.settings, number, calls.budget.used))
    return None if measure.decided == len(measure.judged) else int(Exit.TIMED_OUT)


def _read(run: Invocation, file: Path) -> tuple[AiSettings, int, tuple[LabelledConversation, ...]]:
    """Return the settings, the number of votes and the conversations of a file. Raises UsageError."""
    from guestctl.checks import ai_reader
    from guestctl.checks.ai.labelled import conversations
    from guestctl.checks.variables import filled, needed
    from guestctl.core.strict_yaml import read
    from guestctl.core.yaml_fields import YamlField

    root = YamlField(read(run.world.cwd / file), str(file), hint=_HINT)
    members = root.mapping(("ai", "votes", "conversations"))

    def text(field: YamlField, given: str) -> str:
        for name in needed(given):
            if name not in run.world.environ:
                raise field.error(f"${{{name}}} has no value (set the variable {name})")
        return filled(given, run.world.environ)

    settings = ai_reader.settings(members.get("ai"), text)
    return settings, ai_reader.votes_of(members.get("votes")), conversations(root.required(members, "conversations"))


def _print_bound(run: Invocation, count: int, settings: AiSettings) -> None:
    from guestctl.checks.reports.console import plural

    limit = settings.run.calls
    calls = count if limit is None else min(count, limit)
    tokens = calls * settings.answer_tokens
    if run.out.mode in {"json", "jsonl", "yaml"}:
        run.out.one({"kind": "check-plan", "calls": calls, "answer_tokens": tokens, "scripts": []})
        return
    run.out.verbatim(f"at most {plural(calls, 'model call')} with at most {plural(tokens, 'token')} of answers\n")


def _record(measure: JudgeMeasure, settings: AiSettings, votes: int, used: Any) -> dict[str, Any]:
    low, high = measure.interval
    rate = measure.agreement
    return {
        "kind": "judge-run",
        "model": str(settings.judge_model or settings.model),
        "votes": votes,
        "labels": len(measure.judged),
        "agreed": measure.agreed,
        "said_yes_for_no": measure.count(False, True),
        "said_no_for_yes": measure.count(True, False),
        "undecided": len(measure.judged) - measure.decided,
        "agreement": None if rate is None else round(rate, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "usage": {"calls": used.calls, "tokens": used.tokens, "seconds": round(used.seconds, 3)},
        "judged": [
            {
                "conversation": one.conversation,
                "criterion": one.label.text,
                "never": one.label.never,
                "label": one.label.value,
                "verdict": one.verdict,
                "why": one.judgement.why,
                "votes": [
                    {"verdict": vote.verdict, "messages": list(vote.messages), "why": vote.why, "problem": vote.problem}
                    for vote in one.judgement.votes
                ],
            }
            for one in measure.judged
        ],
    }


def _print(run: Invocation, measure: JudgeMeasure, record: dict[str, Any]) -> None:
    """Print each label that the judge did not confirm, then the counts."""
    from guestctl.checks.ai.interval import percent
    from guestctl.checks.reports.console import clean, plural

    if run.out.mode in {"json", "jsonl", "yaml"}:
        run.out.one(record)
        return
    words = {True: "yes", False: "no", None: "undecided"}
    for one in measure.judged:
        if one.verdict is not one.label.value:
            why = f": {clean(one.judgement.why)}" if one.judgement.why else ""
            run.out.verbatim(
                f"{clean(one.conversation)}: {clean(one.label.text)}: label {words[one.label.value]}, "
                f"judge {words[one.verdict]} ({one.judgement.tally}){why}\n"
            )
    if measure.agreement is None:
        share = "no label has a decision"
    else:
        low, high = measure.interval
        share = (
            f"agreed with {measure.agreed} of {measure.decided} decided labels ({percent(measure.agreement)}, "
            f"95 % interval {percent(low)} to {percent(high)})"
        )
    run.out.verbatim(
        f"{share}; yes for a label no: {record['said_yes_for_no']}, no for a label yes: {record['said_no_for_yes']}, "
        f"undecided: {record['undecided']}\n"
    )
    used = record["usage"]
    run.out.verbatim(
        f"model: {plural(used['calls'], 'call')}, {plural(used['tokens'], 'token')}, {used['seconds']:.1f} s\n"
    )
