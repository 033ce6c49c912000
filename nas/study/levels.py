"""A study whose search decides how far each arch is evaluated: two records, two drivers, one pool of workers.

Low evaluations are trials of a study of their own beside the one that is searched, so that no front, filter or export of either
can take a value of the one level for one of the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nas import signals
from nas.errors import StudyError
from nas.evaluate.gated import conditions
from nas.search import MultiFidelity

if TYPE_CHECKING:
    from nas.evaluate.base import Evaluator
    from nas.runners import Runner, Task
    from nas.study.curves import Curves
    from nas.study.driver import Driver, Options
    from nas.study.progress import Reporter
    from nas.study.study import Study

_WAIT_S = 1.0


def searches(study: Study) -> MultiFidelity:
    """The search of a study that decides how far archs are evaluated.

    Raises:
        StudyError: its algorithm is another.
    """
    if not isinstance(study.algorithm, MultiFidelity):
        raise StudyError(
            f"study {study.name!r} has no low evaluations: its algorithm is {study.algorithm.name!r}; give "
            "algorithm=nas.MultiFidelity()"
        )
    return study.algorithm


def partial_one(study: Study) -> Evaluator:
    """The evaluator that can stop early.

    Raises:
        StudyError: there is not exactly one, it does not say how far it goes or what it yields, or it yields no objective.
    """
    found = [one for one in study.evaluators if one.has_levels]
    if len(found) != 1:
        raise StudyError(
            f"{len(found)} evaluators of study {study.name!r} have up_to, and {study.algorithm.name!r} needs exactly one that "
            "stops early; give one nas.Trained, or define up_to(arch, far) in your evaluator"
        )
    one = found[0]
    if (
        late := next((on for on in conditions(study.evaluators) if on.metric in (one.metrics or ())), None)
    ) is not None:
        raise StudyError(
            f"an evaluator of study {study.name!r} is asked only where {late}, and {study.algorithm.name!r} evaluates archs a "
            "part of the way, where that says nothing; give the condition on what is the same however far, or search with "
            "another algorithm"
        )
    if one.fidelity is None or one.metrics is None:
        what = "fidelity, as in ('epochs', 90.0)" if one.fidelity is None else "metrics, as in ('accuracy',)"
        raise StudyError(
            f"the evaluator of study {study.name!r} that has up_to declares no {what}; add it to the class"
        )
    if not any(metric.name in one.metrics for metric in study.objectives):
        raise StudyError(
            f"no objective of study {study.name!r} is among what its evaluator that stops early yields "
            f"({', '.join(one.metrics)}); search with another algorithm"
        )
    return one


def low_name(study: Study) -> str:
    """Name of the study of low evaluations: "digits@3" where they go 3 epochs far."""
    return f"{study.name}@{how_far(study):g}"


def how_far(study: Study) -> float:
    """How far a low evaluation goes."""
    one = partial_one(study)
    assert one.fidelity is not None
    return searches(study).far(one.fidelity[1])


class Loop:
    """The loop of a run: for every free worker a low evaluation or a full one, as the search decides.

    Args:
        full: driver of the study.
        low: driver of its study of low evaluations.
        far: how far those go.
    """

    def __init__(self, full: Driver, low: Driver, far: float) -> None:
        self._full, self._low, self._far = full, low, far

    def __call__(self, runner: Runner, options: Options, progress: Reporter, curves: Curves) -> str:
        """Evaluate until the study has its trials, or nothing is left to evaluate; the sentence on why it ended.

        Raises:
            StudyError: too many evaluations of one level failed in a row, or nothing is proposed.
        """
        full, low = self._full, self._low
        try:
            while True:
                signals.check()
                full.look()
                low.look()
                self._hand_out(runner, options.trials)
                if full.finished >= options.trials:
                    return f"{full.finished} trials, {self._said()}"
                if not (full.in_flight or low.in_flight) and not self._waits(runner):
                    if full.exhausted:
                        return f"every arch of the space that can be proposed has been evaluated, {self._said()}"
                    raise StudyError(f"algorithm {full.algorithm.name!r} proposes nothing and nothing is in flight")
                self._hear(runner, curves)
                progress.update(full.finished, full.state)
                full.check_failures(options.max_failures)
                low.check_failures(options.max_failures)
        finally:
            low.release()

    def _said(self) -> str:
        return f"{self._low.finished} low evaluations (study {self._low.name!r})"

    def _hand_out(self, runner: Runner, trials: int) -> None:
        full, low = self._full, self._low
        while len(full.in_flight) + len(low.in_flight) < runner.capacity:
            if full.finished + len(full.in_flight) + full.elsewhere >= trials:
                return  # nothing is left to choose
            if tasks := low.tasks(1):
                runner.submit([self._as_low(task) for task in tasks])
            elif tasks := full.tasks(1):
                runner.submit([_as_full(task) for task in tasks])
            else:
                return

    def _waits(self, runner: Runner) -> bool:
        """While others evaluate what is left: whether there is any; what a driver that has died had begun is taken over."""
        # What an algorithm waits for and nobody here holds is another driver's, whether it was seen in the record yet or not.
        if not any(one.elsewhere or one.algorithm.pending for one in (self._full, self._low)):
            return False
        runner.submit([_as_full(task) for task in self._full.take_over(runner.capacity)])
        runner.submit([self._as_low(task) for task in self._low.take_over(runner.capacity)])
        return True

    def _hear(self, runner: Runner, curves: Curves) -> None:
        full, low = self._full, self._low
        outcomes = runner.wait(_WAIT_S) if full.in_flight or low.in_flight else []
        mine = [replace(one, number=one.number // 2) for one in outcomes if one.number % 2 == 0]
        theirs = [replace(one, number=one.number // 2) for one in outcomes if one.number % 2]
        curves.keep({one.number: full.in_flight[one.number] for one in mine})
        for number in curves.look(full.in_flight):
            runner.progressed(2 * number)
        full.report(mine)
        low.report(theirs)
        full.heartbeat()
        low.heartbeat()

    def _as_low(self, task: Task) -> Task:
        return replace(task, number=2 * task.number + 1, far=self._far)


def _as_full(task: Task) -> Task:
    return replace(task, number=2 * task.number)  # trials of two studies share the workers
