"""The last steps: which networks of a search are tuned, for how long, and beside what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.compressing.calibration import LOSS
from nas.compressing.profiling import Verdict
from nas.compressing.result import Choice, Tuned
from nas.compressing.settings import Settings, named
from nas.compressing.uniform import ladder, largest_within
from nas.errors import StudyError, TrainError
from nas.evaluate import Trained
from nas.evaluate.base import Evaluator
from nas.search import Given
from nas.study import Study
from nas.supernet import Supernet
from nas.text import human
from nas.train import Task

if TYPE_CHECKING:
    from nas.space import Arch

TUNED, UNIFORM = "tuned", "uniform"


@dataclass(frozen=True)
class Plan:
    """What is tuned for a budget.

    Attributes:
        archs: the best of the search within it, the best first.
        uniform: uniform scaling within it; None where there is none.
        measured: of the best, before it is tuned.
        tried: how many networks within the budget were measured.
    """

    verdict: Verdict
    archs: Sequence[Arch]
    uniform: Arch | None
    measured: Mapping[str, float]
    tried: int

    def __str__(self) -> str:
        budget, bound = self.verdict.budget, self.verdict.constraint.bound
        return (
            f"search: {self.tried} networks within {budget}; the best has {LOSS} {human(self.measured[LOSS])} and fills "
            f"{self.measured[budget.metric] / bound:.1%} of the budget"
        )


class Tuning:
    """Tunes networks of a search.

    Args:
        task: what they learn.
        settings: of the compression.
        costs: what measures costs.
        original: the supernet before any training; its largest arch is the teacher, and uniform scaling begins with it.
        warmed: the supernet after the warm-up, with which networks of the search begin.
    """

    def __init__(
        self, task: Task, settings: Settings, costs: Sequence[Evaluator], original: Supernet, warmed: Supernet
    ) -> None:
        self._task, self._settings, self._costs, self._original = task, settings, costs, original
        self._tuned = self._trained(TUNED, settings.tuning, warmed)
        self._uniform = self._trained(UNIFORM, settings.epochs, original)

    def plan(self, searches: Sequence[Study], verdict: Verdict) -> Plan:
        """What is tuned for a budget.

        Raises:
            StudyError: the searches met no network within it.
        """
        metric, bound = verdict.budget.metric, verdict.constraint.bound
        found: dict[Arch, dict[str, float]] = {}
        for search in searches:
            rows = search.trials(f"{metric} <= {bound!r}")
            for number in rows[rows["state"] == "COMPLETED"].index:
                found.setdefault(search.arch(int(number)), dict(search.record.trial(int(number)).measurements))
        if not found:
            raise StudyError(f"the search met no network within the budget {verdict.budget}; give it more trials=")
        archs = sorted(found, key=lambda arch: found[arch][LOSS])
        one = next(one for one in self._costs if metric in (one.metrics or ()))
        uniform = largest_within(ladder(archs[0].space), lambda arch: one(arch)[metric], bound)
        return Plan(verdict, archs[: self._settings.race], uniform, found[archs[0]], len(found))

    def run(self, plans: Sequence[Plan]) -> list[Choice]:
        """The choice of each plan; what was tuned before is not tuned again."""
        name, sign = self._settings.goal
        winners = [self._race(plan) for plan in plans]
        tuned = self._study(TUNED, self._tuned, winners, plans)
        uniform = self._study(UNIFORM, self._uniform, [plan.uniform for plan in plans if plan.uniform], plans)
        choices = []
        for plan, arch in zip(plans, winners, strict=True):
            found = _of(tuned, arch)
            other = None if plan.uniform is None else _of(uniform, plan.uniform)
            is_uniform = other is not None and other.measured[name] * sign < found.measured[name] * sign
            choices.append(Choice(plan.verdict.budget, plan.verdict.constraint.bound, found, other, is_uniform))
        return choices

    def _race(self, plan: Plan) -> Arch:
        """The candidate that is best after an epoch, of which nothing is lost."""
        name, sign = self._settings.goal
        if len(plan.archs) == 1:
            return plan.archs[0]
        after = {arch: self._tuned.up_to(arch, 1)[name] * sign for arch in plan.archs}
        return min(plan.archs, key=after.__getitem__)

    def _trained(self, name: str, epochs: int, start: Supernet) -> Trained:
        settings = self._settings
        options: dict[str, Any] = dict(settings.training)
        if settings.teacher:
            options |= {"teacher": self._original, "weight": settings.teacher}
        return Trained(self._task, settings.folder / name, epochs=epochs, start=start, **options)

    def _study(self, name: str, trained: Trained, archs: Sequence[Arch], plans: Sequence[Plan]) -> Study | None:
        """A study of these archs, run to its end; None without any."""
        wanted = list(dict.fromkeys(archs))
        if not wanted:
            return None
        metrics = dict.fromkeys(plan.verdict.budget.metric for plan in plans)
        study = Study(
            f"{name}-{named([*metrics, *(arch.key for arch in wanted)])}",
            space=wanted[0].space,
            objectives=[self._settings.best, *(f"min {metric}" for metric in metrics)],
            evaluators=[trained, *self._costs],
            algorithm=Given(wanted),
            store=self._settings.store,
            trials=len(wanted),
        )
        study.run(workers=0, progress=False)
        rows = study.trials()
        failed = rows[rows["state"] == "FAILED"]
        if len(failed):
            raise TrainError(f"tuning failed: {failed.iloc[0]['reason']}")
        return study


def _of(study: Study | None, arch: Arch) -> Tuned:
    found = None if study is None else study.record.lookup(arch.key)
    assert study is not None
    assert found is not None, "every arch of the study was evaluated"
    return Tuned(study, found.number, arch, dict(found.measurements))
