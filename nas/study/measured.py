"""What finished trials measured, for a search that learns from more than objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.store import StudyRecord


class Measured:
    """Measurements of an arch of a finished trial; `{}` if there are none.

    An algorithm is told results before they are in the record, since what it then proposes is written with them.  What it is
    told of is known here from then on, so that a search proposes what it would when it is rebuilt from the record.

    Args:
        record: of the study.
        space: as the job declares it.
    """

    def __init__(self, record: StudyRecord, space: Space) -> None:
        self._record, self._space = record, space
        self.unrecorded: Mapping[str, Mapping[str, float]] = {}
        """By arch key, of trials that the record does not know of yet."""

    def __call__(self, arch: Arch) -> Mapping[str, float]:
        """By metric."""
        if (known := self.unrecorded.get(arch.key)) is not None:
            return known
        found = self._record.lookup(arch.key)
        if found is None or (found.schema["fingerprint"] == self._space.fingerprint and found.row != arch.row()):
            return {}  # a damaged key is not taken for the arch's
        return found.measurements
