"""Measuring noisy trials of a front once more, when the machine is quieter."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.evaluate.compose import checked
from nas.hardware import exclusive
from nas.noise import noisy_name, noisy_trials
from nas.store import further

if TYPE_CHECKING:
    from nas.evaluate.base import Evaluator
    from nas.study.study import Study

MOST = 8  # trials of a front that are measured again in one go


@dataclass(frozen=True)
class Again:
    """A measurement that was repeated: of which trial and metric, what it was and is, and whether it is noisy still."""

    number: int
    metric: str
    before: float
    after: float
    noisy: bool

    def __str__(self) -> str:
        return f"trial {self.number} {self.before:.4g} → {self.after:.4g}{' (noisy still)' if self.noisy else ''}"


def evaluators_of(study: Study) -> dict[str, Evaluator]:
    """Evaluators that measure alone on this machine and flag what is noisy, by the metric."""
    found: dict[str, Evaluator] = {}
    for one in study.evaluators:
        names = one.metrics or ()
        if one.exclusive:
            found |= dict.fromkeys((name for name in names if noisy_name(name) in names), one)
    return found


def measures_here(study: Study) -> bool:
    """Whether a run of the study measures times on this machine."""
    return bool(evaluators_of(study))


def noisy_front(study: Study, where: str | None = None, *, here: bool = False) -> dict[int, str]:
    """Trials of the front that are noisy and were not measured again yet, with the metric.

    Args:
        study: whose front.
        where: the front of the trials that satisfy a filter.
        here: only trials that this machine evaluated.
    """
    front = further.front(study.record, where)
    tried = {number for number in further.trials_with(study.record) if number in front.index}
    found = {
        number: metric
        for metric in evaluators_of(study)
        for number in noisy_trials(front, metric)
        if not here or _was_here(study, number)
    }
    return {number: metric for number, metric in found.items() if number not in tried}


def _was_here(study: Study, number: int) -> bool:
    return str(study.record.trial(number).worker).partition("/")[0] == socket.gethostname()


def measure_again(
    study: Study,
    where: str | None = None,
    *,
    quiet: Callable[[], bool] = lambda: True,
    here: bool = False,
    most: int = MOST,
) -> list[Again]:
    """Measure noisy trials of the front once more, each kept at once as a further measurement of its trial.

    Trials that come onto the front for it are measured too, until `most` were.

    Args:
        study: whose evaluators measure.
        where: the front of the trials that satisfy a filter.
        quiet: asked before each measurement; the rest is left where it says no.
        here: only trials that this machine evaluated.
        most: measurements.
    """
    done: list[Again] = []
    evaluators = evaluators_of(study)
    while len(done) < most:
        todo = noisy_front(study, where, here=here)
        left = next((number for number in todo if number not in {one.number for one in done}), None)
        if left is None or not quiet():
            break
        metric = todo[left]
        with exclusive():
            found: Mapping[str, float] = checked(evaluators[metric], evaluators[metric](study.arch(left)))
        further.add(study.record, left, found)
        before = study.record.trial(left).measurements[metric]
        done.append(Again(left, metric, before, float(found[metric]), bool(found[noisy_name(metric)])))
    return done
