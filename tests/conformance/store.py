"""What every results database must do.  Inherit `StoreConformance` and give it a fixture `url`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from nas.errors import StoreError
from nas.metrics import Metric, parse_constraint
from nas.store import NewTrial, Report, Store, StudyRecord, open_store

OBJECTIVES = (Metric("accuracy", "max"), Metric("latency_ms", "min"))


def schema(
    decisions: int = 3, *, labels: Sequence[Any] = (3, 5, 7), name: str = "toy", version: int = 1
) -> dict[str, Any]:
    """A space of `decisions` choices between `labels` and one float."""
    return {
        "name": name,
        "version": version,
        "fingerprint": f"{name}-{decisions}-{list(labels)}",
        "decisions": [
            *(
                {"name": f"layers[{i}].kernel", "kind": "categorical", "candidates": list(labels)}
                for i in range(decisions)
            ),
            {"name": "rate", "kind": "float", "min": 0.0, "max": 1.0, "scale": None},
        ],
    }


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


class StoreConformance:
    """The rules of a store: durable, exactly once, immutable, fenced."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        with open_store(url) as store:
            yield store

    @pytest.fixture
    def study(self, store: Store) -> StudyRecord:
        return make_study(store)

    def test_wave_records_results_and_leases_the_next(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        first = study.add([new_trial(rng), new_trial(rng)], worker="w")
        receipts, second = study.wave([completed(0, 0.9, 2.0), completed(1, 0.8, 1.0)], [new_trial(rng)], worker="w")
        assert [a.number for a in first + second] == [0, 1, 2]
        assert all(receipt.accepted and receipt.entered_front for receipt in receipts)
        history = study.history()
        assert history.states == ["COMPLETED", "COMPLETED"]
        assert history.values.tolist() == [[0.9, 2.0], [0.8, 1.0]]
        assert [(p.number, p.state, p.worker) for p in history.pending] == [(2, "RUNNING", "w")]
        front = study.front()
        assert front.index.tolist() == [0, 1]
        assert list(front.columns) == ["accuracy", "latency_ms", "choices"]

    def test_an_arch_is_stored_once(self, study: StudyRecord) -> None:
        new = new_trial(random.Random(0))
        study.add([new], worker="w")
        study.report([completed(0, 0.9, 2.0)])
        again = study.add([new, new_trial(random.Random(1)), new])
        assert [(a.number, a.existing, a.state) for a in again] == [
            (0, True, "COMPLETED"),
            (1, False, "WAITING"),
            (0, True, "COMPLETED"),
        ]

    def test_unknown_study_is_one_sentence(self, store: Store, study: StudyRecord) -> None:
        with pytest.raises(StoreError, match="no study 'toi'; did you mean 'toy'"):
            store.open_study("toi")
