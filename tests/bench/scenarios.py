"""`check` with many scenarios at once, compared with one scenario."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.figures import Figure, Scale, side_by_side
from tests.bench.processes import environment, guestctl, sandbox, timed

AT_ONCE = 50


def check(scale: Scale) -> Iterator[Figure]:
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        with sandbox(environ):
            many, one = _script(Path(place), scale.scenarios), _script(Path(place), 1)
            yield side_by_side(
                f"check {scale.scenarios}, {AT_ONCE} at once",
                lambda: timed(guestctl("check", many, "--parallel", str(AT_ONCE)), environ),
                lambda: timed(guestctl("check", one), environ),
                runs=scale.rounds,
                aim=10.0,
                baseline="one scenario",
            )


def _script(place: Path, count: int) -> str:
    turns = "".join(f"  s{n}: [{{say: 'q{n}'}}, {{expect: {{equals: 'echo: q{n}'}}}}]\n" for n in range(count))
    script = place / f"{count}.yaml"
    script.write_text(f"scenarios:\n{turns}", encoding="utf-8")
    return str(script)
