"""Waiting for a quiet machine, with a load and a clock of the test's own."""

from __future__ import annotations

import pytest

from nas.hardware import idle


class Machine:
    """Busy for some seconds of its own time."""

    def __init__(self, busy_s: float) -> None:
        self.busy_s, self.now = busy_s, 0.0
        self.said: list[str] = []

    def load(self) -> float:
        return 100.0 if self.now < self.busy_s else 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def wait(self, limit_s: float) -> bool:
        return idle.wait_for_quiet(limit_s, self.said.append, load=self.load, clock=lambda: self.now, sleep=self.sleep)


def test_a_quiet_machine_is_not_waited_for() -> None:
    machine = Machine(0)
    assert machine.wait(60)
    assert (machine.now, machine.said) == (0.0, [])


def test_a_wait_is_said_and_ends_when_the_machine_is_quiet() -> None:
    machine = Machine(5)
    assert machine.wait(60)
    assert machine.now == 6.0
    assert "the machine is busy (100.0 of " in machine.said[0]
    assert "waiting up to 60 s" in machine.said[0]
    assert "--wait 0" in machine.said[0]
    assert machine.said[1:] == ["the machine is quiet after 6 s"]


def test_the_wait_is_bounded() -> None:
    machine = Machine(1e9)
    assert not machine.wait(7)
    assert machine.now == 7.0
    assert "busy still after 7 s" in machine.said[-1]


def test_no_wait_does_not_look() -> None:
    machine = Machine(1e9)
    assert machine.wait(0)
    assert machine.said == []


def test_the_load_of_this_machine_is_a_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "_LOOK_S", 0.0)
    assert 0.0 <= idle.busy_cores() <= 10_000
    times = iter([(100.0, 200.0), (150.0, 300.0)])
    monkeypatch.setattr(idle, "_times", lambda: next(times))
    monkeypatch.setattr(idle.os, "cpu_count", lambda: 8)
    assert idle.busy_cores() == 4.0


@pytest.mark.parametrize(("given", "said", "expected"), [(3.0, "9", 3.0), (None, "9", 9.0), (None, "x", 60.0)])
def test_the_longest_wait_is_given_or_of_the_environment(
    given: float | None, said: str, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_WAIT_S", said)
    assert idle.wait_s(given) == expected
