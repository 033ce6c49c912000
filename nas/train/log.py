"""What a training says while it runs: a CSV, TensorBoard events, and a line or a bar for the person who waits."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nas import files
from nas.pace import Pace
from nas.train.state import EVENTS, LOG, cannot_write

Row = Mapping[str, float]


def of_metric(row: Mapping[Any, Any], metric: str) -> dict[str, Any]:
    """Label of a watched subnet -> its metric in a row of a history: "largest_macro_f1" is not the f1 of any."""
    parts = ((str(name).partition("_"), value) for name, value in row.items())
    return {label: value for (label, _, name), value in parts if name == metric}


_FLUSH_S = 10.0


class Log:
    """Rows of a history, written to `path/log.csv` and `path/events` as they come; nothing is written without a path."""

    def __init__(self, path: Path | None, columns: Sequence[str], history: Sequence[Row] = ()) -> None:
        self._columns = columns
        self._file: Any = None
        self._events: Any = None
        self._path = path
        if path is not None:
            # A resumed training writes the rows up to its checkpoint again: those after it never happened.
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, columns, restval="")
            writer.writeheader()
            writer.writerows(history)
            with self._writing():
                files.write(path / LOG, text.getvalue())
                self._file = (path / LOG).open("a", newline="")
                self._events = _Events(path / EVENTS, int(history[-1]["step"]) + 1 if history else None)
            self._writer = csv.DictWriter(self._file, columns, restval="")

    def add(self, row: Row) -> None:
        """One row; columns that it lacks stay empty."""
        if self._file is None:
            return
        with self._writing():
            self._writer.writerow(row)
            self._file.flush()
            self._events.add({name: value for name, value in row.items() if name != "step"}, int(row["step"]))

    def close(self) -> None:
        """Closes the files; all rows are in them already."""
        for one in (self._file, self._events):
            if one is not None:
                with contextlib.suppress(OSError):  # `add` has said so
                    one.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        assert self._path is not None
        try:
            yield
        except OSError as error:
            raise cannot_write(self._path, error) from error


class _Events:
    """TensorBoard's file of events, written by the caller's own thread: that of `SummaryWriter` dies of a full disk, and
    whoever waits for it waits for ever.

    Args:
        folder: of the file; made if it is not there.
        purge: events of this step and later ones, in other files of the folder, never happened.
    """

    def __init__(self, folder: Path, purge: int | None) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")  # two may begin within a second
        self._flushed = time.monotonic()
        if purge is not None:
            self._writer.write_event(Event(step=purge, file_version="brain.Event:2"))
            self._writer.write_event(Event(step=purge, session_log=SessionLog(status=SessionLog.START)))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Scalars of a step."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        if time.monotonic() - self._flushed >= _FLUSH_S:  # it waits for the disk
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class Reporter:
    """A bar on a terminal; elsewhere one plain line every few seconds, with how long the rest takes.

    Args:
        steps: of the training.
        show: False says nothing.
        done: steps of earlier runs.
        per_epoch: steps of an epoch; epochs are told where there are several.
        every_s: seconds between plain lines.
        console: where to; standard error.
    """

    def __init__(
        self,
        steps: int,
        *,
        show: bool,
        done: int = 0,
        per_epoch: int | None = None,
        every_s: float = 5.0,
        console: Console | None = None,
    ) -> None:
        self._steps, self._show, self._every = steps, show, every_s
        self._per_epoch = per_epoch if per_epoch and per_epoch < steps else None
        self._pace = Pace(done, steps)
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
            self.measured(done, text)

    def measured(self, done: int, text: str) -> None:
        """As `step`, as a line that stays."""
        epoch = (
            f"  epoch {_short(done / self._per_epoch)}/{_short(self._steps / self._per_epoch)}"
            if self._per_epoch
            else ""
        )
        left = self._pace.left(done) if self._bar is None else ""  # the bar has its own
        self.say("  ".join([f"step {done}/{self._steps}{epoch}", text, *filter(None, [left])]))

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._show:
            self._said = time.monotonic()
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def _short(epochs: float) -> str:
    return f"{epochs:.2f}".rstrip("0").rstrip(".")
