"""The last steps: which networks of a search are tuned, for how long, and beside what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.compressing.profiling import Verdict
from nas.compressing.result import Choice
from nas.compressing.settings import Settings, named
from nas.compressing.uniform import ladder, largest_within
from nas.errors import StudyError, TrainError
from nas.evaluate import Trained
from nas.evaluate.base import Evaluator
from nas.search import Given
from nas.study import Study
from nas.supernet import Supernet
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
    """

    verdict: Verdict
    archs: Sequence[Arch]
    uniform: Arch | None


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

    def plan(self, search: Study, verdict: Verdict) -> Plan:
        """What is tuned for a budget.

        Raises:
            StudyError: the search met no network within it.
        """
        metric, bound = verdict.budget.metric, verdict.constraint.bound
        rows = search.trials(f"{metric} <= {bound!r}")
        rows = rows[rows["state"] == "COMPLETED"]
        if rows.empty:
            raise StudyError(f"the search met no network within the budget {verdict.budget}; give it more trials=")
        best = rows.sort_values(search.objectives[0].name, kind="stable").index[: self._settings.race]
        archs = [search.arch(int(number)) for number in best]
        one = next(one for one in self._costs if metric in (one.metrics or ()))
        return Plan(verdict, archs, largest_within(ladder(search.space), lambda arch: one(arch)[metric], bound))

    def run(self, search: Study, plans: Sequence[Plan]) -> list[Choice]:
        """The choice of each plan; what was tuned before is not tuned again."""
        name, sign = self._settings.goal
        winners = [self._race(plan) for plan in plans]
        tuned = self._study(TUNED, self._tuned, winners, plans)
        uniform = self._study(UNIFORM, self._uniform, [plan.uniform for plan in plans if plan.uniform], plans)
        found = []
        for plan, arch in zip(plans, winners, strict=True):
            study, chosen, measured = tuned, arch, _measured(tuned, arch)
            other = None if plan.uniform is None or uniform is None else _measured(uniform, plan.uniform)
            is_uniform = other is not None and other[name] * sign < measured[name] * sign
            if is_uniform and uniform is not None and plan.uniform is not None and other is not None:
                study, chosen, measured = uniform, plan.uniform, other
            assert study is not None
            before = search.record.lookup(chosen.key)
            found.append(
                Choice(
                    plan.verdict.budget,
                    plan.verdict.constraint.bound,
                    study,
                    _number(study, chosen),
                    chosen,
                    measured,
                    {} if before is None else dict(before.measurements),
                    other,
                    is_uniform,
                )
            )
        return found

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


def _number(study: Study, arch: Arch) -> int:
    found = study.record.lookup(arch.key)
    assert found is not None, "every arch of the study was evaluated"
    return found.number


def _measured(study: Study | None, arch: Arch) -> Mapping[str, float]:
    assert study is not None
    return dict(study.record.trial(_number(study, arch)).measurements)
