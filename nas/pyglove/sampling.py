"""One process's part in a sampling that several may share: proposals, leases, and what the others found out."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas.errors import StoreError
from nas.pyglove.trials import dna_note
from nas.search.base import Exhausted, Finished
from nas.search.dna_search import DNASearch
from nas.store import NewTrial, StudyRecord
from nas.study.driver import LOSSES
from nas.study.owner import is_gone, owner_id

if TYPE_CHECKING:
    import pyglove as pg

    from nas.space import Arch, Space
    from nas.store import History

LEASE_S = 60.0
_POLL_S = 0.05


class Sampling:
    """Gives trials to work on.

    The algorithm is a cache of the record: before each proposal it is told what finished since, whoever evaluated it, and what
    is under way elsewhere.

    Args:
        record: the study.
        space: of the program.
        search: bound to it.
        group: workers of the same group work on the same trial; None for every thread by itself.
        most: trials that the study may have.
    """

    def __init__(
        self, record: StudyRecord, space: Space, search: DNASearch, group: str | int | None, most: int | None
    ) -> None:
        self.record, self._space, self._search, self._most = record, space, search, most
        here = f"{owner_id().split('#')[0]}#thread-{threading.get_ident()}"
        self.owner = here if group is None else f"group:{group}"
        self._last = 0
        self.news: list[int] = []  # numbers of the trials that finished since somebody looked
        stop = threading.Event()
        weakref.finalize(self, stop.set)
        threading.Thread(target=_keep_leases, args=(record, self.owner, stop), daemon=True).start()

    def next(self) -> tuple[int, int, pg.DNA]:
        """Number, attempt and DNA of the next trial to work on: our own unfinished one, one that lost its worker, or a new one.

        Raises:
            StopIteration: the loop was ended, there are enough trials, or the algorithm has no more.
        """
        while True:
            pending = self._learn()
            if self.record.notes().get("active") is False:
                raise StopIteration
            trial = self._held(pending) or self._claimed(pending) or self._entered(pending)
            if trial is not None:
                return trial
            time.sleep(_POLL_S)

    # -- what the record knows ---------------------------------------------------------------------------------------------

    def _learn(self) -> History:
        """Tell the algorithm what finished since the last time, and what is under way."""
        stored = self.record.history(after=self._last)
        self._last = stored.last
        archs = [self._arch(row, stored, space) for row, space in zip(stored.rows, stored.space_ids, strict=True)]
        waiting = [self._arch(trial.row, stored, trial.space_id) for trial in stored.pending]
        self._adopt([*stored.numbers.tolist(), *(trial.number for trial in stored.pending)], [*archs, *waiting])
        self._search.reserve(waiting)
        self._search.tell(self._finished(stored, archs))
        self.news += stored.numbers.tolist()
        return stored

    def _arch(self, row: Sequence[Any], stored: History, space_id: int) -> Arch:
        return self._space.from_row(row, stored.schemas[int(space_id)])

    def _adopt(self, numbers: Sequence[int], archs: Sequence[Arch]) -> None:
        """Give the algorithm the marks that the DNA of others' proposals had."""
        if not self._search.wants_marks or not numbers:
            return
        everything = self.record.all_notes() if len(numbers) > 8 else {}
        for number, arch in zip(numbers, archs, strict=True):
            kept = everything.get(number) or self.record.notes(number)
            if "dna" in kept:
                self._search.adopt(arch, kept["dna"]["marks"])

    def _finished(self, stored: History, archs: Sequence[Arch]) -> list[Finished]:
        trials = []
        for row, arch in enumerate(archs):
            state: Any = stored.states[row]
            values = tuple((-stored.values[row]).tolist()) if state == "COMPLETED" else None  # PyGlove maximises
            violation = 0.0 if state == "COMPLETED" else float("inf")
            trials.append(Finished(int(stored.numbers[row]), arch, values, violation, state))
        return trials

    # -- the next trial ----------------------------------------------------------------------------------------------------

    def _held(self, stored: History) -> tuple[int, int, pg.DNA] | None:
        """The trial that this worker, or one of its group, has not finished; the first one, so that a group agrees."""
        mine = [trial for trial in stored.pending if trial.state == "RUNNING" and trial.worker == self.owner]
        if not mine:
            return None
        first = min(mine, key=lambda trial: trial.number)
        return first.number, first.attempt, self._search.proposal(self._arch(first.row, stored, first.space_id))

    def _claimed(self, stored: History) -> tuple[int, int, pg.DNA] | None:
        """A trial whose worker is gone."""
        freed = self.record.requeue_expired(dead=is_gone, max_attempts=LOSSES)
        if not freed and not any(trial.state == "WAITING" for trial in stored.pending):
            return None
        for claim in self.record.claim(self.owner, 1, LEASE_S):
            arch = self._space.from_row(claim.row, self.record.schema_of(claim.space_id))
            return claim.number, claim.attempt, self._search.proposal(arch)
        return None

    def _entered(self, stored: History) -> tuple[int, int, pg.DNA] | None:
        """A new trial; None when results must come first, or somebody was quicker."""
        if self._most is not None and stored.last + len(stored.pending) >= self._most:
            raise StopIteration
        try:
            archs = self._search.ask(1)
        except Exhausted:
            raise StopIteration from None
        if not archs:
            return None
        dna = self._search.proposal(archs[0])
        trial = NewTrial(archs[0].key, archs[0].row())
        added = self.record.enter(
            trial, worker=self.owner, lease_s=LEASE_S, most=self._most, notes_on_it={"dna": dna_note(dna)}
        )
        if added is None:
            raise StopIteration
        if added.existing:
            return None
        return self._held(self.record.history(after=self._last)) or (added.number, 1, dna)


def _keep_leases(record: StudyRecord, owner: str, stop: threading.Event) -> None:
    """A program's loop is busy with its evaluations, so that somebody else must say that it lives."""
    while not stop.wait(LEASE_S / 3):
        try:
            record.heartbeat(owner, LEASE_S)
        except StoreError:  # locked, or deleted: the next call of the program's own will say so
            continue
