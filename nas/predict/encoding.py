"""Archs as numbers for predictors: from their decisions, or from the parts of the model that they describe."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import PredictorError, suggest

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.supernet.inputs import Inputs

Floats = NDArray[np.float64]
KINDS = ("onehot", "ordinal", "counts", "structure")


class Encoding:
    """(n, d) features of n archs.

    - "onehot", "ordinal": the decisions (`Space.features`).
    - "counts": how often each candidate was chosen, over all decisions that have the same candidates, and each of those sums
      squared and multiplied with each other: what a cell's latency follows, whichever edge an operation is on.
    - "structure": for each family of kernels of the built model how many there are, their operations, the elements that they
      read and write, and their weights.  The model is built, without weights, for each arch: about a millisecond a layer.

    Args:
        space: of the archs.
        kinds: one or more of the above, "onehot+structure".
        example: inputs that the models take, for "structure".
        columns: families that "structure" has a column for; None takes those of the archs that it first sees.

    Raises:
        PredictorError: a kind is not known, or an argument it needs is missing.
    """

    def __init__(
        self,
        space: Space,
        kinds: str = "onehot",
        *,
        example: Inputs | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.space, self.kinds, self.example = space, kinds, example
        self.columns = None if columns is None else tuple(columns)
        self._known: dict[str, dict[str, Floats]] = {}
        for kind in kinds.split("+"):
            if kind not in KINDS:
                raise PredictorError(
                    f"features of kind {kind!r} are not known{suggest(kind, KINDS)}; it is {', '.join(KINDS)}"
                )
        if "structure" in kinds.split("+") and example is None:
            raise PredictorError("features of kind 'structure' need inputs to run the models with; give example=")

    def __call__(self, archs: Sequence[Arch]) -> Floats:
        """(n, d) features; d depends on the space alone, and on the families first seen.

        Raises:
            PredictorError: an arch has a family of kernels that none of the first archs had.
        """
        blocks = [getattr(self, f"_{kind}")(archs) for kind in self.kinds.split("+")]
        found: Floats = np.concatenate(blocks, axis=1)
        return found

    @property
    def inputs(self) -> str:
        """One sample of the example, as text; "" without one."""
        from nas.supernet.inputs import sample_text

        return "" if self.example is None else sample_text(self.example)

    def state(self) -> dict[str, Any]:
        """JSON-able; `restore` reads it."""
        from nas.supernet.inputs import describe

        example = None if self.example is None else describe(self.example)
        return {"kinds": self.kinds, "example": example, "columns": self.columns}

    @classmethod
    def restore(cls, space: Space, state: Mapping[str, Any]) -> Encoding:
        """The reverse of `state`; the example is filled with zeros."""
        from nas.supernet.inputs import zeros

        example = None if state["example"] is None else zeros(state["example"])
        return cls(space, state["kinds"], example=example, columns=state["columns"])

    def _onehot(self, archs: Sequence[Arch]) -> Floats:
        return self.space.features(archs, "onehot")

    def _ordinal(self, archs: Sequence[Arch]) -> Floats:
        return self.space.features(archs, "ordinal")

    def _counts(self, archs: Sequence[Arch]) -> Floats:
        sums = label_counts(self.space, archs)
        first, second = np.triu_indices(sums.shape[1])
        return np.concatenate([sums, sums[:, first] * sums[:, second]], axis=1)

    def _structure(self, archs: Sequence[Arch]) -> Floats:
        rows = [self._families(arch) for arch in archs]
        if self.columns is None:
            self.columns = tuple(sorted({name for row in rows for name in row}))
        for row in rows:
            strange = [name for name in row if name not in self.columns]
            if strange:
                raise PredictorError(
                    f"the arch has parts of kind {strange[0]!r}, which no measured arch has (they have "
                    f"{', '.join(self.columns)}); measure such archs with 'nas measure' and fit again"
                )
        none = np.zeros(4)
        table = np.stack([np.stack([row.get(name, none) for name in self.columns]).ravel() for row in rows])
        totals = table.reshape(len(rows), -1, 4).sum(1)
        found: Floats = np.concatenate([table, totals], axis=1)
        return found

    def _families(self, arch: Arch) -> dict[str, Floats]:
        """Of each family: parts, operations, elements moved, weights."""
        known = self._known.get(arch.key)
        if known is None:
            from nas.predict.pieces import parts_of

            assert self.example is not None
            known = {}
            for part in parts_of(arch, self.example):
                row = np.array([1.0, part.macs, part.inputs + part.outputs, part.weights])
                known[part.family] = known.get(part.family, 0.0) + row
            self._known[arch.key] = known
        return known


def label_counts(space: Space, archs: Sequence[Arch]) -> Floats:
    """(n, d): how often each candidate is chosen, summed over decisions with the same candidates."""
    names = space.feature_names("onehot")
    decisions, labels = _split(names)
    of: dict[str, list[str]] = {}
    for decision, label in zip(decisions, labels, strict=True):
        of.setdefault(decision, []).append(label)
    groups = [(tuple(of[decision]), label) for decision, label in zip(decisions, labels, strict=True)]
    columns = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    onehot = space.features(archs, "onehot")
    sums = np.zeros((len(archs), len(columns)))
    for place, group in enumerate(groups):
        sums[:, columns[group]] += onehot[:, place]
    return sums


def _split(names: Collection[str]) -> tuple[list[str], list[str]]:
    """`kernels[0]=3` into the decision and the candidate; a float has a name alone."""
    parts = [name.partition("=") for name in names]
    return [part[0] for part in parts], [part[2] for part in parts]
