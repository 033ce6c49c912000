"""What goes into the store and what comes out: plain immutable records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nas.metrics import Constraint, Metric

#: A trial waits, runs, and then is finished for ever in one of the last three states.
State = Literal["WAITING", "RUNNING", "COMPLETED", "INFEASIBLE", "FAILED"]
STATES: tuple[State, ...] = ("WAITING", "RUNNING", "COMPLETED", "INFEASIBLE", "FAILED")
FINISHED: tuple[State, ...] = ("COMPLETED", "INFEASIBLE", "FAILED")

#: An arch as numbers in the order of its space's decisions; None = inactive.
ArchRow = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """What a study was created with, and the space that new trials are of."""

    id: int
    created: float
    name: str
    objectives: tuple[Metric, ...]
    constraints: tuple[Constraint, ...]
    settings: dict[str, Any]
    space_id: int
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewTrial:
    """An arch to evaluate; the seed is below 2**63."""

    key: str
    row: ArchRow
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """Where an arch is: a new trial, or the one that already had its key."""

    number: int
    key: str
    existing: bool
    state: State


@dataclass(frozen=True, slots=True)
class Claim:
    """A trial leased to a worker.  `attempt` goes back with the report; `space_id` says whose decisions `row` has."""

    number: int
    attempt: int
    key: str
    row: list[float | None]
    seed: int | None
    space_id: int


@dataclass(frozen=True, slots=True)
class Report:
    """How a trial ended.

    Args:
        number: the trial.
        worker: who held the lease.
        attempt: of the claim; a trial added with a worker has attempt 1.
        state: COMPLETED, INFEASIBLE or FAILED.
        measurements: final values by metric name.
        reason: why it is INFEASIBLE or FAILED.
        violation: how far it is beyond the constraints; None = computed from the measurements.
        duration_s: what the evaluation took.
        started: when it began, in seconds since the epoch; None = when it was claimed.
    """

    number: int
    worker: str
    attempt: int
    state: State
    measurements: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    violation: float | None = None
    duration_s: float | None = None
    started: float | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a report.

    `accepted` is False when the reporter no longer holds the lease: nothing was changed, `why` says why.  `state` is the
    trial's now; it differs from the report's when the measurements did not bear that out (`why` says how).
    """

    number: int
    accepted: bool
    why: str
    entered_front: bool
    state: State


@dataclass(frozen=True, slots=True)
class ImportedTrial:
    """A trial that was evaluated elsewhere, to import."""

    key: str
    row: ArchRow
    measurements: Mapping[str, float]
    state: State = "COMPLETED"
    seed: int | None = None
    reason: str | None = None
    violation: float | None = None
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """Everything that is stored about one trial.

    `choices` has label or value by decision name, active decisions only; `measurements` final values by metric name;
    `curves` the intermediate (step, value) pairs.
    """

    number: int
    key: str
    state: State
    row: list[float | None]
    choices: dict[str, Any]
    schema: dict[str, Any]
    worker: str | None
    attempt: int
    seed: int | None
    created: float
    started: float | None
    finished: float | None
    duration_s: float | None
    violation: float | None
    reason: str | None
    measurements: dict[str, float]
    curves: dict[str, list[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Pending:
    """A trial that waits or runs."""

    number: int
    key: str
    row: list[float | None]
    space_id: int
    state: State
    worker: str | None
    attempt: int
    seed: int | None


@dataclass(frozen=True, slots=True)
class History:
    """What an algorithm needs to be where it was: n finished trials in the order in which they finished, and the pending ones.

    Args:
        numbers: (n,) int64.
        keys: n arch keys.
        rows: n lists of numbers, in the decision order of the space of that trial; parsed when they are looked at.
        space_ids: (n,) int64, into `schemas`.
        states: n of COMPLETED, INFEASIBLE, FAILED.
        values: (n, m) objective values in their own units and direction; NaN where there is none.
        violations: (n,) 0.0 for COMPLETED, NaN where unknown.
        schemas: space id → schema.
        pending: by number.
        last: position of the last one; `history(after=last)` continues from here.
    """

    numbers: NDArray[np.int64]
    keys: list[str]
    rows: Sequence[list[float | None]]
    space_ids: NDArray[np.int64]
    states: list[State]
    values: NDArray[np.float64]
    violations: NDArray[np.float64]
    schemas: dict[int, dict[str, Any]]
    pending: list[Pending]
    last: int

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class StudySummary:
    """One line of a list of studies.

    `best` has the best value of each objective among COMPLETED trials; it is empty when there are none.  `level_of` names the
    study whose low evaluations it holds, if it does.
    """

    name: str
    created: float
    space: str
    objectives: tuple[Metric, ...]
    counts: dict[State, int]
    front_size: int
    best: dict[str, float]
    level_of: str | None = None
