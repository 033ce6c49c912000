"""What an Optuna sampler looks at: finished trials in the order in which they finished, those under way, and one to fill in.

Optuna's own storages number trials in the order in which they were asked and keep them for ever.  Ours is put together anew
for each question from what is known, so that a sampler answers the same whether its study is an hour old or was just
reopened; finished trials are shared, not copied.
"""

# ruff: noqa: ARG002 (the arguments are those of the interface)

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState, create_trial

_STUDY = 0


class Board(BaseStorage):
    """The storage of one study, in memory, of which only the open trial is ever written.

    Args:
        objectives: how many; all are minimised.
    """

    def __init__(self, objectives: int) -> None:
        self._directions = [StudyDirection.MINIMIZE] * objectives
        self._attributes: dict[str, Any] = {}
        self._user_attributes: dict[str, Any] = {}
        self._trials: list[FrozenTrial] = []
        self._by_id: dict[int, FrozenTrial] = {}

    def show(self, finished: Sequence[FrozenTrial], running: Iterable[FrozenTrial], total: int) -> None:
        """Say what is known.

        Args:
            finished: with their numbers, which are their places among all that finished.
            running: numbered here, after the finished ones.
            total: how many have finished, shown or not.
        """
        self._trials = [*finished]
        for number, trial in enumerate(running, total):
            trial.number = trial._trial_id = number
            self._trials.append(trial)
        self._next = total + len(self._trials) - len(finished)
        self._by_id = {trial._trial_id: trial for trial in self._trials}

    # -- studies -----------------------------------------------------------------------------------------------------------

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """There is one."""
        assert list(directions) == self._directions
        return _STUDY

    def delete_study(self, study_id: int) -> None:
        """Forget everything."""
        self._trials, self._by_id, self._attributes = [], {}, {}

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See Optuna."""
        self._user_attributes[key] = value

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Where samplers keep what outlives a trial, as the parents of a generation."""
        self._attributes[key] = value

    def get_study_id_from_name(self, study_name: str) -> int:
        """See Optuna."""
        return _STUDY

    def get_study_name_from_id(self, study_id: int) -> str:
        """See Optuna."""
        return "supernas"

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See Optuna."""
        return self._directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See Optuna."""
        return self._user_attributes

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See Optuna."""
        return self._attributes

    def get_all_studies(self) -> list[FrozenStudy]:
        """See Optuna."""
        name = self.get_study_name_from_id(_STUDY)
        return [FrozenStudy(name, None, self._user_attributes, self._attributes, _STUDY, directions=self._directions)]

    # -- trials ------------------------------------------------------------------------------------------------------------

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """The open trial, after all others."""
        trial = copy.deepcopy(template_trial) if template_trial else create_trial(state=TrialState.RUNNING)
        trial.number = trial._trial_id = self._next
        self._next += 1
        self._trials = [*self._trials, trial]
        self._by_id[trial._trial_id] = trial
        return int(trial._trial_id)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """See Optuna."""
        trial = self._by_id[trial_id]
        trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        trial.distributions[param_name] = distribution

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See Optuna."""
        trial = self._by_id[trial_id]
        trial.state, trial.values = state, values
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """See Optuna."""
        self._by_id[trial_id].intermediate_values[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See Optuna."""
        self._by_id[trial_id].user_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See Optuna."""
        self._by_id[trial_id].system_attrs[key] = value

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See Optuna."""
        return self._by_id[trial_id]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See Optuna."""
        trials = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials
