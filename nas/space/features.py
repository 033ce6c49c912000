"""Archs as numbers for predictors: one-hot or ordinal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nas.errors import SpaceError
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
        # Row d maps the candidates of decision d to columns (one-hot) or values (ordinal); the last entry is "inactive".
        width = max((len(d.labels) for d in decisions), default=0) + 2
        self.table = np.full((len(decisions), width), -1.0 if kind == "ordinal" else float(len(self.names)))
        start = 0
        for d in decisions:
            candidates = d.point.distinct_candidates
            if kind == "onehot":
                self.table[d.index, list(candidates) or [0]] = start + np.arange(max(1, len(candidates)))
                start += max(1, len(candidates))
            elif candidates:
                ranked = sorted(candidates, key=lambda c, d=d: (d.tops[c], c))  # type: ignore[misc]
                self.table[d.index, ranked] = np.arange(len(ranked)) / max(1, len(ranked) - 1)

    def _names(self) -> list[str]:
        if self.kind == "ordinal":
            return [d.name for d in self.decisions]
        return [
            name
            for d in self.decisions
            for name in ([f"{d.name}={d.labels[c]}" for c in d.point.distinct_candidates] or [d.name])
        ]

    def __call__(self, genomes: Sequence[Sequence[Any]]) -> Floats:
        """(n, d) features of n genomes."""
        n, count = len(genomes), len(self.decisions)
        genes = np.array(genomes, dtype=np.float64).reshape(n, count)
        active = ~np.isnan(genes)
        floats = [d for d in self.decisions if d.point.range]
        units = {d.index: self._units(d, genes[:, d.index]) for d in floats}
        genes[:, [d.index for d in floats]] = 0.0
        # Candidate c of decision d is at d * width + c of the flat table; an inactive one at its last, unused entry.
        width = self.table.shape[1]
        indices = np.where(active, genes, width - 1).astype(np.intp) + np.arange(count) * width
        found: Floats = self.table.ravel()[indices]
        if self.kind == "ordinal":
            for p, unit in units.items():
                found[:, p] = np.where(active[:, p], unit, -1.0)
            return found
        # One more column takes what is inactive, so that no mask is needed.
        columns = len(self.names) + 1
        out: Floats = np.zeros((n, columns))
        out.ravel()[found.astype(np.intp) + np.arange(n)[:, None] * columns] = 1.0
        for p, unit in units.items():
            out[:, int(self.table[p, 0])] = np.where(active[:, p], unit, 0.0)
        return out[:, :-1]

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
