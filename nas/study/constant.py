"""An objective that has one value in every trial: a search cannot tell archs apart by it, and its front says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas.metrics import Metric
from nas.store.filters import in_state

if TYPE_CHECKING:
    from nas.store import StudyRecord

ENOUGH = 20
"""Completed trials, from which on one value is no chance."""


def constant(record: StudyRecord, objectives: Sequence[Metric]) -> str:
    """A sentence about objectives that are the same in all completed trials, of which there are `ENOUGH`; "" if none is."""
    names = [metric.name for metric in objectives]
    trials = record.trials(where=in_state("COMPLETED"), columns=names)
    values_of = {name: trials[name].dropna() for name in names}
    same = {name: found.iloc[0] for name, found in values_of.items() if len(found) >= ENOUGH and found.nunique() == 1}
    if not same:
        return ""
    values = " and ".join(f"{name} is {value:.4g}" for name, value in same.items())
    return (
        f"{values} in all {len(trials)} completed trials, so that the objective tells no archs apart; look whether what measures "
        "it depends on the arch and on trained weights"
    )
