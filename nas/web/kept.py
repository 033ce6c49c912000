"""What takes seconds to compute of a study, kept until the study changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nas.errors import StoreError
from nas.pareto import growth
from nas.store.importance import Importance, importance
from nas.web.problems import Problem

if TYPE_CHECKING:
    from nas.store import StudyRecord

T = TypeVar("T")

_MOST = 400
_MOST_STEPS = 2000  # of a hypervolume's growth


class Kept:
    """A memory of a few hundred results."""

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def importance(self, record: StudyRecord, objective: str | None, where: str | None) -> Importance:
        """Importance of decisions for an objective, the study's first unless given.

        Raises:
            Problem: there are too few trials for it.
            MetricError: it was never measured.
            FilterError: the filter does not parse, or names a column that is not there.
        """
        try:
            return self._of(record, (objective, where), lambda: importance(record, objective, where))
        except StoreError as error:
            raise Problem(409, str(error)) from None

    def growth(self, record: StudyRecord) -> dict[str, Any]:
        """Numbers of feasible trials, the share of the last hypervolume then, and what that is by which reference."""
        return self._of(record, ("growth",), lambda: _growth(record))

    def volume(self, record: StudyRecord, most: int) -> float | None:
        """The last hypervolume; None of a study without a front, or of one of more than `most` trials nobody asked for yet."""
        if self._key(record, ("growth",)) not in self._found and record.position().added > most:
            return None
        found: float | None = self.growth(record)["volume"]
        return found

    def _of(self, record: StudyRecord, what: tuple[Any, ...], compute: Callable[[], T]) -> T:
        key, position = self._key(record, what), record.position()
        mark = position.finished, position.front_version, position.counts["COMPLETED"]
        known = self._found.get(key)
        if known is not None and known[0] == mark:
            found: T = known[1]
            return found
        found = compute()
        if len(self._found) >= _MOST:
            self._found.clear()
        self._found[key] = mark, found
        return found

    @staticmethod
    def _key(record: StudyRecord, what: tuple[Any, ...]) -> tuple[Any, ...]:
        return record.id, record.created, *what


def _growth(record: StudyRecord) -> dict[str, Any]:
    frame = record.curve()
    signs = np.array([one.sign for one in record.objectives])
    values = frame[[one.name for one in record.objectives]].to_numpy(float) * signs
    if not len(values):
        return {"at": [], "share": [], "reference": {}, "volume": None}
    reference = values.max(axis=0)
    at, volumes = growth(values, reference)
    told = {one.name: float(value * one.sign) for one, value in zip(record.objectives, reference, strict=True)}
    last = float(volumes[-1])
    if last == 0:
        return {"at": [], "share": [], "reference": told, "volume": last}
    some = np.unique(np.linspace(0, len(at) - 1, _MOST_STEPS).astype(int))
    shares = (volumes[some] / last).tolist()
    return {"at": [*at[some].tolist(), len(values)], "share": [*shares, 1.0], "reference": told, "volume": last}
