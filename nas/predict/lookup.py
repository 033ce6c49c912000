"""A table of parts: a model takes the sum of what its parts take (Cai et al. 2019, "ProxylessNAS", section 3.2.1)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.errors import PredictorError
from nas.predict.predictor import Floats, Predictor
from nas.predict.scoring import held_out, scores

if TYPE_CHECKING:
    from nas.predict.pieces import Part
    from nas.space import Arch, Space
    from nas.supernet.inputs import Inputs


class LookUp(Predictor):
    """The sum of a model's parts, brought to whole models by a line through measured ones.

    `measure_parts` fills the table; `fit` then finds offset and factor of the line (a whole model also adds, reshapes and
    calls), by least squares of relative errors.  `line=False` is the bare sum.  A part without an entry is an error that
    names the command which measures it: never a silent zero.

    Args:
        space: of the archs.
        device: name, for messages and the store.
        example: inputs that the models take.
        blocks: class names of modules that are one part each; other parts are leaf modules.
        table: milliseconds by `Part.key`.
        line: fit offset and factor.

    Raises:
        PredictorError: an entry is no positive number.
    """

    kind = "lookup"

    @checked(PredictorError)
    def __init__(
        self,
        space: Space,
        device: str = "",
        *,
        example: Inputs,
        blocks: Collection[str] = (),
        table: Mapping[str, float] | None = None,
        line: bool = True,
    ) -> None:
        super().__init__(space, device)
        self.example, self.blocks, self.line = example, tuple(blocks), line
        self.table: dict[str, float] = {}
        self.add(table or {})
        self._offset, self._factor, self._relative = 0.0, 1.0, 0.0
        self._known: dict[str, list[str]] = {}

    def add(self, entries: Mapping[str, float]) -> None:
        """Entries by `Part.key`, in milliseconds; a newer one replaces the older.

        Raises:
            PredictorError: one is no positive number.
        """
        for key, ms in entries.items():
            if not 0.0 < ms < float("inf"):
                raise PredictorError(
                    f"entry {key} of the table is {ms!r} ms; it must be a positive number, measure it again"
                )
        self.table |= entries

    def missing(self, archs: Sequence[Arch]) -> dict[str, Part]:
        """Parts of these archs that have no entry, by key."""
        from nas.predict.pieces import parts_of

        found: dict[str, Part] = {}
        for arch in archs:
            for part in parts_of(arch, self.example, self.blocks):
                if part.key not in self.table:
                    found.setdefault(part.key, part)
        return found

    def measure_parts(self, archs: Sequence[Arch], measure: Callable[[Part], float]) -> int:
        """Fill the table with every part of these archs that has no entry; how many there were.

        Args:
            archs: of the space; `Space.covering()` has every candidate of every decision at least once.
            measure: milliseconds of a part; it gets the module without weights and the shapes of its inputs.
        """
        missing = self.missing(archs)
        for key, part in missing.items():
            self.add({key: measure(part)})
        return len(missing)

    def sums(self, archs: Sequence[Arch]) -> Floats:
        """(n,) bare sums, in milliseconds.

        Raises:
            PredictorError: a part has no entry.
        """
        return np.array([sum(self._entry(key) for key in self._keys(arch)) for arch in archs])

    def _keys(self, arch: Arch) -> list[str]:
        from nas.predict.pieces import parts_of

        if arch.key not in self._known:
            self._known[arch.key] = [part.key for part in parts_of(arch, self.example, self.blocks)]
        return self._known[arch.key]

    def _entry(self, key: str) -> float:
        if key not in self.table:
            raise PredictorError(
                f"table for {self.device!r} has no entry for {key}; measure it with "
                f"'nas predictor fit JOB --kind lookup --device {self.device or 'D'}'"
            )
        return self.table[key]

    def _fit(self, archs: Sequence[Arch], ms: Floats) -> None:
        totals = self.sums(archs)

        def part(train: NDArray[np.intp], test: NDArray[np.intp]) -> Floats:
            offset, factor = self._line_through(totals[train], ms[train])
            return offset + factor * totals[test]

        self.errors = {**scores(ms, held_out(len(ms), part)), "archs": float(len(ms))}
        self._offset, self._factor = self._line_through(totals, ms)
        residual = (ms - self._offset - self._factor * totals) / ms
        self._relative = float(np.sqrt((residual**2).mean()))

    def _line_through(self, totals: Floats, ms: Floats) -> tuple[float, float]:
        """Offset and factor with the smallest sum of squared relative errors; the factor stays positive."""
        if not self.line:
            return 0.0, 1.0
        offset, factor = np.linalg.lstsq(np.stack([1 / ms, totals / ms], axis=1), np.ones(len(ms)), rcond=None)[0]
        if factor > 0:
            return float(offset), float(factor)
        return 0.0, float((totals / ms).sum() / ((totals / ms) ** 2).sum())

    def _predict(self, archs: Sequence[Arch]) -> tuple[Floats, Floats]:
        totals = self.sums(archs)
        value = np.maximum(self._offset + self._factor * totals, 1e-3 * totals)
        return value, np.maximum(self._relative * value, 1e-9)

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        from nas.supernet.inputs import describe

        state = {
            "example": describe(self.example),
            "blocks": list(self.blocks),
            "keys": list(self.table),
            "line": self.line,
            "offset": self._offset,
            "factor": self._factor,
            "relative": self._relative,
        }
        return state, {"table": np.array(list(self.table.values()))}

    @classmethod
    def _restore(
        cls, space: Space, device: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> LookUp:
        from nas.supernet.inputs import zeros

        table = dict(zip(state["keys"], map(float, arrays["table"]), strict=True))
        one = cls(
            space, device, example=zeros(state["example"]), blocks=state["blocks"], table=table, line=state["line"]
        )
        one._offset, one._factor, one._relative = state["offset"], state["factor"], state["relative"]
        return one
