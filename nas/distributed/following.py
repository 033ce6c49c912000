"""Shows a training of other processes by the rows that it logs."""

from __future__ import annotations

import contextlib
import csv
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nas.train.log import of_metric
from nas.train.state import LOG

if TYPE_CHECKING:
    from nas.train import Training
    from nas.train.log import Reporter

_TAIL = 8192  # bytes of the log that are read again each time
_EVERY_S = 0.5


class Following:
    """Looks at the end of `path/log.csv` twice a second at the most.

    Args:
        path: the training's folder.
        training: whose log it is.
        reporter: what shows it.
    """

    def __init__(self, path: Path, training: Training, reporter: Reporter) -> None:
        self._file, self._reporter = path / LOG, reporter
        self._metric = training.task.metric_names[0]
        self._shown, self._looked = 0, 0.0

    def look(self, *, now: bool = False) -> None:
        """Show the rows that are new; `now` even if it has just looked."""
        if not now and time.monotonic() - self._looked < _EVERY_S:
            return
        self._looked = time.monotonic()
        for row in self._tail():
            step = int(row["step"])
            if step > self._shown:
                self._shown = step
                self._show(step, row)

    def _show(self, step: int, row: dict[str, str]) -> None:
        loss = f"loss {float(row['loss']):.4f}"
        measured = {label: value for label, value in of_metric(row, self._metric).items() if value}
        if measured:
            shown = "  ".join(f"{label} {float(value):.4f}" for label, value in measured.items())
            self._reporter.measured(step, f"{loss}  {self._metric}: {shown}")
        self._reporter.step(step, loss)

    def _tail(self) -> list[dict[str, str]]:
        """The last whole rows; [] while there is no log."""
        with contextlib.suppress(FileNotFoundError), self._file.open("rb") as log:
            header = log.readline().decode()
            start = max(log.tell(), os.fstat(log.fileno()).st_size - _TAIL)
            cut = start > log.tell()
            log.seek(start)
            lines = log.read().decode(errors="ignore").split("\n")[cut:-1]  # the last has no end yet
            return list(csv.DictReader([header, *lines]))
        return []
