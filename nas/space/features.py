"""Archs as numbers for predictors: one-hot or ordinal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nas.errors import SpaceError
from nas.space.arch import Arch
from nas.space.compiling import Decision

Kind = Literal["onehot", "ordinal"]
Floats = NDArray[np.float64]


class Encoder:
    """Encodes archs of one space; tables are made once."""

    def __init__(self, decisions: Sequence[Decision], kind: Kind) -> None:
        if kind not in ("onehot", "ordinal"):
            raise SpaceError(f"features of kind {kind!r} are not known; it is 'onehot' or 'ordinal'")
        self.kind = kind
        self.decisions = decisions
        self.names = self._names()
        # Row d of `table` maps the candidate index of decision d to a column (one-hot) or to a value (ordinal).
        width = max((len(d.labels) for d in decisions), default=0)
        self.table = np.zeros((len(decisions), width + 1))
        start = 0
        for d in decisions:
            candidates = d.point.distinct_candidates
            ranked = sorted(candidates, key=lambda c, d=d: (d.tops[c], c))  # type: ignore[misc]
            for c in candidates:
                place = candidates.index(c) if kind == "onehot" else ranked.index(c)
                self.table[d.index, c] = (
                    start + place
                    if kind == "onehot"
                    else (place / (len(candidates) - 1) if len(candidates) > 1 else 0.0)
                )
            if d.point.range:
                self.table[d.index, 0] = start
            start += max(1, len(candidates)) if kind == "onehot" else 1

    def _names(self) -> list[str]:
        if self.kind == "ordinal":
            return [d.name for d in self.decisions]
        return [
            name
            for d in self.decisions
            for name in ([f"{d.name}={d.labels[c]}" for c in d.point.distinct_candidates] or [d.name])
        ]

    def __call__(self, archs: Sequence[Arch]) -> Floats:
        """(n, d) features of n archs."""
        n, count = len(archs), len(self.decisions)
        genes = np.array([arch.genome for arch in archs], dtype=np.float64).reshape(n, count)
        active = ~np.isnan(genes)
        floats = [d for d in self.decisions if d.point.range]
        units = {d.index: self._units(d, genes[:, d.index]) for d in floats}
        indices = np.where(active, genes, 0.0).astype(np.intp)
        for d in floats:
            indices[:, d.index] = 0
        looked_up = self.table[np.arange(count)[None, :], indices] if count else genes
        if self.kind == "ordinal":
            for p, unit in units.items():
                looked_up[:, p] = unit
            return np.where(active, looked_up, -1.0)
        out = np.zeros((n, len(self.names)))
        rows, points = np.nonzero(active)
        values = np.ones((n, count))
        for p, unit in units.items():
            values[:, p] = unit
        out[rows, looked_up[rows, points].astype(np.intp)] = values[rows, points]
        return out

    @staticmethod
    def _units(decision: Decision, values: Floats) -> Floats:
        """Float genes scaled to [0, 1] as `Range.unit` does; NaN where inactive."""
        range_ = decision.point.range
        assert range_ is not None
        if range_.low == range_.high:
            return np.where(np.isnan(values), np.nan, 0.0)
        low, high = range_.low, range_.high
        units: Floats = (values - low) / (high - low)
        if range_.scale == "log":
            units = np.log(values / low) / np.log(high / low)
        if range_.scale == "rlog":
            units = 1.0 - np.log((high + low - values) / low) / np.log(high / low)
        return units
