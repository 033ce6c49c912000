"""The plan of an elastic model: everything that a worker needs to resize the user's own class, as JSON.

It says which atoms there are and what decides about each, of which atoms every axis of every tensor is made, which numbers
that modules keep follow from them, and which modules can be left out.  It holds no tensor, no code and no capture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nas.errors import SpaceError
from nas.supernet import parts
from nas.supernet.parts import Axis, Factor, Sizes, Sum

FORMAT = 1
LINEAR = "linear"
"""What is chosen of a unit whose place a linear map takes."""


@dataclass(frozen=True)
class Decision:
    """A width that a search chooses.

    Attributes:
        name: module path and kind, as in `encoder.layer.0.attention.heads`.
        kind: "width", "hidden", "heads", "groups", "head_dim", …
        size: of the original; the largest of `choices`.
        choices: rising.
    """

    name: str
    kind: str
    size: int
    choices: tuple[int, ...]


@dataclass(frozen=True)
class AtomPlan:
    """What is renumbered and cut as one: `times` units for each `per` that the decision gives; whole without a decision."""

    size: int
    decision: str | None = None
    times: int = 1
    per: int = 1


Path = tuple[str | int, ...]
"""Where a number is, inside a module: an attribute's name, then keys, indices or attributes (`("config", "num_heads")`)."""


@dataclass(frozen=True)
class Number:
    """A number that a module keeps and that follows from the arch.

    Attributes:
        module: path of the module.
        path: where the number is in it.
        axis: its value is the length of this axis, unless there is an expression.
        expression: tree of ["+" | "-" | "*" | "//" | "%", left, right], ints and "x"; the value is the x, at most the original,
            for which it is as long as `axis`.
    """

    module: str
    path: Path
    axis: Axis
    expression: Any = None


@dataclass(frozen=True)
class Unit:
    """A module that can be left out: it then gives its first argument, in what it returns otherwise.

    Attributes:
        name: module path.
        extras: None if it returns a tensor, else the entries after the first of the tuple that it returns.
        places: None, or a linear map may take its place: of the last axis where it is 0, else of the second, behind which there
            are so many.
        features: that axis.
    """

    name: str
    extras: int | None = None
    places: int | None = None
    features: Axis = ()


@dataclass(frozen=True)
class Depth:
    """How many units of a run of equal ones there are: a choice of d keeps the first d of `order`.

    Attributes:
        name: path of the run and "depth", as in `encoder.layer.depth`.
        order: names of the units, the most important first.
        choices: rising; the last is the number of units.
    """

    name: str
    order: tuple[str, ...]
    choices: tuple[int, ...]


@dataclass(frozen=True)
class Factors:
    """A layer that may be two, whose inner width is decided: `layer.down` to it, and `layer.up` again.

    Attributes:
        layer: module path of a linear layer or a convolution with kernels of one pixel.
        atom: the inner width; as long as the largest rank that saves anything.
        full: the rank that the layer has itself; to choose it is to leave the layer as it is.
        transposed: its weight is (inputs, outputs).
    """

    layer: str
    atom: str
    full: int
    transposed: bool = False


