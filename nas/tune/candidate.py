"""A trial of a study as a class of Ray Tune's: one epoch a step, resumed by its evaluator's own checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ray import tune

from nas.errors import Infeasible, StudyError
from nas.evaluate import Evaluation
from nas.runners.work import Payload, describe

if TYPE_CHECKING:
    from nas.space import Arch

#: Results carry a trial's own measurements under this name, apart from what Tune adds.
MEASURED = "measured"
STATE, REASON = "nas_state", "nas_reason"


class Epochs:
    """An evaluation in epochs: what is measured once, then the evaluator that trains, merged after each of its epochs.

    Raises:
        StudyError: not exactly one evaluator has epochs.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        trains = [one for one in evaluation.evaluators if hasattr(one, "each_epoch")]
        if len(trains) != 1:
            raise StudyError(
                f"{len(trains)} of the study's evaluators train in epochs, and Tune runs exactly one; "
                "give one nas.Trained, or use Study.run"
            )
        self._trained: Any = trains[0]
        others = [one for one in evaluation.evaluators if one is not trains[0]]
        self._others = Evaluation(others, evaluation.constraints) if others else None

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
        """
        once = {} if self._others is None else self._others(arch)
        for measured in self._trained.each_epoch(arch):
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
        except Exception as error:  # said by the trial: to Tune a failed setup is a lost process
            self._broken = f"a worker cannot load the evaluation: {describe(error)}"
        self._open(config)

    def step(self) -> dict[str, Any]:
        """One epoch: trained, or read where it had finished before.  A trial that cannot go on ends with why."""
        if self._broken:
            return self._end("FAILED", self._broken, {})
        try:
            measured = next(self._steps)
        except Infeasible as infeasible:
            return self._end("INFEASIBLE", infeasible.reason, infeasible.measurements)
        except Exception as error:
            return self._end("FAILED", describe(error), {})
        done = self.iteration + 1 >= self._epochs.last
        return {**measured, MEASURED: measured, "done": done}

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
