"""Trials of an earlier study, as a new one learns from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import AlgorithmError, SpaceError
from nas.pareto import hypervolume, non_dominated
from nas.search.encoding import Encoding
from nas.search.gaussian import Prior, Process
from nas.search.selection import constrained_ranks
from nas.search.warp import Warp

if TYPE_CHECKING:
    from nas.space import Arch, Space

Floats = NDArray[np.float64]

CAPACITY = 160  # trials of one study that are kept: half the best, half from all over
BEST = 32  # archs of a study that are asked again
MARGIN = 0.1  # beyond the worst objectives, in standard deviations
_FIELDS = ("study", "objectives", "schema", "rows", "values", "violations")


@dataclass(frozen=True, eq=False)
class Source:
    """Finished trials of one study, JSON-able; they do not change when that study goes on.

    Args:
        study: its name.
        objectives: what `values` are of, as in "max accuracy".
        schema: schema of the space that the rows are of.
        rows: one row of numbers a trial, as `Arch.row()` gives it.
        values: (n, m) minimised objective values, finite.
        violations: (n,) how far the constraints of the new study are violated; 0.0 where they are met.

    Raises:
        AlgorithmError: the columns do not fit together, or a value is not finite.
    """

    study: str
    objectives: tuple[str, ...]
    schema: Mapping[str, Any]
    rows: Sequence[Sequence[float | None]]
    values: Floats
    violations: Floats

    def __post_init__(self) -> None:
        expected = (len(self.rows), len(self.objectives))
        if self.values.shape != expected or self.violations.shape != expected[:1]:
            raise AlgorithmError(
                f"source {self.study!r} has {expected[0]} rows, values of shape {self.values.shape} and violations of shape "
                f"{self.violations.shape}; expected {expected} and {expected[:1]}"
            )
        if not np.isfinite(self.values).all() or not (self.violations >= 0).all():
            raise AlgorithmError(f"source {self.study!r} has values that are not finite; give measured trials only")

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON."""
        plain = {name: getattr(self, name) for name in ("study", "schema")}
        rows = [list(row) for row in self.rows]
        columns = {"values": self.values.tolist(), "violations": self.violations.tolist()}
        return {**plain, "objectives": list(self.objectives), "rows": rows, **columns}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Source:
        """What `to_json` gave.

        Raises:
            AlgorithmError: it is something else.
        """
        if set(record) != set(_FIELDS):
            raise AlgorithmError(f"a source has {', '.join(sorted(record)) or 'nothing'}; it has {', '.join(_FIELDS)}")
        objectives = tuple(record["objectives"])
        values = np.array(record["values"], dtype=np.float64).reshape(len(record["rows"]), len(objectives))
        violations = np.array(record["violations"], dtype=np.float64)
        return cls(record["study"], objectives, record["schema"], record["rows"], values, violations)

    def archs(self, space: Space) -> list[tuple[int, Arch]]:
        """Position and arch of the rows that `space` has, each arch once; decisions and candidates are matched by name."""
        found: dict[str, tuple[int, Arch]] = {}
        for at, row in enumerate(self.rows):
            try:
                arch = space.from_row(row, dict(self.schema))
            except SpaceError:
                continue
            found.setdefault(arch.key, (at, arch))
        return list(found.values())


def chosen(values: Floats, violations: Floats, most: int = CAPACITY) -> list[int]:
    """Which `most` of n trials are kept: half of them the best by constrained rank, the others evenly over the rest.

    Args:
        values: (n, m) minimised.
        violations: (n,) 0.0 when feasible.
        most: how many are kept.
    """
    order = ranked(values, violations)
    best, rest = order[: most // 2], sorted(order[most // 2 :])
    some = np.linspace(0, len(rest) - 1, min(len(rest), most - len(best))).astype(int)
    return sorted([*best, *(rest[at] for at in some)])


def ranked(values: Floats, violations: Floats) -> list[int]:
    """Trials from the best to the worst: by constrained rank, within a rank by room."""
    rank, room = constrained_ranks(values, violations)
    return [int(at) for at in np.lexsort((-room, rank))]


class Expert:
    """What one source says of the archs of a space.

    Args:
        source: trials of it.
        space: that is searched now.
        encoding: of that space.

    Raises:
        AlgorithmError: no row of the source is in the space.
    """

    def __init__(self, source: Source, space: Space, encoding: Encoding) -> None:
        found = source.archs(space)
        if not found:
            raise AlgorithmError(
                f"no trial of source {source.study!r} is an arch of space {space.name!r}; name studies of this space"
            )
        at = [position for position, _ in found]
        archs = [arch for _, arch in found]
        values = source.values[at]
        self.study = source.study
        self.best = [archs[i] for i in ranked(values, source.violations[at])[:BEST]]
        self._encoding = encoding
        self._measured = {arch.key: row for arch, row in zip(archs, values, strict=True)}
        self._warps = [Warp(column) for column in values.T]
        self._targets = [warp(column) for warp, column in zip(self._warps, values.T, strict=True)]
        self._process = Process(encoding, Prior.of(encoding).mean, encoding(archs))

    def predict(self, archs: Sequence[Arch]) -> Floats:
        """(n, m) objectives of `archs`, standardised, minimised: what the source measured, or what it lets one expect."""
        view = self._process.at(self._encoding(archs))
        out: Floats = np.stack([view.mean(targets) for targets in self._targets], 1)
        for row, arch in enumerate(archs):
            known = self._measured.get(arch.key)
            if known is not None:
                out[row] = [float(warp(value)) for warp, value in zip(self._warps, known, strict=True)]
        return out

    def gains(self, archs: Sequence[Arch], here: Sequence[Arch]) -> Floats:
        """(n,) hypervolume that each of `archs` adds to `here` by what is expected of all of them, standardised."""
        if not archs:
            return np.zeros(0)
        expected = self.predict([*archs, *here])
        reference = np.maximum(expected.max(0), np.max(self._targets, 1)) + MARGIN
        front = expected[len(archs) :]
        front = front[non_dominated(front)]
        before = hypervolume(front, reference)
        return np.array([hypervolume(np.vstack([front, one]), reference) - before for one in expected[: len(archs)]])

    def likeness(self, archs: Sequence[Arch], values: Floats) -> float:
        """Smallest rank correlation, over the objectives, of what is predicted and what was measured; 0.0 for fewer than 3.

        Args:
            archs: measured in the new study.
            values: (n, m) their minimised objectives.
        """
        if len(archs) < 3:
            return 0.0
        predicted = self.predict(archs)
        return min(correlation(x, y) for x, y in zip(predicted.T, values.T, strict=True))


def correlation(x: Floats, y: Floats) -> float:
    """Spearman's rank correlation with ties at their mean rank; 0.0 where one side is constant."""
    a, b = (_mean_ranks(one) for one in (x, y))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def _mean_ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2.0)[inverse]
    return ranks
