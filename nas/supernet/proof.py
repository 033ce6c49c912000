"""Is a subnet made of the units that it claims?

A cut says which units (channels, heads, features) of the largest network a subnet has.  The proof puts all other units to
zero: whatever reaches a layer of the largest network, at the units that the subnet has, must then be what reaches the
subnet's layer.  It is tried for each candidate of each decision beside the largest arch, layer by layer, on random numbers
(`nas.supernet.probing`), through the same windows that cut the weights.

Units that are *mixed* (halves of a fused projection, inputs of a concatenation, heads of another group) are refused, unless
the corner was declared.  Means over units, softmax, kernels of another size and constants computed from a width make an
ordinary narrower network of which nothing can be proven by zeroing: that is said in the report and nowhere else.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, TypeVar

from nas.errors import LayoutError
from nas.space import Arch, Space
from nas.supernet.atomic import Parts
from nas.supernet.comparing import OUTPUT, Difference, Effort, Place, Sides, differences
from nas.supernet.cures import Cure, cures
from nas.supernet.ends import clash as clash_of
from nas.supernet.ends import last_layers
from nas.supernet.heads import foreign
from nas.supernet.inputs import Inputs
from nas.supernet.outline import Unlike, unlike
from nas.supernet.parts import Shape
from nas.supernet.probing import Attention, Probe
from nas.supernet.skeleton import build_skeleton, quiet
from nas.supernet.union import CORNER, Union

FEW, MANY = 16, 512
"""Archs looked at beside the largest one, at most: when a supernet is made, and when a proof is asked for."""

T = TypeVar("T")
State = Literal["proven", "unproven", "mixed"]


@dataclass(frozen=True)
class Verdict:
    """What was found of one arch beside the largest.

    Attributes:
        choices: what is chosen otherwise than in the largest arch, as in "width=16".
        state: "proven"; "unproven", where nothing speaks against it; "mixed", where something does.
        reasons: why it is not proven, each once.
    """

    choices: str
    state: State
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.choices}: {self.state}" + "".join(f"\n  {reason}" for reason in self.reasons)


@dataclass(frozen=True)
class Proof:
    """What was found of every arch looked at; `str` shows it."""

    verdicts: tuple[Verdict, ...]

    @property
    def proven(self) -> bool:
        """Are all of them made of the units that they claim?"""
        return all(verdict.state == "proven" for verdict in self.verdicts)

    def __str__(self) -> str:
        return "\n".join(map(str, self.verdicts)) or "no parameter is cut"


def prove(space: Space, union: Union, inputs: Inputs, most: int = MANY) -> Proof:
    """Look at each candidate of each decision beside the largest arch; at `most` of them, the first of each decision first.

    Raises:
        LayoutError: a subnet mixes units, and declaring a layout would end that.
    """
    largest, covering = space.largest, set(space.covering())
    archs = {differs(largest, arch): arch for arch, shapes in union.archs[1:] if _is_cut(union, shapes)}
    verdicts: list[Verdict] = []
    for choices, arch in _in_turn(archs).items():
        if len(verdicts) == most:
            rest = f"{len(archs) - most} more archs"
            verdicts.append(Verdict(rest, "unproven", ("not looked at; Supernet.prove() looks at more",)))
            break
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the model, on numbers that it was not made for
            pair = _Pair(space, union, arch, inputs, choices=choices, alone=arch in covering)
            verdict = pair.verdict()
        if verdict.state == "mixed":
            warnings.warn("; ".join(verdict.reasons), UserWarning, stacklevel=4)
        verdicts.append(verdict)
    _check_ends(space, union, inputs, covering - set(archs.values()), most)
    return Proof(tuple(verdicts))


def check_roles(space: Space, union: Union) -> None:
    """Refuse parameters of one name that are those of unlike modules.

    Raises:
        LayoutError: there are some.
    """
    for found in roles(space, union):
        raise LayoutError(f"in archs with {differs(space.largest, found.arch)}, {found.says}")


def roles(space: Space, union: Union) -> Iterator[Unlike]:
    """Parameters of one name that are those of unlike modules."""
    if len(union.outlines) < 2:
        return iter(())
    archs = zip((arch for arch, _ in union.archs), union.outlines, strict=True)
    return unlike(archs, set(space.covering()), union.cuts, union.ties)


def _check_ends(space: Space, union: Union, inputs: Inputs, archs: Set[Arch], most: int) -> None:
    """Look at those of `archs`, of which nothing is cut, that lack a layer which gives the largest network's output.

    Raises:
        LayoutError: another layer of theirs gives the output, and is a hidden one in the largest network.
    """
    largest, *others = union.archs
    fewer = [(arch, shapes) for arch, shapes in others if arch in archs and shapes.keys() < largest[1].keys()]
    if not fewer:
        return
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            large = _Pair(space, union, space.largest, inputs, choices="", alone=True).probe()
            last = {large.made[base].name for base in last_layers(large)}
        except Exception:  # said in the verdicts of archs that are cut; of others nothing is claimed
            return
        for arch, _ in [each for each in fewer if last - each[1].keys()][:most]:
            choices = differs(space.largest, arch)
            try:
                clash = clash_of(union, _Pair(space, union, arch, inputs, choices=choices, alone=True).probe(), large)
            except Exception:  # as above
                continue
            if clash:
                raise LayoutError(f"in archs with {choices}, {clash}")


def _in_turn(archs: Mapping[str, Arch]) -> dict[str, Arch]:
    """One arch of each decision, then a second one of each, and so on."""
    seen: Counter[str] = Counter()
    turns = {}
    for choices in archs:
        decision = " ".join(one.split("=")[0] for one in choices.split(", "))
        turns[choices] = seen[decision]
        seen[decision] += 1
    return {choices: archs[choices] for choices in sorted(archs, key=turns.__getitem__)}


def _is_cut(union: Union, shapes: Mapping[str, Shape]) -> bool:
    return any(shape != union.shapes[name] for name, shape in shapes.items())


def differs(largest: Arch, arch: Arch) -> str:
    """What is chosen otherwise than in the largest arch."""
    theirs = largest.choices
    return ", ".join(f"{name}={value!r}" for name, value in arch.choices.items() if theirs.get(name, ...) != value)


class _Pair:
    """The largest arch and another one, which differs from it in one decision (`alone`) or in all."""

    def __init__(self, space: Space, union: Union, arch: Arch, inputs: Inputs, *, choices: str, alone: bool) -> None:
        self.space, self.union, self.arch, self.inputs, self.choices = space, union, arch, inputs, choices
        self.alone, self._real = alone, False

    def verdict(self) -> Verdict:
        """What is found of it.

        Raises:
            LayoutError: it mixes units, and a layout ends that; or attention is given what no head has.
        """
        try:
            sides = self._sides(self.union)
            found = list(differences(sides))
            # Where several decisions differ, that another layer is the last need not be a matter of names.
            clash = clash_of(self.union, sides.small, sides.large) if self.alone else ""
            mixed = self._confirmed(sides, [each for each in found if each.kind == "mixed"])
            flat = bool(mixed) and _heads_differ(sides, mixed[0])
            cure = cures(self.union, mixed[0], sides.small, partial(self._mixed_with, flat=flat)) if mixed else None
            strange = self._foreign(sides) if found and not cure else ""
        except Exception as error:  # a model may do anything on numbers that it was not made for
            reason = f"it does not run on random numbers ({type(error).__name__}: {error})"
            return Verdict(self.choices, "unproven", (reason,))
        if clash:
            raise LayoutError(f"in archs with {self.choices}, {clash}")
        if cure or strange:
            raise LayoutError(self._sentence(mixed[0], cure) if cure else strange)
        regrouped = [each for each in mixed if _attention_differs(sides, each)]
        reasons = _reasons(sides, found)
        state: State = "unproven" if found else "proven"
        if len(regrouped) < len(mixed):
            state = "mixed"
            reasons = [self._sentence(next(each for each in mixed if each not in regrouped), {})]
        return Verdict(self.choices, state, tuple(dict.fromkeys(reasons)))

    def _foreign(self, sides: Sides) -> str:
        """A sentence about queries, keys or values that no head of the largest network has; "" where there are none."""
        if self.union.indices or not any(foreign(sides)):
            return ""
        again = [(each.what, each.writers) for each in foreign(self._sides(self.union, draw=1))]
        for what, writers in foreign(sides):
            if (what, writers) in again and not any(self.union.cuts.get(place.name) == CORNER for place in writers):
                cut = [place for place in writers if _is_cut_at(self.union, place, self.arch)] or list(writers)
                axes = " and ".join(f"axis {place.dim} of {place.name!r}" for place in cut)
                declare = ", ".join(f"{place.name!r}: nas.Layout(...)" for place in cut)
                return (
                    f"archs with {self.choices} mix units: the {what} of an attention are those of no head of the largest "
                    f"network, because the leading corner of {axes} has other parts of it; declare layouts={{{declare}}} with "
                    "the parts that it has, or nas.Corner() for it if that is meant"
                )
        return ""

    def probe(self) -> Probe:
        """The arch by itself."""
        return self._tried(lambda: self._probe(self.union, self.arch))

    def _sides(self, union: Union, *, draw: int = 0, flat: bool = False) -> Sides:
        return self._tried(lambda: self._run(union, draw, flat))

    def _tried(self, run: Callable[[], T]) -> T:
        try:
            return run()
        except (RuntimeError, NotImplementedError) as error:
            if self._real or "meta" not in str(error).lower():
                raise
            self._real = True  # somebody reads the weights of a layer without calling it
            return run()

    def _run(self, union: Union, draw: int, flat: bool) -> Sides:
        probe = partial(self._probe, union, draw=draw, flat=flat)
        small, largest = probe(self.arch), self.space.largest
        full = cache(partial(probe, largest, small=small, full=True))
        return Sides(union, small, probe(largest, small=small), full, Effort())

    def _probe(
        self,
        union: Union,
        arch: Arch,
        *,
        small: Probe | None = None,
        full: bool = False,
        draw: int = 0,
        flat: bool = False,
    ) -> Probe:
        module = build_skeleton(self.space, arch)
        return Probe(union, module, self.inputs, small=small, full=full, draw=draw, flat=flat, real=self._real)

    def _mixed_with(self, union: Union, *, draw: int = 0, flat: bool = False) -> list[Difference]:
        """Where units are mixed when they are cut as `union` says."""
        return [each for each in differences(self._sides(union, draw=draw, flat=flat)) if each.kind == "mixed"]

    def _confirmed(self, sides: Sides, mixed: list[Difference]) -> list[Difference]:
        """Those that are mixed for other random numbers too, and not because attention has heads of another size."""
        mixed = [each for each in mixed if not self._meant(each)]
        if not mixed or self.union.indices:  # drawn for each arch: which units they join is chance
            return []
        again = {(each.key, each.reader): each.traces for each in self._mixed_with(self.union, draw=1)}
        mixed = [each for each in mixed if each.traces & again.get((each.key, each.reader), frozenset())]
        if any(_heads_differ(sides, each) for each in mixed):
            flat = {(each.key, each.reader) for each in self._mixed_with(self.union, flat=True)}
            mixed = [each for each in mixed if not _heads_differ(sides, each) or (each.key, each.reader) in flat]
        return mixed

    def _meant(self, found: Difference) -> bool:
        """Did somebody declare the corner for one of the tensors?"""
        names = [place.name for place in (*found.writers, found.reader) if place is not None]
        return any(self.union.cuts.get(name) == CORNER for name in names)

    def _sentence(self, found: Difference, cure: Cure) -> str:
        where = "the output" if found.key == OUTPUT else f"layer {found.key[0]!r}"
        places = [place for place in (*found.writers, found.reader) if place is not None]
        cut = [place for place in dict.fromkeys(places) if _is_cut_at(self.union, place, self.arch)]
        mixed = {self.union.ties.get(base[0], f"{base[0]}.") for _, base, _ in found.traces}
        named = [place for place in cut if place.name in cure]
        named = named or [place for place in cut if place == found.reader or place.name.startswith(tuple(mixed))]
        axes = " and ".join(f"axis {place.dim} of {place.name!r}" for place in named)
        if any(isinstance(self.union.cuts.get(place.name), Parts) for place in named):
            return (
                f"archs with {self.choices} mix units: {where} gets others than it has in the largest network, because the axes "
                f"that the model says of {axes} take other parts of it; correct them, or leave their atoms whole"
            )
        declare = ", ".join(f"{name!r}: nas.{layout!r}" for name, layout in cure.items())
        return (
            f"archs with {self.choices} mix units: {where} gets others than it has in the largest network, because the leading "
            f"corner of {axes} has other parts of it; declare layouts={{{declare or f'{named[0].name!r}: nas.Layout(...)'}}}, "
            "or nas.Corner() for it if that is meant"
        )


def _is_cut_at(union: Union, place: Place, arch: Arch) -> bool:
    shapes = next(shapes for one, shapes in union.archs if one == arch)
    return place.name in shapes and shapes[place.name][place.dim] != union.shapes[place.name][place.dim]


def _attention(sides: Sides, found: Difference) -> tuple[Attention, Attention]:
    """What attention computed just before, in both networks."""
    probes = (sides.small, sides.large)
    ours, theirs = (probe.calls[found.key].attention if found.key in probe.calls else probe.last for probe in probes)
    return ours, theirs


def _attention_differs(sides: Sides, found: Difference) -> bool:
    """Has attention heads of another size, or shares them among others?"""
    ours, theirs = _attention(sides, found)
    return ours != theirs and any(name == "attention" for name, _ in ours)


def _heads_differ(sides: Sides, found: Difference) -> bool:
    """Has attention heads of another size?"""
    sizes = [[each for each in side if each[0] in ("attention", "product")] for side in _attention(sides, found)]
    return sizes[0] != sizes[1] and _attention_differs(sides, found)


def _reasons(sides: Sides, found: Sequence[Difference]) -> list[str]:
    """What keeps an arch from being proven, each kind once."""
    reasons = []
    kinds = [
        ("heads" if one.kind in ("mixed", "units") and _attention_differs(sides, one) else one.kind, one.key)
        for one in found
    ]
    for kind, text in _TEXTS.items():
        layers = dict.fromkeys("the output" if key == OUTPUT else key[0] for each, key in kinds if each == kind)
        if layers:
            shown = ", ".join(itertools.islice(layers, 3)) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
            reasons.append(f"{text}: {shown}")
    return reasons


_TEXTS = {
    "numbers": "the same units, with other numbers (kernels, means and constants depend on sizes)",
    "units": "more or fewer units come together, none in the place of others",
    "layers": "made by layers that only one of both networks has",
    "shape": "of another shape than in the largest network",
    "heads": "attention whose heads have another size, or share others, so that other units come together",
    "mixed": "put together otherwise, which was declared or is no more than chance",
    "unseen": "with other numbers, and not looked at, since the network calls so many layers",
}
