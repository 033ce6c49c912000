"""What a training says while it runs: a CSV, TensorBoard events, and a line or a bar for the person who waits."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nas.train.state import EVENTS, LOG

Row = Mapping[str, float]


class Log:
    """Rows of a history, written to `path/log.csv` and `path/events` as they come; nothing is written without a path."""

    def __init__(self, path: Path | None, columns: Sequence[str], history: Sequence[Row] = ()) -> None:
        self._columns = columns
        self._file: Any = None
        self._events: Any = None
        if path is not None:
            from tensorboardX import SummaryWriter

            # A resumed training writes the rows up to its checkpoint again: those after it never happened.
            self._file = (path / LOG).open("w", newline="")
            self._writer = csv.DictWriter(self._file, columns, restval="")
            self._writer.writeheader()
            self._writer.writerows(history)
            purge = int(history[-1]["step"]) + 1 if history else None
            self._events = SummaryWriter(str(path / EVENTS), purge_step=purge)

    def add(self, row: Row) -> None:
        """One row; columns that it lacks stay empty."""
        if self._file is None:
            return
        self._writer.writerow(row)
        self._file.flush()
        for name, value in row.items():
            if name != "step":
                self._events.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._file is not None:
            self._file.close()
            self._events.close()


class Reporter:
    """A bar on a terminal; elsewhere one plain line every few seconds."""

    def __init__(self, steps: int, *, show: bool, every_s: float = 5.0, console: Console | None = None) -> None:
        self._steps, self._show, self._every = steps, show, every_s
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Reporter:
        if self._show and self._console.is_terminal:
            columns = (TextColumn("training"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
            self._bar = Progress(
                *columns, TimeRemainingColumn(), TextColumn("{task.description}"), console=self._console
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self._steps)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, done: int, text: str) -> None:
        """`done` steps are made; `text` says how they went."""
        if not self._show:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=text)
        elif time.monotonic() - self._said >= self._every:
            self.say(f"step {done}/{self._steps}  {text}")

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._show:
            self._said = time.monotonic()
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)
