"""What holds for everybody who evaluates trials of a study, in whatever process or language.

Inherit `ParticipantConformance` and say how one takes part.
"""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nas.store import Store, StudyRecord, open_store


@dataclass(frozen=True)
class Handed:
    """A trial to evaluate."""

    number: int
    attempt: int
    choices: dict[str, Any]


class Participant(ABC):
    """Somebody who evaluates."""

    @abstractmethod
    def ask(self, count: int = 1, *, lease_s: float = 600.0, holding: Collection[int] = ()) -> list[Handed]:
        """Trials, leased."""

    @abstractmethod
    def heartbeat(self, lease_s: float) -> int:
        """How many trials are kept."""

    @abstractmethod
    def tell(self, one: Handed, measurements: dict[str, float], state: str = "COMPLETED", reason: str = "") -> Any:
        """The answer: (accepted, the trial's state then, a sentence)."""

    @abstractmethod
    def step(self, one: Handed, step: int, measurements: dict[str, float]) -> bool:
        """Whether intermediate values were accepted."""


GOOD = {"accuracy": 0.9, "params": 100.0}


class ParticipantConformance(ABC):
    """The rules: leases, fences, the judge, exactly once."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Of the database."""
        return tmp_path / "study.db"

    @abstractmethod
    def join(self, name: str) -> Participant:
        """Take part in the study `toy`: 24 archs, max accuracy and min params, params <= 9000, 24 trials."""

    @pytest.fixture
    def store(self, path: Path) -> Any:
        """The database, as everybody reads it."""
        with open_store(path, create=False) as opened:
            yield opened

    @pytest.fixture
    def record(self, store: Store) -> StudyRecord:
        """The study's record."""
        return store.open_study("toy")

    def test_what_is_asked_is_leased_and_nobody_elses(self, record: StudyRecord) -> None:
        first, second = self.join("a").ask(5), self.join("b").ask(5)
        numbers = [one.number for one in first + second]
        assert sorted(numbers) == list(range(10))
        assert record.counts()["RUNNING"] == 10
        assert len({lease.worker for lease in record.leases()}) == 2

    def test_a_result_is_recorded_and_judged(self, record: StudyRecord) -> None:
        one = self.join("a")
        good, beyond, lacking, absurd, broken = one.ask(5)
        assert one.tell(good, GOOD)[:2] == (True, "COMPLETED")
        assert one.tell(beyond, {"accuracy": 0.9, "params": 9001.0})[:2] == (True, "INFEASIBLE")
        accepted, state, why = one.tell(lacking, {"params": 1.0})
        assert (accepted, state) == (True, "FAILED")
        assert "objective 'accuracy' was not measured" in why
        assert one.tell(absurd, {"accuracy": math.inf, "params": 1.0})[:2] == (True, "FAILED")
        assert one.tell(broken, {}, "FAILED", "no battery")[1:] == ("FAILED", "no battery")
        assert record.counts() == {"WAITING": 0, "RUNNING": 0, "COMPLETED": 1, "INFEASIBLE": 1, "FAILED": 3}
        assert record.trial(good.number).measurements == GOOD
        assert record.trial(broken.number).reason == "no battery"

    def test_telling_the_same_again_is_answered_the_same_and_changes_nothing(self, record: StudyRecord) -> None:
        one = self.join("a")
        for measurements in (GOOD, {"params": 1.0}, {"accuracy": 0.5, "params": 9999.0}):
            (trial,) = one.ask()
            first = one.tell(trial, measurements)
            before = record.position()
            assert one.tell(trial, measurements) == first
            assert record.position() == before

    def test_telling_something_else_is_refused(self, record: StudyRecord) -> None:
        one = self.join("a")
        (trial,) = one.ask()
        one.tell(trial, GOOD)
        accepted, _, why = one.tell(trial, {"accuracy": 0.8, "params": 100.0})
        assert not accepted
        assert "cannot be reported again" in why
        assert record.trial(trial.number).measurements == GOOD

    def test_nobody_tells_anothers_trial(self, record: StudyRecord) -> None:
        (trial,) = self.join("a").ask()
        accepted, _, why = self.join("b").tell(trial, GOOD)
        assert not accepted
        assert "no longer to" in why
        assert record.counts()["RUNNING"] == 1

    def test_a_lease_that_ended_goes_to_another_and_the_late_result_is_refused(self, record: StudyRecord) -> None:
        early, late = self.join("a"), self.join("b")
        (trial,) = early.ask(lease_s=0.01)
        time.sleep(0.05)
        (again,) = late.ask()
        assert (again.number, again.attempt) == (trial.number, trial.attempt + 1)
        assert again.choices == trial.choices
        assert early.tell(trial, GOOD)[0] is False
        assert late.tell(again, GOOD)[:2] == (True, "COMPLETED")
        assert early.tell(trial, GOOD)[0] is False

    def test_a_heartbeat_keeps_what_is_held(self, record: StudyRecord) -> None:
        one = self.join("a")
        (trial,) = one.ask(lease_s=0.01)
        assert one.heartbeat(600) == 1
        assert self.join("b").ask()[0].number != trial.number
        assert one.tell(trial, GOOD)[0]
        assert one.heartbeat(600) == 0

    def test_trials_whose_answer_was_lost_come_again(self, record: StudyRecord) -> None:
        one = self.join("a")
        lost = one.ask(3)
        assert one.ask(3) == lost
        assert record.counts()["RUNNING"] == 3
        more = one.ask(3, holding=[lost[0].number])
        assert [trial.number for trial in more] == [1, 2, 3]

    def test_intermediate_values_are_fenced(self, record: StudyRecord) -> None:
        one, other = self.join("a"), self.join("b")
        (trial,) = one.ask()
        assert one.step(trial, 0, {"accuracy": 0.1})
        assert one.step(trial, 1, {"accuracy": 0.2})
        assert not other.step(trial, 2, {"accuracy": 0.3})
        assert record.trial(trial.number).curves == {"accuracy": [(0, 0.1), (1, 0.2)]}
        one.tell(trial, GOOD)
        assert not one.step(trial, 3, {"accuracy": 0.4})

    def test_a_study_that_has_its_trials_hands_out_no_more(self, record: StudyRecord) -> None:
        one = self.join("a")
        trials = one.ask(100)
        assert len(trials) == 24
        assert len({str(trial.choices) for trial in trials}) == 24
        for trial in trials:
            one.tell(trial, {"accuracy": trial.number / 100, "params": 1.0 + trial.number})
        assert one.ask(1) == []
        assert record.counts()["COMPLETED"] == 24

    def test_eight_at_once_evaluate_each_trial_once(self, record: StudyRecord) -> None:
        told: list[int] = []

        def work(name: str) -> None:
            one = self.join(name)
            while trials := one.ask(2):
                for trial in trials:
                    if one.tell(trial, {"accuracy": 0.5, "params": 1.0 + trial.number})[0]:
                        told.append(trial.number)

        threads = [threading.Thread(target=work, args=(f"w{at}",)) for at in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(told) == list(range(24))
        assert record.counts()["COMPLETED"] == 24
