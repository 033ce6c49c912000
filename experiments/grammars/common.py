"""What both parts share: one study in a folder that goes away, runs that are files, names of what cannot be named."""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from glyphs.letters import CAPITALS_AND_DIGITS, glyphs

import nas
from nas.errors import EvaluationError
from nas.evaluate import Evaluator
from nas.search import Algorithm


def task_of(options: argparse.Namespace) -> nas.Classification:
    """Capitals and digits of typefaces at 8×8, each split its own typefaces; scikit-learn's digits in smoke mode."""
    if options.glyphs is None:
        return nas.digits(batch=options.batch)
    return _glyphs(options.glyphs, options.batch)


@functools.cache
def _glyphs(file: Path, batch: int) -> nas.Classification:
    some = {"train": 80, "valid": 30, "test": 100}
    return glyphs(file, seed=0, characters=CAPITALS_AND_DIGITS, side=8, batch=batch, **some)


class Named:
    """`nas.Function`, and the arch's own key where the outputs have no finite number: such archs are not shared."""

    def __init__(self, function: nas.Function) -> None:
        self.function = function

    def __call__(self, arch: nas.Arch) -> str:
        """The name."""
        try:
            return self.function(arch)
        except EvaluationError:
            return arch.key

    def describe(self) -> dict[str, Any]:
        """See `nas.Function`."""
        return {"name": "Named", "function": self.function.describe()}


class Timed(Evaluator):
    """An evaluator that notes what it costs, in seconds of the processor, and of which arch."""

    def __init__(self, evaluator: Evaluator, notes: list[tuple[str, str, float]]) -> None:
        self.evaluator, self.notes = evaluator, notes
        self.metrics, self.cost = evaluator.metrics, evaluator.cost

    def __call__(self, arch: nas.Arch) -> Any:
        """As the evaluator."""
        begun = time.process_time()
        try:
            return self.evaluator(arch)
        finally:
            self.notes.append((type(self.evaluator).__name__, arch.key, time.process_time() - begun))

    def describe(self) -> dict[str, Any] | None:
        """What the evaluator says."""
        return self.evaluator.describe() or {"name": type(self.evaluator).__name__}


def searched(
    space: nas.Space,
    algorithm: Algorithm,
    evaluators: Callable[[Path], Sequence[Evaluator]],
    *,
    objectives: Sequence[str],
    constraints: Sequence[str] = (),
    trials: int,
) -> tuple[list[nas.Arch], list[dict[str, float]], list[str]]:
    """Archs, measurements and states of a study's trials, in their order; `evaluators` is given a folder."""
    with tempfile.TemporaryDirectory() as folder:
        study = nas.Study(
            "grammars",
            space=space,
            objectives=objectives,
            constraints=constraints,
            evaluators=evaluators(Path(folder)),
            algorithm=algorithm,
            store=Path(folder) / "study.db",
            max_failures=trials,
        )
        study.run(trials, workers=0, progress=False)
        numbers = [int(number) for number in study.trials().index]
        found = [study.record.trial(number) for number in numbers]
        return (
            [study.arch(number) for number in numbers],
            [dict(one.measurements) for one in found],
            [str(one.state) for one in found],
        )


def keep(file: Path, figures: dict[str, Any]) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(figures))
    part.replace(file)


def spread(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    some = list(values)
    return statistics.fmean(some), statistics.stdev(some) if len(some) > 1 else 0.0


def cell(values: Iterable[float], digits: int = 3) -> str:
    """Mean ± standard deviation."""
    mean, deviation = spread(values)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def row(*cells: str) -> None:
    """Of a table."""
    print(f"| {' | '.join(cells)} |")
