"""Noise of what was measured: which columns tell it, and what it leaves open.

A measurement `latency_ms` may have `latency_spread_ms` beside it, the interquartile range of its runs, and `latency_noisy`, 1
where that is too wide to be trusted; `x_spread` and `x_noisy` for any other metric.  Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.metrics import Metric, unit_of

if TYPE_CHECKING:
    import pandas as pd

#: How the numbers behind ± are to be read.
LEGEND = "±: half the interquartile range of the runs"


def stem_of(name: str) -> str:
    """A metric's name without its unit.

    >>> stem_of("latency_ms"), stem_of("accuracy")
    ('latency', 'accuracy')
    """
    unit = unit_of(name)
    return name.removesuffix(f"_{unit.lower()}") if unit else name


def beside(name: str, what: str) -> str:
    """Name of the column that tells more of a metric.

    >>> beside("latency_ms", "spread"), beside("latency_ms", "p10")
    ('latency_spread_ms', 'latency_p10_ms')
    """
    stem = stem_of(name)
    return f"{stem}_{what}{name[len(stem) :]}"


def noisy_name(name: str) -> str:
    """Name of the flag that says that a measurement is not to be trusted."""
    return f"{stem_of(name)}_noisy"


def tells(columns: Iterable[str], name: str) -> bool:
    """Whether the spread of a metric is known."""
    return beside(name, "spread") in set(columns)


def half_spread(row: Mapping[str, Any], name: str) -> float | None:
    """Half the interquartile range of a measurement; None where it is not known."""
    value = _number(row.get(beside(name, "spread")))
    return None if value is None else value / 2


def is_noisy(row: Mapping[str, Any], name: str) -> bool:
    """Whether a measurement is flagged as not to be trusted."""
    return bool(_number(row.get(noisy_name(name))))


def _number(value: Any) -> float | None:
    """A number, or None for what tables have in the place of one."""
    try:
        found = float(value)
    except TypeError:  # None, pandas.NA
        return None
    return None if math.isnan(found) else found


def with_noise(value: float, half: float | None, noisy: bool) -> str:
    """`0.2134 ± 0.052 noisy`: a value with its spread, as a person reads it.

    >>> with_noise(0.21344, 0.0524, True), with_noise(1.5, None, False)
    ('0.2134 ± 0.052 noisy', '1.5')
    """
    spread = "" if half is None else f" ± {half:.2g}"
    return f"{value:.4g}{spread}{' noisy' if noisy else ''}"


@dataclass(frozen=True)
class Close:
    """Neighbours on a front whose order by a metric is open, since their spreads overlap."""

    metric: str
    pairs: Sequence[tuple[int, int]]
    neighbours: int

    def __str__(self) -> str:
        shown = ", ".join(f"{first} and {second}" for first, second in self.pairs[:4])
        more = f", and {len(self.pairs) - 4} more" if len(self.pairs) > 4 else ""
        return (
            f"{self.metric} of {len(self.pairs)} of {self.neighbours} neighbours on the front differs by less than its noise "
            f"(trials {shown}{more}): which of them is better is open"
        )


def close_neighbours(front: pd.DataFrame, objectives: Sequence[Metric]) -> list[Close]:
    """Of each objective whose spread is known, the neighbours on a front that differ by less than their noise.

    Args:
        front: indexed by trial number; the objectives and what was measured beside them.
        objectives: of the front.
    """
    found = []
    for metric in objectives:
        if not tells(front.columns, metric.name) or len(front) < 2:
            continue
        rows = front.sort_values(metric.name, kind="stable")
        values = rows[metric.name].to_numpy(float)
        halves = [half_spread(row, metric.name) for row in rows.to_dict("records")]
        numbers = [int(number) for number in rows.index]
        pairs = [
            (numbers[at], numbers[at + 1])
            for at in range(len(rows) - 1)
            if values[at + 1] - values[at] < (halves[at] or 0.0) + (halves[at + 1] or 0.0)
        ]
        if pairs:
            found.append(Close(metric.name, pairs, len(rows) - 1))
    return found


def noisy_trials(front: pd.DataFrame, name: str) -> list[int]:
    """Trials of a front whose measurement of a metric is flagged."""
    flag = noisy_name(name)
    if flag not in front.columns:
        return []
    return [int(number) for number, value in front[flag].items() if _number(value)]