@dataclass(frozen=True)
class Plan:
    """See the module's text.  Names of tensors are those of `named_parameters` and `named_buffers`, or paths of
    attributes that hold one (`copying.named_tables`), one for tied ones.

    Attributes:
        graph: archs are captured graphs.
        ordered: atoms whose units must not be renumbered, since a convolution goes along them.
        factors: layers that may be two.
    """

    decisions: tuple[Decision, ...] = ()
    atoms: Mapping[str, AtomPlan] = field(default_factory=dict)
    tensors: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    numbers: tuple[Number, ...] = ()
    units: tuple[Unit, ...] = ()
    graph: bool = False
    depths: tuple[Depth, ...] = ()
    ordered: tuple[str, ...] = ()
    factors: tuple[Factors, ...] = ()

    @property
    def whole(self) -> dict[str, int]:
        """Length of every atom in the original."""
        return {name: atom.size for name, atom in self.atoms.items()}

    def sizes(self, chosen: Mapping[str, int]) -> Sizes:
        """Length of every atom where decisions are as `chosen`, by name; those that are not there are whole.

        The inner width of a layer that stays one is 0.
        """
        found = {
            name: atom.size
            if atom.decision is None or atom.decision not in chosen
            else chosen[atom.decision] * atom.times // atom.per
            for name, atom in self.atoms.items()
        }
        for each in self.factors:
            rank = chosen.get(self.atoms[each.atom].decision or "", each.full)
            found[each.atom] = 0 if rank == each.full else rank
        return found

    @property
    def ranks(self) -> set[str]:
        """Names of the decisions about ranks."""
        return {name for each in self.factors if (name := self.atoms[each.atom].decision) is not None}

    @property
    def alone(self) -> tuple[Unit, ...]:
        """Units about each of which there is a decision of its own."""
        ordered = {name for depth in self.depths for name in depth.order}
        return tuple(unit for unit in self.units if unit.name not in ordered)

    @property
    def mappable(self) -> tuple[Unit, ...]:
        """Units whose place a linear map may take."""
        return tuple(unit for unit in self.alone if unit.places is not None)

    def mapped(self, chosen: Mapping[str, Any]) -> set[str]:
        """Names of the units in whose place there is a linear map."""
        return {unit.name for unit in self.mappable if chosen.get(unit.name) == LINEAR}

    def kept(self, chosen: Mapping[str, Any]) -> set[str]:
        """Names of the units that are there where units and depths are as `chosen`, by name; all others are there."""
        gone = {unit.name for unit in self.alone if not chosen.get(unit.name, True)} | self.mapped(chosen)
        for depth in self.depths:
            gone.update(depth.order[chosen.get(depth.name, len(depth.order)) :])
        return {unit.name for unit in self.units} - gone

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "format": FORMAT,
            "decisions": [[d.name, d.kind, d.size, list(d.choices)] for d in self.decisions],
            "atoms": {name: [a.size, a.decision, a.times, a.per] for name, a in self.atoms.items()},
            "tensors": {name: [parts.to_json(axis) for axis in axes] for name, axes in self.tensors.items()},
            "numbers": [[n.module, list(n.path), parts.to_json(n.axis), n.expression] for n in self.numbers],
            "units": [_unit(unit) for unit in self.units],
            **({"graph": True} if self.graph else {}),
            **({"depths": [[d.name, list(d.order), list(d.choices)] for d in self.depths]} if self.depths else {}),
            **({"ordered": list(self.ordered)} if self.ordered else {}),
            **({"factors": [[f.layer, f.atom, f.full, f.transposed] for f in self.factors]} if self.factors else {}),
        }

    @staticmethod
    def from_json(data: Any) -> Plan:
        """The plan that `to_json` described.

        Raises:
            SpaceError: it is none, or of another version.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise SpaceError(f"a plan of format {FORMAT} was expected; make it again with nas.elastic")
        try:
            return Plan(
                tuple(Decision(name, kind, size, tuple(choices)) for name, kind, size, choices in data["decisions"]),
                {name: AtomPlan(*values) for name, values in data["atoms"].items()},
                {name: tuple(map(parts.from_json, axes)) for name, axes in data["tensors"].items()},
                tuple(
                    Number(module, tuple(path), parts.from_json(axis), expression)
                    for module, path, axis, expression in data["numbers"]
                ),
                tuple(
                    Unit(name, extras, *([more[0], parts.from_json(more[1])] if more else []))
                    for name, extras, *more in data["units"]
                ),
                bool(data.get("graph", False)),
                tuple(Depth(name, tuple(order), tuple(choices)) for name, order, choices in data.get("depths", [])),
                tuple(map(str, data.get("ordered", []))),
                tuple(Factors(*values) for values in data.get("factors", [])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(f"the plan is damaged ({error}); make it again with nas.elastic") from error

    @property
    def effect(self) -> str:
        """SHA-256 of what archs are: the part of each tensor that a decision keeps, whatever atoms are called.

        What stays whole is no part of it, nor is how a module is told: a plan made by a later version is the same where its
        cuts are.
        """
        cuts = {name: [self._effect(axis) for axis in axes] for name, axes in self.tensors.items()}
        elastic = {name: axes for name, axes in cuts.items() if not all(_rigid(axis) for axis in axes)}
        depths = [[[depth.name, depth.order, depth.choices] for depth in self.depths]] if self.depths else []
        units = sorted(unit.name for unit in self.units)
        ranks = sorted([each.layer, *self._effect((each.atom,)), each.full] for each in self.factors)
        maps = sorted(
            [unit.name, unit.places, *self._effect(unit.features)] for unit in self.alone if unit.places is not None
        )
        more = [*depths, *([{"ranks": ranks}] if ranks else []), *([{"maps": maps}] if maps else [])]
        content = json.dumps([elastic, units, *more], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def _effect(self, axis: Axis) -> list[Any]:
        """An axis with decisions in the place of atoms, and what is whole as one number where it is one."""
        found: list[Any] = []
        for factor in axis:
            told = self._effect_of(factor)
            if isinstance(told, int) and found and isinstance(found[-1], int):
                found[-1] *= told
            elif told != 1:
                found.append(told)
        return found or [1]

    def _effect_of(self, factor: Factor) -> Any:
        if isinstance(factor, Sum):
            terms = [self._effect(term) for term in factor.terms]
            return sum(term[0] for term in terms) if all(map(_rigid, terms)) else {"sum": terms}
        if isinstance(factor, int):
            return factor
        atom = self.atoms[factor]
        return atom.size if atom.decision is None else [atom.decision, atom.times, atom.per, atom.size]

    def _nas_described(self) -> dict[str, Any]:
        """What the fingerprint of a space and the keys of its archs depend on."""
        return {"effect": self.effect}

    def __copy__(self) -> Plan:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self

    def __repr__(self) -> str:
        return f"Plan({len(self.decisions)} decisions, {len(self.units)} units, {self.effect[:8]})"

    @property
    def digest(self) -> str:
        """SHA-256 of its content."""
        content = json.dumps(self.to_json(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()


def _unit(unit: Unit) -> list[Any]:
    """As JSON."""
    more = [] if unit.places is None else [unit.places, parts.to_json(unit.features)]
    return [unit.name, unit.extras, *more]


def _rigid(axis: list[Any]) -> bool:
    return all(isinstance(factor, int) for factor in axis)
