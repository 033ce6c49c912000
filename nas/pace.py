"""How long work that goes on steadily still takes."""

from __future__ import annotations

import time


class Pace:
    """When so many units will be done, from those done since it was made.

    Args:
        done: of an earlier run, which say nothing of this one's pace.
        total: all of them.
    """

    def __init__(self, done: int, total: int) -> None:
        self._first, self._total, self._started = done, total, time.monotonic()

    def rate(self, done: int) -> float:
        """Units a second."""
        elapsed = time.monotonic() - self._started
        return (done - self._first) / elapsed if elapsed > 0 else 0.0

    def left(self, done: int) -> str:
        """ "about 3 min left"; "" where nothing is left, or nothing was done yet."""
        rate = self.rate(done)
        return f"about {duration((self._total - done) / rate)} left" if rate > 0 and done < self._total else ""


def duration(seconds: float) -> str:
    """To two digits at most, in the largest unit of which there are two or more.

    >>> duration(0.2), duration(45.4), duration(200), duration(9000), duration(400_000)
    ('1 s', '45 s', '3 min', '2.5 h', '4.6 days')
    """
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
