"""Our algorithms for a user's own Ray Tune `Tuner`."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from nas import files, sealed
from nas.checking import checked
from nas.errors import AlgorithmError, MetricError, suggest
from nas.metrics import Constraint, Metric, parse_constraint, parse_objective
from nas.search import Algorithm, Exhausted, Finished, History, Surrogate, make
from nas.store.records import ImportedTrial
from nas.store.settle import settle
from nas.study.driver import finished

if TYPE_CHECKING:
    from nas.space import Arch, Space

_FORMAT = 1
_log = logging.getLogger("nas")


class Searcher(tune.search.Searcher):
    """An algorithm of ours as Ray Tune's `search_alg`, with as many objectives as wanted.

    A trial's `config["arch"]` is `Arch.to_json()`; the trainable makes the arch of it with
    `space.arch(config["arch"]["choices"])`.  Its last report must have every objective: Tune itself knows one metric at most, so
    give `TuneConfig` a metric only where a scheduler wants one.

    It saves itself as JSON beside Tune's own files; `Tuner.restore` and `restore_from_dir` rebuild the algorithm from that.
    `ConcurrencyLimiter` and `TuneConfig(max_concurrent_trials=…)` limit it as they do others.

    Args:
        space: what to search.
        algorithm: a name as the command line takes, or an `Algorithm` that no study has; `Surrogate` unless told, as for a study.
        objectives: `"max accuracy"`, `"min latency_ms"`.
        constraints: `"params <= 50_000"`; a trial that violates one is infeasible.

    Raises:
        MetricError: an objective or a constraint is ill-formed.
        AlgorithmError: no such algorithm, or it cannot search this space.
    """

    @checked(AlgorithmError)
    def __init__(
        self,
        space: Space,
        algorithm: str | Algorithm | None = None,
        objectives: Sequence[str | Metric] = (),
        constraints: Sequence[str | Constraint] = (),
    ) -> None:
        super().__init__()
        self.space = space
        self.objectives = tuple(parse_objective(one) for one in objectives)
        self.constraints = tuple(parse_constraint(one) for one in constraints)
        self._fresh = make(algorithm) if isinstance(algorithm, str) else algorithm or Surrogate()
        self._begin()

    def suggest(self, trial_id: str) -> Any:
        """The config of a new trial; None while the algorithm waits for results; FINISHED when nothing is left."""
        try:
            archs = self._algorithm.ask(1)
        except Exhausted:
            return self.FINISHED
        if not archs:
            return None
        self._archs[trial_id] = archs[0]
        return {"arch": archs[0].to_json()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the algorithm; a trial that failed, or was suggested by nobody here, has no values.

        Raises:
            MetricError: the trial reported no value for an objective or a constraint.
        """
        arch = self._archs.pop(trial_id, None)
        if arch is None:
            return  # of a run whose last moments were not saved
        trial = self._finished(arch, None if error else result)
        self._told.append(trial)
        self._algorithm.tell([trial])

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:  # noqa: ARG002
        """Takes constants of `param_space` beside the arch; refuses a metric that contradicts the objectives.

        Raises:
            MetricError: it does.
        """
        for objective in self.objectives:
            if metric == objective.name and mode not in (None, objective.goal):
                raise MetricError(
                    f"TuneConfig has mode {mode!r} for {metric!r}, and the searcher's objective is "
                    f"'{objective.goal} {objective.name}'; make them agree"
                )
        return True

    def save(self, checkpoint_path: str) -> None:
        """Writes all that the algorithm knows, as JSON."""
        with files.explained(checkpoint_path, AlgorithmError):
            files.write(checkpoint_path, sealed.seal(self._state()))

    def restore(self, checkpoint_path: str) -> None:
        """Rebuilds the algorithm from what `save` wrote; what it knew before is forgotten.

        Raises:
            AlgorithmError: the file is none of ours, not what was saved, or of another algorithm, space or objectives.
        """
        try:
            state, is_sealed = sealed.unseal(Path(checkpoint_path).read_bytes())
            version = state["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AlgorithmError(
                f"'{checkpoint_path}' is not the state of a nas.tune.Searcher ({type(error).__name__}); give its file"
            ) from error
        if version != _FORMAT:
            raise AlgorithmError(f"'{checkpoint_path}' has format {version}, this version reads {_FORMAT}; upgrade")
        if not is_sealed:
            sealed.warn(checkpoint_path)
        for name, now in self._settings().items():
            if state[name] != now:
                raise AlgorithmError(
                    f"'{checkpoint_path}' is of {name} {state[name]}, this searcher has {now}; restore with the same"
                )
        self._rebuild(state)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles a search algorithm into a file of its own; the algorithm travels as what it was told.
        kept = {**self.__dict__, "_state": self._state()}
        for name in ("_algorithm", "_told", "_archs"):
            del kept[name]
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        state = kept.pop("_state")
        self.__dict__.update(kept)
        self._rebuild(state)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._algorithm = copy.deepcopy(self._fresh)
        self._algorithm.bind(self.space, self.objectives, self.constraints)
        self._archs: dict[str, Arch] = {}  # of the trials under way, by Tune's name for them
        self._told: list[Finished] = []

    def _settings(self) -> dict[str, Any]:
        found = {
            "algorithm": self._fresh.describe(),
            "space": self.space.name,
            "objectives": [f"{one.goal} {one.name}" for one in self.objectives],
            "constraints": [str(one) for one in self.constraints],
        }
        return dict(json.loads(json.dumps(found)))

    def _state(self) -> dict[str, Any]:
        told = [[trial.number, trial.arch.row(), trial.values, trial.violation, trial.state] for trial in self._told]
        pending = {name: arch.row() for name, arch in self._archs.items()}
        return {
            "format": _FORMAT,
            **self._settings(),
            "schema": self.space.schema(),
            "told": told,
            "pending": pending,
        }

    def _rebuild(self, state: Mapping[str, Any]) -> None:
        self._begin()
        schema = state["schema"]
        self._told = [
            Finished(number, self.space.from_row(row, schema), None if values is None else tuple(values), *rest)
            for number, row, values, *rest in state["told"]
        ]
        self._archs = {name: self.space.from_row(row, schema) for name, row in state["pending"].items()}
        self._algorithm.restore(History.of(self._told, len(self.objectives), list(self._archs.values())))

    def _finished(self, arch: Arch, result: Mapping[str, Any] | None) -> Finished:
        """The trial as a study would judge it; what is wrong with a value is told once, since Tune has no place for it."""
        if result is None:
            return finished(len(self._told), arch, settle(ImportedTrial("", (), {}, "FAILED"), (), ()), self.objectives)
        wanted = dict.fromkeys([*(one.name for one in self.objectives), *(one.metric for one in self.constraints)])
        measured = {name: self._value(result, name) for name in wanted}
        settled = settle(ImportedTrial("", (), measured), self.objectives, self.constraints)
        if settled.state == "FAILED":
            _log.warning("a trial has failed: %s", settled.reason)
        return finished(len(self._told), arch, settled, self.objectives)

    def _value(self, result: Mapping[str, Any], name: str) -> Any:
        if name not in result:
            raise MetricError(f"a trial ended without {name!r}; report it with tune.report{suggest(name, result)}")
        return result[name]
