"""Studies, trials and reports for the tests of stores, and what must hold of a study whatever was done to it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from nas.metrics import Metric, parse_constraint
from nas.store import NewTrial, Report, State, Store, StudyRecord

OBJECTIVES = (Metric("accuracy", "max"), Metric("latency_ms", "min"))


def engine(url: str) -> sa.Engine:
    """A connection to the database behind the store's back."""
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=sa.NullPool)


def schema(decisions: int = 3, labels: Sequence[Any] = (3, 5, 7), name: str = "toy") -> dict[str, Any]:
    """A space of `decisions` choices between `labels`, and one float."""
    choices = [
        {"name": f"layers[{i}].kernel", "kind": "categorical", "candidates": list(labels)} for i in range(decisions)
    ]
    rate = {"name": "rate", "kind": "float", "min": 0.0, "max": 1.0, "scale": None}
    return {"name": name, "version": 1, "fingerprint": f"{decisions}-{list(labels)}", "decisions": [*choices, rate]}


def new_trial(rng: random.Random, decisions: int = 3) -> NewTrial:
    row = [*(rng.randrange(3) for _ in range(decisions)), rng.random()]
    return NewTrial(f"{rng.getrandbits(128):032x}", row, rng.getrandbits(62))


def completed(
    number: int, accuracy: float, latency_ms: float, worker: str = "w", attempt: int = 1, **more: float
) -> Report:
    values = {"accuracy": accuracy, "latency_ms": latency_ms, **more}
    return Report(number, worker, attempt, "COMPLETED", values, duration_s=0.5)


def make_study(store: Store, name: str = "toy", constraints: Sequence[str] = ()) -> StudyRecord:
    parsed = [parse_constraint(text) for text in constraints]
    return store.create_study(
        name, space_schema=schema(), objectives=OBJECTIVES, constraints=parsed, settings={"seed": 1}
    )


def slow_front(numbers: Sequence[int], values: np.ndarray) -> set[int]:
    """Non-dominated points by comparing all pairs, in finish order; of equal points the first."""
    points = [(-accuracy, latency) for accuracy, latency in values.tolist()]
    front = set()
    for i, point in enumerate(points):
        dominated = any(
            other[0] <= point[0] and other[1] <= point[1] and (other != point or j < i)
            for j, other in enumerate(points)
            if j != i
        )
        if not dominated:
            front.add(numbers[i])
    return front


def audit(study: StudyRecord) -> None:
    """Everything that is stored twice agrees, whatever happened before."""
    history = study.history()
    table = study.trials()
    states = Counter(table["state"])
    assert {state: n for state, n in study.counts().items() if n} == dict(states)
    assert table.index.tolist() == list(range(len(table)))
    assert len(history) == sum(states[state] for state in ("COMPLETED", "INFEASIBLE", "FAILED")) == history.last
    assert sorted(history.numbers.tolist() + [p.number for p in history.pending]) == list(range(len(table)))
    assert len(study.keys()) == len(table)
    for number, state in zip(history.numbers.tolist(), history.states, strict=True):
        assert table["state"][number] == state
    done = [i for i, state in enumerate(history.states) if state == "COMPLETED"]
    assert not np.isnan(history.values[done]).any()
    expected = slow_front(history.numbers[done].tolist(), history.values[done])
    assert set(study.front().index) == expected
    assert set(study.front(where="attempt >= 0").index) == expected


def operate(
    study: StudyRecord,
    rng: random.Random,
    leases: dict[int, tuple[str, int]],
    done: dict[int, tuple[State, dict[str, float]]],
) -> None:
    """One random operation; `leases` and `done` are what must be true afterwards."""
    what = rng.choice(["add", "add", "claim", "report", "report", "report", "late", "repeat", "release", "requeue"])
    worker = rng.choice(["a", "b"])
    if what == "add":
        leased = rng.random() < 0.7
        for added in study.add([new_trial(rng) for _ in range(rng.randrange(1, 5))], worker=worker if leased else None):
            if leased:
                leases[added.number] = (worker, 1)
    elif what == "claim":
        leases |= {claim.number: (worker, claim.attempt) for claim in study.claim(worker, rng.randrange(1, 4))}
    elif what == "report":
        numbers = rng.sample(sorted(leases), k=min(len(leases), rng.randrange(1, 5)))
        reports = [_result(rng, number, *leases.pop(number)) for number in numbers]
        for receipt, report in zip(study.report(reports), reports, strict=True):
            assert receipt.accepted
            late = report.measurements.get("latency_ms", 0.0) > 5
            expected: State = "INFEASIBLE" if report.state == "COMPLETED" and late else report.state
            assert receipt.state == expected
            done[report.number] = (expected, dict(report.measurements))
    elif what == "late":
        numbers = sorted({*leases, *done})
        if numbers:
            assert not study.report([_result(rng, rng.choice(numbers), "gone", 1)])[0].accepted
    elif what == "repeat":
        trials = study.trials(where="state == 'COMPLETED'")
        if len(trials):
            trial = study.trial(int(rng.choice(trials.index.tolist())))
            again = Report(trial.number, str(trial.worker), trial.attempt, trial.state, trial.measurements)
            assert study.report([again])[0].why == "already recorded"
    else:
        taken = {number for number, (owner, _) in leases.items() if owner == worker}
        given_back = (
            study.release(worker)
            if what == "release"
            else study.requeue_expired(dead=lambda owner: owner == worker, max_attempts=10**6)
        )
        assert given_back == len(taken)
        for number in taken:
            del leases[number]


def _result(rng: random.Random, number: int, worker: str, attempt: int) -> Report:
    """A result out of few values, so that points tie and repeat."""
    if rng.random() < 0.2:
        return Report(number, worker, attempt, "FAILED", reason="boom")
    return completed(number, rng.randrange(5) / 4, rng.randrange(1, 7), worker, attempt)
