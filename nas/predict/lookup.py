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

ENOUGH = 8
"""Measured archs from which on other corrections than a line are tried."""
Form = tuple[int, ...]
LINE: Form = (0, 1)
FORMS: tuple[Form, ...] = (LINE, (0, 1, 2), (1, 3), (1, 2, 3))
"""Terms of corrections: 0 one, 1 the sum, 2 the number of parts, 3 the root of the sum.  A model adds something to its parts,
which is a constant where it is what a call costs, and grows, but slower than the sum, where small models stay in the caches."""


class LookUp(Predictor):
    """The sum of a model's parts, brought to whole models by a line through measured ones.

    `measure_parts` fills the table; `fit` then finds offset and factor of the line (a whole model also adds, reshapes and
    calls), and where cross-validation prefers that a time for each part, and a factor of the sum's root in place of the
    offset, by least squares of relative errors.  `line=False` is the bare sum.  `errors` has the error of the bare sum beside
    (`sum_mape`).  A part without an entry is an error that names the command which measures it: never a silent zero.

    Args:
        space: of the archs.
        device: name, for messages and the store.
        example: inputs that the models take.
        blocks: class names of modules that are one part each; other parts are leaf modules.
        operators: parts are the operators of torch that a model runs, whatever it is written as: functions between its modules,
            as attention, are then in the sum.
        table: milliseconds by `Part.key`.
        line: fit offset and factor.

    Raises:
        PredictorError: an entry is no positive number, or blocks are given beside operators.
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
        operators: bool = False,
        table: Mapping[str, float] | None = None,
        line: bool = True,
    ) -> None:
        from nas.supernet.inputs import sample_text

        super().__init__(space, device)
        self.inputs = sample_text(example)
        if operators and blocks:
            raise PredictorError("operators=True has no blocks: parts are operators, or modules; give one of them")
        self.example, self.blocks, self.operators, self.line = example, tuple(blocks), operators, line
        self.table: dict[str, float] = {}
        self.add(table or {})
        self._line, self._relative = np.array([0.0, 1.0, 0.0, 0.0]), 0.0
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
        found: dict[str, Part] = {}
        for arch in archs:
            for part in self._parts(arch):
                known = found.get(part.key)
                if part.key not in self.table and (known is None or part.among > known.among):
                    found[part.key] = part  # among as many weights as in any of the models
        return found

    def _parts(self, arch: Arch) -> list[Part]:
        from nas.predict.operators import operators_of
        from nas.predict.pieces import parts_of

        return operators_of(arch, self.example) if self.operators else parts_of(arch, self.example, self.blocks)

    def measure_parts(self, archs: Sequence[Arch], measure: Callable[[Part], float]) -> int:
        """Fill the table with every part of these archs that has no entry; how many there were.

        Args:
            archs: of the space; `Space.covering()` has every candidate of every decision at least once.
            measure: milliseconds of a part; it gets the module without weights and the shapes of its inputs.
        """
        missing = self.missing(archs)
        count = len(missing)
        while missing:
            key, part = missing.popitem()  # whose tensors are freed then
            self.add({key: measure(part)})
        return count

    def sums(self, archs: Sequence[Arch]) -> Floats:
        """(n,) bare sums, in milliseconds.

        Raises:
            PredictorError: a part has no entry.
        """
        return np.array([sum(self._entry(key) for key in self._keys(arch)) for arch in archs])

    def _keys(self, arch: Arch) -> list[str]:
        if arch.key not in self._known:
            self._known[arch.key] = [part.key for part in self._parts(arch)]
        return self._known[arch.key]

    def _entry(self, key: str) -> float:
        if key not in self.table:
            raise PredictorError(
                f"table for {self.device!r} has no entry for {key}; measure it with "
                f"'nas predictor fit JOB --kind lookup --device {self.device or 'D'}'"
            )
        return self.table[key]

    def _fit(self, archs: Sequence[Arch], ms: Floats) -> None:
        terms = self._terms(archs)
        forms = FORMS if self.line and len(ms) >= ENOUGH else (LINE,)

        def without(form: Form) -> Floats:
            return held_out(len(ms), lambda train, test: terms[test] @ self._through(terms[train], ms[train], form))

        held = {form: without(form) for form in forms}
        best = min(forms, key=lambda form: float(np.abs(held[form] / ms - 1.0).mean()))
        self.errors = {**scores(ms, held[best]), "sum_mape": scores(ms, terms[:, 1])["mape"], "archs": float(len(ms))}
        self._line = self._through(terms, ms, best)
        self._relative = float(np.sqrt((((ms - terms @ self._line) / ms) ** 2).mean()))

    def _terms(self, archs: Sequence[Arch]) -> Floats:
        """(n, 4): one, the sum, the number of parts, the root of the sum."""
        sums, counts = self.sums(archs), np.array([len(self._keys(arch)) for arch in archs], float)
        return np.stack([np.ones(len(sums)), sums, counts, np.sqrt(sums)], axis=1)

    def _through(self, terms: Floats, ms: Floats, form: Form) -> Floats:
        """(4,) coefficients of terms with the smallest sum of squared relative errors; a larger sum always takes more.

        Args:
            terms: (n, 4): one, the sum, the number of parts, the root of the sum.
            ms: (n,) measured.
            form: terms that may be used.
        """
        found = np.array([0.0, 1.0, 0.0, 0.0])
        if not self.line:
            return found
        found[list(form)] = np.linalg.lstsq(terms[:, form] / ms[:, None], np.ones(len(ms)), rcond=None)[0]
        if found[1] > max(0.0, -found[3] / (2.0 * float(terms[:, 3].min()))):  # the slope at the smallest of the sums
            return found
        share = terms[:, 1] / ms
        return np.array([0.0, float(share.sum() / (share**2).sum()), 0.0, 0.0])

    def _predict(self, archs: Sequence[Arch]) -> tuple[Floats, Floats]:
        terms = self._terms(archs)
        value = np.maximum(terms @ self._line, 1e-3 * terms[:, 1])
        return value, np.maximum(self._relative * value, 1e-9)

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        from nas.supernet.inputs import describe

        state = {
            "example": describe(self.example),
            "blocks": list(self.blocks),
            "keys": list(self.table),
            "line": self.line,
            "offset": float(self._line[0]),
            "factor": float(self._line[1]),
            "relative": self._relative,
            **({"each": float(self._line[2])} if self._line[2] else {}),
            **({"root": float(self._line[3])} if self._line[3] else {}),
            **({"operators": True} if self.operators else {}),
        }
        return state, {"table": np.array(list(self.table.values()))}

    @classmethod
    def _restore(
        cls, space: Space, device: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> LookUp:
        from nas.supernet.inputs import zeros

        table = dict(zip(state["keys"], map(float, arrays["table"]), strict=True))
        one = cls(
            space,
            device,
            example=zeros(state["example"]),
            blocks=state["blocks"],
            operators=state.get("operators", False),
            table=table,
            line=state["line"],
        )
        one._line = np.array([state["offset"], state["factor"], state.get("each", 0.0), state.get("root", 0.0)])
        one._relative = state["relative"]
        return one
