"""Whoever takes part, in this process or over HTTP, keeps the same rules."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

import nas
from nas.errors import StoreError
from nas.remote import RemoteError, RemoteStudy, RemoteTrial
from nas.store import Report, StudyRecord, open_store
from nas.study.driver import Driver
from tests.conformance.participant import Handed, Participant, ParticipantConformance
from tests.web.served import SPACE, running, space

DECLARED: dict[str, Any] = {
    "objectives": ["max accuracy", "min params"],
    "constraints": ["params <= 9000"],
    "algorithm": "random",
    "trials": 24,
}


class Here(Participant):
    """In this process, by the library's own driver and record."""

    def __init__(self, driver: Driver, record: StudyRecord, name: str) -> None:
        self._driver, self._record, self._name = driver, record, name

    def ask(self, count: int = 1, *, lease_s: float = 600.0, holding: Collection[int] = ()) -> list[Handed]:
        handed = self._driver.hand_out(self._name, count, holding, lease_s, 24)
        return [Handed(one.number, one.attempt, one.arch.choices) for one in handed]

    def heartbeat(self, lease_s: float) -> int:
        return self._record.heartbeat(self._name, lease_s)

    def tell(self, one: Handed, measurements: dict[str, float], state: str = "COMPLETED", reason: str = "") -> Any:
        from nas.store.settle import settle

        report = Report(one.number, self._name, one.attempt, state, measurements, reason or None)  # type: ignore[arg-type]
        try:
            (receipt,) = self._record.report([report])
        except StoreError as error:
            return False, "", str(error)
        told = settle(report, self._record.objectives, self._record.constraints).reason or ""
        return receipt.accepted, receipt.state, told if receipt.accepted else receipt.why

    def step(self, one: Handed, step: int, measurements: dict[str, float]) -> bool:
        try:
            for name, value in measurements.items():
                self._record.measure(one.number, name, value, step, (self._name, one.attempt))
        except StoreError:
            return False
        return True


class TestHere(ParticipantConformance):
    @pytest.fixture(autouse=True)
    def begun(self, path: Path) -> Iterator[None]:
        import threading

        study = nas.Study("toy", space=space(), store=path, **DECLARED)
        _ = study.record
        self._driver, self._store = study.driver(), study.store
        lock, plain = threading.Lock(), self._driver.hand_out

        def one_at_a_time(*given: Any) -> Any:  # a driver has one owner
            with lock:
                return plain(*given)

        self._driver.hand_out = one_at_a_time  # type: ignore[method-assign]
        yield
        study.close()

    def join(self, name: str) -> Participant:
        return Here(self._driver, self._store.open_study("toy"), name)


class There(Participant):
    """Over HTTP."""

    def __init__(self, study: RemoteStudy, name: str) -> None:
        self._study, self._name = study, name

    def ask(self, count: int = 1, *, lease_s: float = 600.0, holding: Collection[int] = ()) -> list[Handed]:
        self._study._holding[self._name] = set(holding)
        found = self._study.ask(self._name, count, lease_s)
        return [Handed(one.number, one.attempt, one.choices) for one in found]

    def heartbeat(self, lease_s: float) -> int:
        return self._study.heartbeat(self._name, lease_s)

    def tell(self, one: Handed, measurements: dict[str, float], state: str = "COMPLETED", reason: str = "") -> Any:
        trial = RemoteTrial(one.number, one.attempt, one.choices, [])
        try:
            answer = self._study.tell(
                self._name, trial, None if state == "FAILED" else measurements, reason=reason or None
            )
        except RemoteError as error:
            return _conflict(error), "", str(error)
        return True, answer["state"], answer["reason"]

    def step(self, one: Handed, step: int, measurements: dict[str, float]) -> bool:
        try:
            self._study.step(self._name, RemoteTrial(one.number, one.attempt, one.choices, []), step, measurements)
        except RemoteError as error:
            return _conflict(error)
        return True


def _conflict(error: RemoteError) -> bool:
    """Never accepted; any other status than that of a conflict is the test's own mistake."""
    if error.status != 409:
        raise error
    return False


class TestOverHTTP(ParticipantConformance):
    @pytest.fixture(autouse=True)
    def begun(self, path: Path) -> Iterator[None]:
        open_store(path).close()
        with running(path) as address:
            self._remote = nas.Remote(address)
            self._remote.create("toy", space=SPACE, **DECLARED)
            yield

    def join(self, name: str) -> Participant:
        return There(self._remote.study("toy"), name)

    def test_a_function_is_run_until_the_study_has_its_trials(self, record: StudyRecord) -> None:
        def evaluate(arch: Any) -> dict[str, float]:
            if arch["width"] == 8:
                raise RuntimeError("no battery")
            if arch["width"] == 64:
                raise nas.Infeasible("too hot")
            return {"accuracy": 1.0 - 1.0 / arch["width"], "params": float(arch["depth"])}

        study = self._remote.study("toy")
        assert study.run(evaluate, "bench") == 24
        assert record.counts() == {"WAITING": 0, "RUNNING": 0, "COMPLETED": 12, "INFEASIBLE": 6, "FAILED": 6}
        front = study.front()
        assert front["accuracy"].iloc[0] == 1 - 1 / 32
        assert list(front.index) == list(record.front().index)
        assert len(study.trials("state == 'FAILED'")) == 6
        assert {reasons.reason for reasons in record.reasons()} == {
            "too hot",
            "RuntimeError: no battery (test_participants.py:" + f"{evaluate.__code__.co_firstlineno + 2} in evaluate)",
        }

    def test_a_study_survives_its_server(self, path: Path, record: StudyRecord) -> None:
        one = self.join("a")
        (trial,) = one.ask()
        with running(path) as address:  # another server on the same database
            other = There(nas.Remote(address).study("toy"), "a")
            assert other.ask() == [trial]
            assert other.tell(trial, {"accuracy": 0.9, "params": 1.0})[0]
            assert There(nas.Remote(address).study("toy"), "b").ask(2)[0].number == 1
        assert one.tell(trial, {"accuracy": 0.9, "params": 1.0})[0], "told again, to the first server"
