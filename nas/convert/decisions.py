"""Which atoms a search decides about, what it may choose, and what they are called."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from nas.convert.analysis import Analysis
from nas.convert.axes import Atom, Axis, Fixed, Sum, free, norm, rigid
from nas.convert.plan import AtomPlan, Decision, Plan
from nas.convert.rules import Value, name_of
from nas.convert.rules.base import arguments
from nas.convert.tracking import Expression, evaluate, unknowns
from nas.supernet import parts

MOST_CHOICES = 12
"""Choices of a width; where there are more, the granule is doubled: they would make a space larger and no network better."""

_BATCHED = {"aten.matmul", "aten.bmm", "aten.baddbmm", "aten.scaled_dot_product_attention"}
_GROUPED = {("groups",), ("num_groups",)}


@dataclass
class Names:
    """Atoms by name, and tensors' axes over those names.

    Attributes:
        atoms: name of every free atom on an axis of a parameter or buffer.
        kinds: of each of them.
        decided: names that a search decides about.
        tensors: axes of every tensor that has a free atom.
        paired: names of those of `decided` that are factors of one axis with another one.
        ordered: names of atoms whose units have to stay in their order.
    """

    atoms: dict[Atom, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    decided: list[str] = field(default_factory=list)
    tensors: dict[str, tuple[parts.Axis, ...]] = field(default_factory=dict)
    paired: set[str] = field(default_factory=set)
    ordered: set[str] = field(default_factory=set)

    def axis(self, axis: Axis) -> parts.Axis:
        """An axis with names in place of atoms; one that is on no tensor is as long as it was."""
        found: list[parts.Factor] = []
        for factor in norm(axis):
            if isinstance(factor, Fixed):
                found.append(factor.size)
            elif isinstance(factor, Atom):
                found.append(self.atoms.get(factor, factor.size))
            else:
                found.append(parts.Sum(tuple(map(self.axis, factor.terms))))
        return tuple(found)


def name_atoms(analysis: Analysis, parameters: Iterable[str], *, head_dim: bool = False) -> Names:
    """Names of all free atoms on tensors, and which of them are decided.

    Args:
        analysis: of the model.
        parameters: names of parameters; atoms on buffers only are no decisions.
        head_dim: decide about the width of heads instead of how many there are.
    """
    own = set(parameters)
    places: dict[Atom, list[str]] = {}
    for tensor, axes in analysis.sources.items():
        for axis in axes:
            for atom in dict.fromkeys(free(axis)):
                places.setdefault(atom, []).append(tensor)
    heads, groups, residual = _batched(analysis), _grouped(analysis), _residual(analysis)
    several = _several(analysis)
    both = _both(analysis)
    chosen = _decided(analysis, own, set() if not head_dim else heads, both)
    names = Names()
    taken: set[str] = set()
    for atom, tensors in places.items():
        kind = (
            "heads"
            if atom in heads
            else "groups"
            if atom in groups and atom in several
            else "width"
            if atom in residual
            else "hidden"
        )
        if atom not in chosen:
            kind = "unit" if kind == "hidden" else kind
        name = _name(kind, tensors, taken)
        taken.add(name)
        names.atoms[atom], names.kinds[name] = name, kind
        if atom in chosen and any(tensor in own for tensor in tensors):
            names.decided.append(name)
    names.ordered = {names.atoms[atom] for axis, _ in analysis.ordered for atom in free(axis) if atom in names.atoms}
    names.paired = {names.atoms[atom] for pair in both if pair <= chosen for atom in pair} & {*names.decided}
    names.tensors = {
        tensor: tuple(map(names.axis, axes))
        for tensor, axes in analysis.sources.items()
        if not all(map(rigid, map(norm, axes)))
    }
    return names


def _decided(analysis: Analysis, own: set[str], unwanted: set[Atom], both: Collection[frozenset[Atom]]) -> set[Atom]:
    """Of each product the major factor, where no other axis has it otherwise: two cuts of one axis would compound.

    Args:
        analysis: of the model.
        own: names of parameters.
        unwanted: atoms that give way to others.
        both: pairs of factors that are decided about side by side.
    """
    score: dict[Atom, int] = {}
    rivals: dict[Atom, set[Atom]] = {}
    for tensor, axes in analysis.sources.items():
        for axis in axes:
            for product in _products(norm(axis)):
                _rank(product, score, rivals, 1 if tensor in own else 0)
    chosen: set[Atom] = set()
    for atom in sorted(score, key=lambda one: (one in unwanted, -score[one])):
        if all(frozenset((atom, rival)) in both for rival in rivals[atom] & chosen):
            chosen.add(atom)
    return chosen


def _both(analysis: Analysis) -> set[frozenset[Atom]]:
    """Groups of a convolution, each with the channels of a group (cardinality and width: Xie et al. 2017, ResNeXt).

    Without it a grouped convolution were as wide in each group as ever, and its weights fell by one factor instead of two.
    Groups that are heads have channels that are the width of heads: those stay.
    """
    of_heads = _of_heads(analysis)
    found: set[frozenset[Atom]] = set()
    for node, derived in analysis.derived.items():
        weight = arguments(node).get("weight")  # a shuffle of channels has groups, too
        if ("groups",) in derived and weight is not None:
            groups = set(free(derived["groups",].axis))
            channels = {atom for axis in analysis.axes(weight)[:2] for atom in free(axis)} - groups - of_heads
            found.update(frozenset((group, channel)) for group in groups for channel in channels)
    return found


def _products(axis: Axis) -> Iterator[list[list[Atom]]]:
    """Of an axis and of every term of its sums, the free atoms of each factor that has some."""
    factors = [list(dict.fromkeys(free((factor,)))) for factor in axis]
    yield [each for each in factors if each]
    for factor in axis:
        if isinstance(factor, Sum):
            for term in factor.terms:
                yield from _products(term)


def _rank(product: list[list[Atom]], score: dict[Atom, int], rivals: dict[Atom, set[Atom]], weight: int) -> None:
    for place, factor in enumerate(product):
        others = {atom for other in product if other is not factor for atom in other}
        for atom in factor:
            score[atom] = score.get(atom, 0) + (weight if place == 0 else -weight)
            rivals.setdefault(atom, set()).update(others - {atom})


def _batched(analysis: Analysis) -> set[Atom]:
    """Atoms on batch axes of products of matrices: heads."""
    found: set[Atom] = set()
    for node, value in analysis.all_values():
        if node.op == "call_function" and name_of(node) in _BATCHED:
            for axis in value.axes[:-2]:
                found.update(free(axis))
    return found


def _of_heads(analysis: Analysis) -> set[Atom]:
    """Atoms on the matrices of products that are batched over others: widths of heads."""
    found: set[Atom] = set()
    for node, result in analysis.all_values():
        if (
            node.op == "call_function"
            and name_of(node) in _BATCHED
            and not all(map(rigid, map(norm, result.axes[:-2])))
        ):
            for operand in node.all_input_nodes:
                for axis in analysis.axes(operand)[-2:] if operand in analysis.values else ():
                    found.update(free(axis))
    return found


def _grouped(analysis: Analysis) -> set[Atom]:
    """Atoms that are groups of a convolution or of a norm."""
    return {
        atom
        for arguments in analysis.derived.values()
        for path, derived in arguments.items()
        if path in _GROUPED
        for atom in free(derived.axis)
    }


def _several(analysis: Analysis) -> set[Atom]:
    """Atoms each unit of which is several channels somewhere."""
    found: set[Atom] = set()
    for axes in analysis.sources.values():
        for axis in map(norm, axes):
            if len(axis) > 1:
                found.update(free(axis))
    return found


def _residual(analysis: Analysis) -> set[Atom]:
    """Atoms of what is added to something else that was computed."""
    found: set[Atom] = set()
    computed = {source.node for source in analysis.capture.sources}
    for node, value in analysis.all_values():
        if name_of(node) in ("aten.add", "aten.add_") and isinstance(value, Value):
            operands = [each for each in node.all_input_nodes if each not in computed]
            if len(operands) == 2 and all(_shape(each) == _shape(node) for each in operands):
                for axis in value.axes:
                    found.update(free(axis))
    return found


def _shape(node: fx.Node) -> tuple[int, ...]:
    fake = node.meta.get("val")
    return tuple(getattr(fake, "shape", ()))


def _name(kind: str, tensors: Sequence[str], taken: set[str]) -> str:
    """Path of the smallest module around all tensors, and the kind; where that is taken, of the first tensor's module."""
    modules = [tensor.rpartition(".")[0].split(".") for tensor in tensors]
    common: list[str] = []
    for level in zip(*modules, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    for path in (common, modules[0]):
        name = ".".join([*filter(None, path), kind])
        if name not in taken:
            return name
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def choices(
    size: int, kind: str, width: tuple[float, float], granule: int, *, unit: int = 1, aligned: bool = False
) -> tuple[int, ...]:
    """What may be chosen of `size` units, rising; the last is `size`, even where `width` ends below it.

    Heads and groups are counted one by one, channels in multiples of a granule that is at most an eighth of them.  A granule
    that makes more than `MOST_CHOICES` is doubled.
    """
    step = 1
    if kind not in ("heads", "groups"):
        step = granule
        while step > (8 if aligned else 1) and size // step < 8:
            step = max(step // 2, 1)
        if aligned:
            step = max(step, min(8, size))
    step = math.lcm(step, unit) if math.lcm(step, unit) <= size // 2 else unit
    low, high = max(1, -(-int(size * width[0] * 1000) // 1000)), int(size * width[1])
    multiples = [count for count in range(step, size, step) if low <= count <= high]
    while len(multiples) >= MOST_CHOICES:
        step *= 2
        multiples = [count for count in range(step, size, step) if low <= count <= high]
    return (*multiples, size)


def shared(name: str, share: str) -> str:
    """Name under which a decision is made together with others: of all blocks of a list, of all of a kind, or alone."""
    if share == "block":
        return re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", name)
    return name.rpartition(".")[2] if share == "all" else name


@dataclass(frozen=True)
class Together:
    """Atoms that one decision cuts.

    Attributes:
        lead: atom whose length the decision is about.
        times: of each atom, as many units as the lead has `times[lead]`.
    """

    lead: str
    times: Mapping[str, int]


def decide(
    names: Names,
    ties: Sequence[Mapping[str, int]],
    *,
    width: tuple[float, float],
    granule: int,
    share: str,
    aligned: Container[str],
    wanted: Container[str],
    unequal: Collection[tuple[Expression, Expression]] = (),
) -> tuple[tuple[Decision, ...], dict[str, AtomPlan]]:
    """Decisions, and every atom with what decides about it.

    Args:
        names: of atoms.
        ties: of each group of atoms whose lengths are multiples of one number, how many times.
        width: least and largest share.
        granule: of widths.
        share: decisions of atoms of one size are made together: of all blocks, of all of a kind, or not.
        aligned: atoms whose rows must be 16 bytes long.
        wanted: names of atoms that are decided about.
        unequal: lengths that must not become the same.
    """
    sizes = {name: atom.size for atom, name in names.atoms.items()}
    decisions: dict[str, Decision] = {}
    atoms = {name: AtomPlan(size) for name, size in sizes.items()}
    for group in _together(names, ties, wanted):
        lead, kind = group.lead, names.kinds[group.lead]
        unit = group.times[lead]
        together = shared(lead, share)
        if together in decisions and decisions[together].size != sizes[lead]:
            together = f"{together}_{sizes[lead]}"
        if together not in decisions:
            is_aligned = any(atom in aligned for atom in group.times)
            # Of two factors of an axis each keeps so much that together they keep the least share.
            least = width[0] if names.paired.isdisjoint(group.times) else math.sqrt(width[0])
            found = choices(sizes[lead], kind, (least, width[1]), granule, unit=unit, aligned=is_aligned)
            if len(found) < 2:
                continue
            decisions[together] = Decision(together, kind, sizes[lead], found)
        for atom, times in group.times.items():
            shortened = math.gcd(times, unit)
            atoms[atom] = AtomPlan(sizes[atom], together, times // shortened, unit // shortened)
    for pair in unequal:
        _keep_apart(pair, decisions, atoms)
    return tuple(decisions.values()), atoms


def atoms_of(expressions: Iterable[Expression]) -> Iterator[str]:
    """Names of the atoms in expressions over axes."""
    for expression in expressions:
        for one in unknowns(expression):
            yield from parts.atoms(one[1])


def _keep_apart(
    pair: tuple[Expression, Expression], decisions: dict[str, Decision], atoms: dict[str, AtomPlan]
) -> None:
    """Take from a decision the choices that make two lengths the same, if it is the only one that they depend on."""
    names = {atoms[atom].decision for atom in atoms_of(pair)} - {None}
    if len(names) != 1:
        return
    decision = decisions[str(names.pop())]

    def same(choice: int) -> bool:
        sizes = Plan((), atoms).sizes({decision.name: choice})
        try:
            left, right = (evaluate(side, lambda one: parts.length(one[1], sizes)) for side in pair)
        except ZeroDivisionError:
            return True
        return bool(left == right)

    left = tuple(choice for choice in decision.choices if choice == decision.size or not same(choice))
    if len(left) > 1:
        decisions[decision.name] = dataclasses.replace(decision, choices=left)
        return
    del decisions[decision.name]
    atoms.update({name: AtomPlan(atom.size) for name, atom in atoms.items() if atom.decision == decision.name})


def _together(names: Names, ties: Sequence[Mapping[str, int]], wanted: Container[str]) -> Iterator[Together]:
    """Groups of atoms in the order of their first; atoms that nothing is decided about are in none."""
    tied: dict[str, Mapping[str, int]] = {atom: tie for tie in ties for atom in tie}
    seen: set[str] = set()
    for atom in names.decided:
        times = tied.get(atom, {atom: 1})
        if atom in seen:
            continue
        seen.update(times)
        # What is wide is said in channels, even if it follows the heads.
        lead = max(times, key=lambda one: (names.kinds[one] == "width", times[one] == min(times.values())))
        if all(one in wanted for one in times):
            yield Together(lead, times)
