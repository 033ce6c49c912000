"""What trials measure on their way, kept while they run: (metric, epoch, value) rows of the store.

An evaluator that trains commits each epoch where any process can read it (`progress`).  The driver reads that now and then,
so that workers need no way to the store, and a record is as complete after a crash as the checkpoints are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nas.errors import StoreError
from nas.evaluate.base import Evaluator
from nas.measurements import usable

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.store import StudyRecord

EVERY_S = 2.0


class Curves:
    """Copies the epochs of running trials into the record.

    Args:
        record: of the study.
        evaluation: tells the epochs of archs, if it has any.
    """

    def __init__(self, record: StudyRecord, evaluation: Evaluator) -> None:
        self._record, self._evaluation = record, evaluation
        self._on = evaluation.has_progress
        self._kept: dict[int, int] = {}  # epochs in the record, of the trials that run
        self._next = 0.0

    def look(self, running: Mapping[int, Arch]) -> list[int]:
        """`keep` of all trials that run, every few seconds."""
        if not self._on or time.monotonic() < self._next:
            return []
        moved = self.keep(running)
        self._next = time.monotonic() + EVERY_S
        return moved

    def keep(self, running: Mapping[int, Arch]) -> list[int]:
        """Writes the epochs that have finished since the last look; trials that somebody else has ended are passed over.

        Returns:
            the trials that have gone on since the last look.
        """
        moved: list[int] = []
        if not self._on:
            return moved
        for number, arch in running.items():
            epochs = self._evaluation.progress(arch)
            try:
                for step in range(self._kept.get(number, 0), len(epochs)):
                    keep_epoch(self._record, number, step + 1, epochs[step])
            except StoreError:
                continue  # not ours any more: the report will hear so
            if len(epochs) > self._kept.get(number, len(epochs)):
                moved.append(number)
            self._kept[number] = len(epochs)
        return moved


def keep_epoch(record: StudyRecord, number: int, epoch: int, measurements: Mapping[str, float]) -> None:
    """Writes the measurements of one epoch of a running trial; writing them again changes nothing.

    What is no measurement, as the infinite perplexity of a training that has only begun, is a gap in its curve.

    Raises:
        StoreError: the trial does not run.
    """
    for name, value in usable(measurements)[0].items():
        if name != "epochs":  # the step says so
            record.measure(number, name, value, epoch)
