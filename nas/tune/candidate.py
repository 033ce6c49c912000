"""A trial of a study as a class of Ray Tune's: one epoch a step, resumed by its evaluator's own checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.result import (
    AUTO_RESULT_KEYS,
    DONE,
    EPISODES_THIS_ITER,
    SHOULD_CHECKPOINT,
    TIMESTEPS_THIS_ITER,
    TRIAL_ID,
)

from nas.errors import EvaluationError, StudyError
from nas.evaluate import Evaluation
from nas.evaluate.gated import Gated, conditions
from nas.failures import describe, outcome
from nas.runners.work import Payload

if TYPE_CHECKING:
    from nas.space import Arch

#: Results carry a trial's own measurements under this name, apart from what Tune adds.
MEASURED = "measured"
STATE, REASON = "nas_state", "nas_reason"
# What Tune itself writes into a result or acts on; a metric of such a name stays among the trial's own measurements.
_TUNES = frozenset({*AUTO_RESULT_KEYS, DONE, SHOULD_CHECKPOINT, TRIAL_ID, EPISODES_THIS_ITER, TIMESTEPS_THIS_ITER})


class Epochs:
    """An evaluation in epochs: what is measured once, then the evaluator that trains, merged after each of its epochs.

    Raises:
        StudyError: not exactly one evaluator has epochs.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        trains = [one for one in evaluation.evaluators if one.has_epochs]
        if len(trains) != 1:
            raise StudyError(
                f"{len(trains)} of the study's evaluators train in epochs, and Tune runs exactly one; "
                "give one nas.Trained, or use Study.run"
            )
        # What a training waits for is a constraint of the others.
        self._trained: Any = trains[0].evaluator if isinstance(trains[0], Gated) else trains[0]
        others = [one for one in evaluation.evaluators if one is not trains[0]]
        if (
            late := next((on for on in conditions(others) if on.metric in (trains[0].metrics or ())), None)
        ) is not None:
            raise StudyError(
                f"an evaluator is asked only where {late}, and Tune asks it before the training that gives {late.metric!r}; "
                "use Study.run"
            )
        self._others = evaluation.of(others) if others else None

    @property
    def last(self) -> int:
        """Epochs of a full training."""
        return int(self._trained.epochs)

    @property
    def names(self) -> tuple[str, ...]:
        """What is measured after each epoch."""
        return tuple(self._trained.metrics)

    def each(self, arch: Arch) -> Iterator[dict[str, float]]:
        """All measurements after each epoch.

        Raises:
            Infeasible: an evaluator says so before the training.
            EvaluationError: an evaluator gave what is no measurement, or what the training gives.
        """
        once = {} if self._others is None else self._others(arch)
        for measured in self._trained.each_epoch(arch):
            for name in once.keys() & measured.keys():
                raise EvaluationError(f"two evaluators yield {name!r}; rename one")
            yield {**once, **measured}


class Candidate(tune.Trainable):
    """Steps through the epochs of the trial in its config; `reset_config` makes one process serve many trials."""

    def setup(self, config: dict[str, Any], payload: Payload | None = None) -> None:
        """Loads the evaluation.

        Args:
            config: the trial: its number and its row in the space.
            payload: space and epochs.
        """
        assert payload is not None
        self._broken = ""
        load: Callable[[], Any] = payload.unpack
        try:
            self._space, self._epochs = load()
        except BaseException as error:  # said by the trial: to Tune a failed setup is a lost process
            self._broken = f"a worker cannot load the evaluation: {describe(error)}"
        self._open(config)

    def step(self) -> dict[str, Any]:
        """One epoch: trained, or read where it had finished before.  A trial that cannot go on ends with why."""
        if self._broken:
            return self._end("FAILED", self._broken, {})
        state, measured, reason = outcome(lambda: next(self._steps))
        if state != "COMPLETED":
            return self._end(state, reason, measured)
        done = self.iteration + 1 >= self._epochs.last
        return {
            **{name: value for name, value in measured.items() if name not in _TUNES},
            MEASURED: measured,
            "done": done,
        }

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Goes over to another trial."""
        self._open(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: each epoch has left its checkpoint already."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, likewise."""

    def _open(self, config: dict[str, Any]) -> None:
        if not self._broken:
            arch = self._space.rows_to_archs([config["row"]])[0]
            self._steps = self._epochs.each(arch)

    def _end(self, state: str, reason: str, measured: dict[str, float]) -> dict[str, Any]:
        # Apart from what schedulers look at: a trial that has no value is none that they compare with.
        return {MEASURED: measured, STATE: state, REASON: reason, "done": True}
