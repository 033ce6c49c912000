"""Progress of a search: a live bar on a terminal, a line every few seconds in a log, nothing when asked for nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from nas.pace import Pace
from nas.text import printable

_LOG_EVERY_S = 5.0
_BAR_EVERY_S = 0.2


class Reporter(Protocol):
    """Told how far the search is after every wave of results."""

    def say(self, sentence: str) -> None:
        """Something that the user should know, before the search starts."""

    def begin(self, title: str, done: int, total: int) -> None:
        """The search starts with `done` of `total` trials finished."""

    def update(self, done: int, text: Callable[[], str]) -> None:
        """`done` trials have finished; `text()` says what came of them, and is called when that is shown."""

    def end(self) -> None:
        """No more updates."""


class Silent:
    """No progress; what the user should know of the results is no progress, and is said all the same."""

    def say(self, sentence: str) -> None:
        """A line on standard error."""
        _say(sentence)

    def begin(self, title: str, done: int, total: int) -> None:
        """Nothing."""

    def update(self, done: int, text: Callable[[], str]) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class Lines:
    """One line every few seconds on standard error."""

    def say(self, sentence: str) -> None:
        """A line of its own."""
        _say(sentence)

    def begin(self, title: str, done: int, total: int) -> None:
        """Say what starts."""
        self._title, self._total = title, total
        self._pace = Pace(done, total)
        self._say(f"{title}: {done}/{total} trials, workers are starting")

    def update(self, done: int, text: Callable[[], str]) -> None:
        """A line, if the last is some seconds old."""
        if time.monotonic() - self._last >= _LOG_EVERY_S:
            rate, left = f"{self._pace.rate(done):.1f}/s", self._pace.left(done)
            self._say(", ".join(filter(None, [f"{self._title}: {done}/{self._total} trials", rate, left, text()])))

    def end(self) -> None:
        """The summary says the rest."""

    def _say(self, line: str) -> None:
        _say(line)
        self._last = time.monotonic()


def _say(line: str) -> None:
    sys.stderr.write(printable(line) + "\n")
    sys.stderr.flush()


class Bar:
    """A live bar."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
        )

    def say(self, sentence: str) -> None:
        """A line above the bar."""
        self._console.print(sentence, markup=False, highlight=False)

    def begin(self, title: str, done: int, total: int) -> None:
        """Show the bar."""
        self._task = self._progress.add_task(printable(title), total=total, completed=done, text="workers are starting")
        self._progress.start()
        self._last = 0.0

    def update(self, done: int, text: Callable[[], str]) -> None:
        """Move it, a few times a second."""
        if time.monotonic() - self._last < _BAR_EVERY_S:
            return
        self._last = time.monotonic()
        self._progress.update(self._task, completed=done, text=printable(text()))

    def end(self) -> None:
        """Leave it as it stands."""
        self._progress.stop()


def reporter(progress: bool) -> Reporter:
    """The reporter that suits where standard error goes."""
    if not progress:
        return Silent()
    console = Console(stderr=True)
    return Bar(console) if console.is_terminal else Lines()
