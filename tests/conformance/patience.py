"""How long tests wait for what must come: long enough for any machine at any load, so that only what hangs fails."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

PATIENCE_S = 900.0


def until(condition: Callable[[], object], what: Callable[[], str] | str) -> None:
    """Waits until `condition` holds; fails with `what` where it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.02)


class Clock:
    """Time that goes on by `time.sleep` alone, by `now`, and by `step` at each look: of this process, while a test runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, step: float = 0.0) -> None:
        self.now, self.step = 1000.0, step
        monkeypatch.setattr(time, "monotonic", self._look)
        monkeypatch.setattr(time, "perf_counter", self._look)
        monkeypatch.setattr(time, "perf_counter_ns", lambda: round(1e9 * self._look()))
        monkeypatch.setattr(time, "thread_time", lambda: self.now)
        monkeypatch.setattr(time, "thread_time_ns", lambda: round(1e9 * self.now))
        monkeypatch.setattr(time, "sleep", self._sleep)

    def _look(self) -> float:
        self.now += self.step
        return self.now

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
