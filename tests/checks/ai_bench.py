"""Measure AI checks without a model: what a replayed turn costs, and how often a wrong judge misleads.

    python -m tests.checks.ai_bench [turns] [judge]

The cost is CPU time of this process, which also runs the sandbox: that of a replayed conversation, minus that of the
same conversation as a script of `say` and `expect`. The wrong judge answers wrongly with p = 0.1, from a seed.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.checks.ai_front import AiBench, Bench, benches
from tests.checks.model_server import Asked, say, verdict

TURNS, SCENARIOS, ROUNDS = 20, 10, 5
#: Customers must not repeat themselves, and numbers would be invented facts.
WORDS = [char * 4 for char in "abcdefghijklmnopqrst"]


@contextmanager
def started() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as room:
        yield from benches(Path(room))


def turns() -> None:
    bot = "rules:\n" + "".join(f"  - {{contains: {word}, reply: done with {word}}}\n" for word in WORDS)

    def answer(asked: Asked) -> str:
        return say(f"the {WORDS[asked.turn - 1]} one")

    customer = (
        f"customer: {{goal: g, opening: 'the aaaa one', turns: {TURNS}, until: 'with {WORDS[-1]}', silence: 50ms}}"
    )
    played = "ai: {model: m}\nscenarios:\n" + "".join(f"  s{n}: [{customer}]\n" for n in range(SCENARIOS))
    steps = ", ".join(f"{{say: the {word} one}}, {{expect: with {word}}}" for word in WORDS)
    scripted = "scenarios:\n" + "".join(f"  s{n}: [{steps}]\n" for n in range(SCENARIOS))
    with started() as bench:
        found = bench(answer, bot)
        assert found.check(played, "--model-record", "rec", "--parallel", "4").code == 0
        asked = len(found.model.asked)
        cost = _cpu(found, played, "--model-replay", "rec") - _cpu(found, scripted)
        assert len(found.model.asked) == asked
    print(f"a replayed turn: {1000 * cost / (SCENARIOS * TURNS):.2f} ms of CPU time more than a scripted one")


def _cpu(found: AiBench, text: str, *options: str) -> float:
    """Return the least CPU time of some rounds, in seconds."""
    times = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        assert found.check(text, *options).code == 0
        times.append(time.process_time() - begun)
    return min(times)


def judge(count: int = 1000, seed: int = 7) -> None:
    for votes in (1, 3, 5):
        chance = random.Random(seed)

        def answer(asked: Asked, chance: random.Random = chance) -> str:
            right = "yes" if "true" in asked.statement["text"] else "no"
            word = {"yes": "no", "no": "yes"}[right] if chance.random() < 0.1 else right
            return verdict(word, ["m1"], criterion=asked.statement["criterion"])

        statements = [f"Statement {n} is {'true' if n % 2 else 'wrong'}." for n in range(count)]
        labels = "".join(
            f"      - {{criterion: {one}, label: {'yes' if 'true' in one else 'no'}}}\n" for one in statements
        )
        text = f"ai: {{model: m}}\nvotes: {votes}\nconversations:\n  c:\n    messages: [{{bot: hi}}]\n    labels:\n"
        text += labels
        with started() as bench:
            found = bench(answer)
            (found.room / "labels.yaml").write_text(text)
            record = found.front()("judge", str(found.room / "labels.yaml"), "-o", "json").record
        wrong = record["said_yes_for_no"] + record["said_no_for_yes"]
        print(f"{votes} votes: wrong {wrong} of {count} ({wrong / count:.3f}), undecided {record['undecided']}")


def main(names: list[str]) -> int:
    for name in names or ["turns", "judge"]:
        {"turns": turns, "judge": judge}[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
