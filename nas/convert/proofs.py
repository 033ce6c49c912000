"""Proofs of a plan: what was looked at, how far it is off, and what had to stay whole for it.

Three of them, each by other means.  The units of every atom are renumbered in the user's own model (`permuting`): that shows what
belongs together, and not that anything can be cut.  A narrower graph is compared with the whole one with zeros in it
(`masking`): that shows which numbers meet where atoms are cut.  The resized class is compared with the graph at the same sizes:
that shows that the class does what the rules say.  Weights are healthy random ones in all three.

What fails is halved to the decisions that do it; they are taken from the plan, so that their atoms stay whole.
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from nas.convert.copying import forget, named_tensors, restores_itself, tied, with_tensors
from nas.convert.emission import Reference
from nas.convert.healthy import SAMPLES, Patient, healthy_copy, is_large, outputs_of, same_draws, too_large
from nas.convert.masking import masked
from nas.convert.permuting import TOLERANCE, Permuted, guilty, permute
from nas.convert.plan import AtomPlan, Plan
from nas.convert.resize import resize
from nas.convert.smaller import of_few, reference_on, smaller
from nas.errors import Infeasible, SpaceError, SupernetError
from nas.supernet.inputs import Inputs, batch_size, tensors_in
from nas.supernet.parts import Sizes
from nas.supernet.rounding import largest_difference

RANDOM = 2
"""Archs drawn at random, beside half of every width, the smallest and the largest; half as many for the slower comparison."""
ROUNDS = 3
"""How often a plan is looked at again after something of it stayed whole."""
CLOSE = 1e-5
"""How far the class and the graph may be apart in single precision, relative to the largest output: they call the same
operators, and mostly give the same bits."""

Chosen = Mapping[str, int]
"""Decision -> what is chosen, those that are not there being whole; and units that are left out, each with a 0."""


@dataclass(frozen=True)
class Finding:
    """One proof.

    Attributes:
        what: was proved, in words.
        worst: largest difference that counts as none, relative to the largest output.
        allowed: what does.
        count: of comparisons.
        seconds: that they took.
    """

    what: str
    worst: float
    allowed: float
    count: int
    seconds: float


RENUMBERED = "units renumbered in the model itself"
CLASSES = "the resized class, beside the graph"
ZEROS = "narrower graphs, beside the whole one with zeros"


@dataclass(frozen=True)
class Proofs:
    """What was proved of a plan.

    Attributes:
        plan: the one that holds: less what `frozen` has.
        findings: of each proof.
        frozen: decisions and units that were taken from the plan -> why.
        unshown: atoms of which renumbering shows nothing -> why.
        unread: (tensor, axis, atom) of what no output depends on, of atoms that are shown elsewhere.
        notes: what could not be looked at.
        skipped: why nothing was proved at all; "" where it was.
    """

    plan: Plan
    findings: tuple[Finding, ...] = ()
    frozen: Mapping[str, str] = field(default_factory=dict)
    unshown: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[tuple[str, int, str], ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def seconds(self) -> float:
        """That all of them took."""
        return sum(each.seconds for each in self.findings)

    def __str__(self) -> str:
        lines = [
            f"{each.what}: {each.count} comparisons, largest difference {each.worst:.1e} of {each.allowed:.0e} allowed, "
            f"{each.seconds:.1f} s"
            for each in self.findings
        ]
        lines += [f"{name} stays whole: {why}" for name, why in self.frozen.items()]
        lines += [f"{name}: {why}" for name, why in self.unshown.items()]
        return "\n".join([*lines, *self.notes, *([self.skipped] if self.skipped else [])])

    def to_json(self) -> dict[str, Any]:
        """As JSON, without what is long."""
        return {
            "proofs": [[each.what, each.worst, each.count] for each in self.findings],
            "frozen": dict(self.frozen),
            "unshown": sorted(self.unshown),
        }


def prove(
    module: nn.Module,
    plan: Plan,
    example: Inputs,
    reference: Reference | None = None,
    *,
    zeros: bool = True,
    classes: bool = True,
    seed: int = 0,
) -> Proofs:
    """Prove that `plan` is right for `module`, and take from it what is not.

    Args:
        module: the user's own; it is left as it is.
        plan: of it; all of its atoms are there, those that nothing decides about too.
        example: inputs.
        reference: the captured graph with the lengths that the plan's rules found; without it the first proof stands alone.
        zeros: compare with zeros too; not where means and maxima are cut, which count them.
        classes: compare the class with the graph; not where archs are the graph.
        seed: of weights, permutations and archs.

    Raises:
        SpaceError: something is still wrong after a few rounds; or the module does not run on random weights, or gives other
            outputs each time.
    """
    skipped = too_large(module)
    if skipped:
        return Proofs(plan, skipped=skipped)

    def proved(*, precise: bool) -> Proofs:
        return _proved(module, plan, example, reference, zeros=zeros, classes=classes, seed=seed, precise=precise)

    if is_large(module):  # deep networks make errors of single precision as large as those of wrong plans
        with contextlib.suppress(_Doubtful):
            return proved(precise=False)
    return proved(precise=True)


class _Doubtful(SpaceError):
    """In single precision something looks wrong, which may be rounding."""


def _proved(
    module: nn.Module,
    plan: Plan,
    example: Inputs,
    reference: Reference | None,
    *,
    zeros: bool,
    classes: bool,
    seed: int,
    precise: bool,
) -> Proofs:
    """See `prove`; in double precision, if the model permits, where it is `precise`.

    Raises:
        _Doubtful: it is not, and something has failed.
    """
    try:
        patient = healthy_copy(module, example, seed, samples=None, precise=precise)
        small = smaller(patient)
        permuted = permute(module, plan, example, seed, renumbered_on(small, example))
    except SupernetError as error:
        raise SpaceError(f"{error}; check=False converts it without proof") from error
    frozen = {plan.atoms[atom].decision or atom: why for atom, why in permuted.frozen.items()}
    if frozen and not precise:
        raise _Doubtful("renumbering failed in single precision")
    findings = [_renumbered(permuted, len(plan.atoms) - len(plan.ordered))]
    notes = [_on(small)] if small is not patient else []
    if plan.ordered:
        notes.append(
            f"{len(plan.ordered)} atoms along which a convolution goes keep their order: of them cutting alone was proved"
        )
    plan = without(plan, frozen)
    if reference is None:
        notes.append("no graph was given, so that cutting was not proved")
    else:
        referee = _referee(module, plan, (small, patient), reference, seed)
        referee.doubts = not precise
        for looked in ((referee.zeros,) if zeros else ()) + ((referee.classes,) if classes else ()):
            finding, more = looked()
            findings.append(finding)
            frozen |= more
        plan = referee.plan
        notes += referee.notes
    silent = tuple((place.tensor, place.dim, place.atom) for place in permuted.silent)
    return Proofs(plan, tuple(findings), frozen, permuted.unshown, silent, tuple(notes))


def renumbered_on(small: Patient, example: Inputs) -> Patient:
    """What renumbering looks at: smaller images, and few samples of them."""
    return small if batch_size(example) <= SAMPLES else of_few(small, example, SAMPLES)


def _on(small: Patient) -> str:
    """What is said of smaller images."""
    height, width = next(
        leaf.shape[-2:] for leaf in tree_leaves(small.inputs) if isinstance(leaf, Tensor) and leaf.dim() > 3
    )
    return f"proved on images of {height} x {width}, on which the model calls the same operators in the same order"


def _referee(module: nn.Module, plan: Plan, patients: Sequence[Patient], reference: Reference, seed: int) -> _Referee:
    """What compares with the graph: on smaller images if the graph computes there what the model does."""
    small, patient = patients
    if small is not patient:
        own = _in(small, module)
        found = reference_on(reference, own)
        if found is not None and distance(own.first, found[1]) <= _allowed(own):
            return _Referee(module, plan, (small, own), found[0], seed)
    return _Referee(module, plan, (patient, _in(patient, module)), reference, seed)


def _allowed(own: Patient) -> float:
    """How far the class and the graph may be apart."""
    return max(CLOSE, 8 * torch.finfo(own.dtype).eps)


def _renumbered(found: Permuted, atoms: int) -> Finding:
    return Finding(RENUMBERED, found.worst, found.allowed, atoms, found.seconds)


def without(plan: Plan, names: Iterable[str]) -> Plan:
    """`plan` without these decisions and units; atoms that the decisions cut stay whole."""
    gone = set(names)
    return replace(
        plan,
        decisions=tuple(each for each in plan.decisions if each.name not in gone),
        atoms={name: AtomPlan(atom.size) if atom.decision in gone else atom for name, atom in plan.atoms.items()},
        units=tuple(each for each in plan.units if each.name not in gone),
    )


def archs(plan: Plan, seed: int = 0, drawn: int = RANDOM) -> Iterator[dict[str, int]]:
    """What to look at: half of everything, the smallest, and some at random.

    Every second unit is left out in the first, the others in the second, and all of them in the last: each is at least once.
    """
    units = [unit.name for unit in plan.units]
    half = {one.name: min(one.choices, key=lambda size: abs(2 * size - one.size)) for one in plan.decisions}
    least = {one.name: min(one.choices) for one in plan.decisions}
    draw = random.Random(seed)
    others = [
        {one.name: draw.choice(one.choices) for one in plan.decisions}
        | dict.fromkeys((name for name in units if draw.random() < 0.5), 0)
        for _ in range(drawn)
    ]
    found = [
        half | dict.fromkeys(units[::2], 0),
        least | dict.fromkeys(units[1::2], 0),
        *others,
        dict.fromkeys(units, 0),
    ]
    seen: list[dict[str, int]] = [{}]
    for chosen in found:
        if chosen not in seen:
            seen.append(chosen)
            yield chosen


class _Referee:
    """A module and its graph on healthy weights, compared at other sizes."""

    def __init__(
        self, module: nn.Module, plan: Plan, patients: tuple[Patient, Patient], reference: Reference, seed: int
    ) -> None:
        self.plan, self.seed = plan, seed
        self.notes: dict[str, None] = {}
        self.doubts = False  # whether to give up where something is wrong
        self.patient, self.own = patients  # in high precision, and in the module's own
        names = tied(module)
        self.names = dict.fromkeys(names.values())
        axes = {names[name]: axes for name, axes in reference.tensors.items()}
        self.reference = replace(reference, tensors=axes)
        unknown = [unit.name for unit in plan.units if unit.name not in reference.units]
        if unknown:
            self.notes[
                f"the graph does not say what is left with {', '.join(unknown)} left out, so that it was not proved"
            ] = None

    def _tensors(self, patient: Patient) -> dict[str, Tensor]:
        """Its parameters and buffers, tied ones once."""
        return {name: tensor.detach() for name, tensor in named_tensors(patient.module) if name in self.names}

    # -- which numbers meet

    def zeros(self) -> tuple[Finding, dict[str, str]]:
        """A narrower graph beside the whole one with zeros in it."""
        allowed = TOLERANCE[True] if self.patient.dtype == torch.float64 else CLOSE
        return self._looked(ZEROS, self._masked, allowed, RANDOM // 2)

    def _masked(self, chosen: Chosen) -> float:
        sizes, left_out = self._split(chosen)
        ours, theirs = masked(self.reference, self._tensors(self.patient), self.patient.example, sizes, left_out)
        return distance(theirs, ours)

    def _split(self, chosen: Chosen) -> tuple[Sizes, list[str]]:
        """Lengths of atoms, and units that are left out."""
        return self.plan.sizes(chosen), [unit.name for unit in self.plan.units if unit.name in chosen]

    # -- the class

    def classes(self) -> tuple[Finding, dict[str, str]]:
        """The class beside the graph."""
        return self._looked(CLASSES, self._class, _allowed(self.own), RANDOM, {})

    def _class(self, chosen: Chosen) -> float:
        return distance(self._graph(chosen), self._resized(chosen))

    @torch.no_grad()
    def _graph(self, chosen: Chosen) -> list[Tensor]:
        sizes, left_out = self._split(chosen)
        tensors = self.reference.cut(self._tensors(self.own), sizes)
        with same_draws():
            return tensors_in(tree_leaves(self.reference.at(sizes, left_out)(self.own.example, tensors)))

    @torch.no_grad()
    def _resized(self, chosen: Chosen) -> list[Tensor]:
        sizes, left_out = self._split(chosen)
        kept = [unit.name for unit in self.plan.units if unit.name not in left_out]
        module = resize(self.own.module, self.plan, sizes, kept, meta=False)
        if any(map(restores_itself, module.modules())):  # a copy of it may be another network
            module = copy.deepcopy(module)
        forget(module)
        return outputs_of(module, self.own.inputs)

    # -- both

    def _looked(
        self, what: str, error_of: Callable[[Chosen], float], allowed: float, drawn: int, *largest: Chosen
    ) -> tuple[Finding, dict[str, str]]:
        """Compare at several archs, and take from the plan what fails."""
        start, frozen, reasons = time.perf_counter(), dict[str, str](), dict[str, str]()
        worst, count = 0.0, 0

        def error(chosen: Chosen) -> float:
            try:
                return error_of(chosen)
            except Infeasible:
                raise
            except Exception as failure:  # of the user's code or of an operator at another size
                reasons[list(chosen)[-1] if chosen else ""] = f"{type(failure).__name__}: {failure}"
                return math.inf

        for _ in range(ROUNDS):
            clean = True
            looked_at = replace(
                self.plan, units=tuple(unit for unit in self.plan.units if unit.name in self.reference.units)
            )
            for chosen in (*largest, *archs(looked_at, self.seed, drawn)):
                now = {name: size for name, size in chosen.items() if name not in frozen}
                try:
                    far = error(now)
                except Infeasible as why:  # a search draws another one
                    self.notes[f"archs that the class does not allow were not looked at ({why})"] = None
                    continue
                count += 1
                if far <= allowed:
                    worst = max(worst, far)
                    continue
                if self.doubts:
                    raise _Doubtful(f"{what}: off by {far:.1g} in single precision")
                clean = False
                reasons.clear()
                for name, how in self._guilty(now, error, allowed).items():
                    frozen[name] = _why(what, how, reasons.get(name, ""), is_unit=not chosen[name])
                self.plan = without(self.plan, frozen)
            if clean:
                return Finding(what, worst, allowed, count, time.perf_counter() - start), frozen
        raise SpaceError(
            f"the plan is still not right after {ROUNDS} rounds ({what}); leave out the parts of the model that differ, or "
            "give check=False to convert it without proof"
        )

    def _guilty(self, chosen: Chosen, error: Callable[[Chosen], float], allowed: float) -> dict[str, float]:
        """The fewest decisions without which nothing is wrong, with how much is."""
        sizes = {one.name: one.size for one in self.plan.decisions}
        narrower = [name for name, size in chosen.items() if size != sizes.get(name)]

        def breaks(some: Sequence[str]) -> float:
            try:
                far = error({name: chosen[name] for name in some})
            except Infeasible:
                return 0.0
            return far if far > allowed else 0.0

        if not narrower or breaks([]):
            written = self.reference.capture.written
            if written:
                raise SpaceError(
                    f"the model changes its buffer {written[0]!r} in evaluation mode and computes with it, so that outputs "
                    "depend on earlier calls and nothing can be proved; change buffers under `if self.training:`"
                )
            raise SpaceError(
                "the captured graph does not compute what the model does, so that nothing can be proved by it; this is an "
                "error of the conversion, and check=False converts the model without proof"
            )
        return guilty(narrower, breaks)


def _why(what: str, far: float, reason: str, *, is_unit: bool) -> str:
    how = "left out" if is_unit else "cut"
    if math.isinf(far):
        return f"{how}, the model fails ({reason or 'outputs of another form'})"
    return f"{how}, the output is off by {far:.1g} of its size ({what})"


def _in(patient: Patient, module: nn.Module) -> Patient:
    """The same in the precision that the module has, in which its graph was captured."""
    dtypes = {name: tensor.dtype for name, tensor in named_tensors(module)}
    if all(tensor.dtype == dtypes[name] for name, tensor in named_tensors(patient.module)):
        return patient
    own = next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.float32)
    values = {name: tensor.detach().to(dtypes[name], copy=True) for name, tensor in named_tensors(patient.module)}
    copied = with_tensors(patient.module, values)
    inputs = tree_map(
        lambda leaf: leaf.to(own) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, patient.inputs
    )
    buffers = {name: buffer.clone() for name, buffer in copied.named_buffers()}
    found = Patient(copied, buffers, inputs, own)
    return replace(found, first=found.outputs())


def distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Largest difference of a tensor relative to its largest number; infinite where there are other tensors."""
    if len(ours) != len(theirs):
        return math.inf
    far = 0.0
    for one, other in zip(ours, theirs, strict=True):
        finite = one[one.isfinite()] if one.is_floating_point() else one[:0]
        scale = float(finite.abs().max()) if finite.numel() else 0.0
        far = max(far, largest_difference(one, other.to(one.dtype)) / (scale or 1.0))
    return far
