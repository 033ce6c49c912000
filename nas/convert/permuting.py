"""Does a model compute the same when the units of its atoms are renumbered, in all tensors that have them?

Renumbering the units of an atom (channels, heads, groups) in every parameter and buffer at once changes nothing if, and
nearly only if, the plan says rightly which axes the atom is on: the user's own class is asked, and nothing in it is replaced.
Means, softmax and norms over units are covered too.  What it does not show is that an operation takes fewer units.

All atoms are renumbered at once, held ones too; not those along which a convolution goes, whose units have an order.  Where
the output changes, the atoms that do it are found by halving.  An atom on which no output depends passes
whatever the plan says of it: such are told apart by renumbering each in one place alone.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nas.convert.copying import named_tensors, tied, with_tensors
from nas.convert.healthy import Patient, healthy_copy, outputs_of
from nas.convert.plan import Plan
from nas.errors import SupernetError
from nas.supernet import parts
from nas.supernet.inputs import Inputs
from nas.supernet.parts import Axis
from nas.supernet.rounding import largest_difference, rounding

TOLERANCE = {True: 1e-9, False: 1e-5}
"""Of an output, relative to its largest number, where all is computed in double precision and where not: right couplings give
at most 1e-12 and 1e-6, wrong ones mostly 0.1 and more."""
MOST = 1e-2
"""What rounding may explain at most, where a difference is larger than `TOLERANCE`."""
FEW = 4
"""Units of which there are so few orders that two atoms may get the same one by chance."""
ALONE = 64
"""Places of an atom looked at one by one, at most, where the gradient shows nothing."""
HALVINGS = 16
"""Runs, at most, in which places that show nothing are told from those that show little: no claim hangs on them."""

Permutations = Mapping[str, Tensor]


class Place(NamedTuple):
    """An atom on an axis of a tensor."""

    tensor: str
    dim: int
    atom: str


@dataclass(frozen=True)
class Permuted:
    """What renumbering showed.

    Attributes:
        worst: largest difference of an output, relative to its largest number, of what counts as the same.
        allowed: what counts as the same.
        dtype: in which it was computed; a model may do parts in single precision in any case.
        frozen: atoms that cannot be renumbered -> why.
        unshown: atoms of which nothing is shown, since no output depends on the order of their units -> why.
        silent: axes of tensors that no output depends on, of atoms that are shown elsewhere.
        seconds: that it took.
    """

    worst: float
    allowed: float
    dtype: torch.dtype
    frozen: dict[str, str] = field(default_factory=dict)
    unshown: dict[str, str] = field(default_factory=dict)
    silent: tuple[Place, ...] = ()
    seconds: float = 0.0

    @property
    def proven(self) -> bool:
        """Is every atom shown, and none refused?"""
        return not (self.frozen or self.unshown)


def permute(module: nn.Module, plan: Plan, example: Inputs, seed: int = 0, patient: Patient | None = None) -> Permuted:
    """Whether `module` computes the same with the units of all atoms of `plan` renumbered.

    Args:
        module: the user's own; it is left as it is.  Without values (meta) it gets some.
        plan: all of its atoms are renumbered, those without a decision too, but for those that are `ordered`.
        example: inputs.
        seed: of weights and permutations.
        patient: a healthy copy of the module that is there already; it is afterwards as it was.

    Raises:
        SupernetError: the module does not run on random weights, or gives other outputs each time.
    """
    start = time.perf_counter()
    trial = Trial(healthy_copy(module, example, seed) if patient is None else patient, plan)
    atoms = [name for name in plan.atoms if plan.atoms[name].size > 1 and name in trial.places]
    draws = _draws({name: plan.atoms[name].size for name in atoms}, seed)
    worst = 0.0

    def breaks(chosen: Sequence[str]) -> float:
        """The largest error with these renumbered, 0 where it is none; infinite where the module then fails."""
        nonlocal worst
        try:
            for draw in draws:
                error = trial.error({name: draw[name] for name in chosen if name in draw})
                if trial.differs(error):
                    return error
                worst = max(worst, error)
        except Exception:  # of the user's code, for which numbers are not what it takes them for
            return math.inf
        return 0.0

    moved = [name for name in atoms if name not in plan.ordered]
    wrong = breaks(moved) > 0
    if wrong and trial.differs(trial.error({})):
        raise SupernetError(
            f"{type(module).__name__} gives other outputs when it is called again with the same inputs and weights, so that "
            "nothing of it can be proved; call it with fixed seeds, and reset what it counts or remembers"
        )
    frozen: dict[str, str] = {}
    for name, error in guilty(moved, breaks).items() if wrong else ():
        at = ", ".join(dict.fromkeys(f"axis {place.dim} of {place.tensor!r}" for place in trial.places[name][:3]))
        frozen[name] = f"renumbering its units ({at}) changes the output by {error:.1g} of its size"
    left = [name for name in atoms if name not in frozen]
    unshown, silent = _sensitivity(trial, left, {name: _moving(draws, name) for name in left})
    return Permuted(worst, trial.allowed, trial.dtype, frozen, unshown, silent, time.perf_counter() - start)


def guilty(atoms: Sequence[str], breaks: Callable[[Sequence[str]], float], most: int = 128) -> dict[str, float]:
    """The fewest of `atoms`, by halving, without which nothing breaks -> how large the error was.

    Args:
        atoms: all of them.
        breaks: the error with some of them, 0 where there is none; it is 0 for none of them.  What it is called with last
            is the one found, after all that do not break.
        most: calls of it, after which halves that break are not halved any more.
    """
    found: dict[str, float] = {}
    calls = 0

    def search(some: Sequence[str], fine: list[str]) -> list[str]:
        """Those of `some` that do not break together with `fine`, which do not break by themselves."""
        nonlocal calls
        calls += 1
        error = breaks([*fine, *some]) if some else 0.0
        if not error:
            return list(some)
        if len(some) == 1 or calls >= most:
            found.update(dict.fromkeys(some, error))
            return []
        middle = len(some) // 2
        kept = search(some[:middle], fine)
        return [*kept, *search(some[middle:], [*fine, *kept])]

    search(atoms, [])
    return found


def _draws(sizes: Mapping[str, int], seed: int) -> list[dict[str, Tensor]]:
    """Permutations of atoms, several times: no two atoms of one size are renumbered alike in all of them.

    Many units get a random cycle, which leaves none where it was (Sattolo 1986).  Of a few units there are a few orders only
    (two can but be swapped), and atoms that only a wrong plan tells apart would get the same one: each of them has a number,
    whose digits to the base of how many orders there are say which order it gets in which draw; 0 leaves it as it is.
    """
    generator = torch.Generator().manual_seed(seed)
    few = {size: [name for name, one in sizes.items() if one == size] for size in range(2, FEW + 1)}
    count = 2 if any(few.values()) else 1
    for size, names in few.items():
        while math.factorial(size) ** count <= len(names):
            count += 1
    draws = [{name: _cycle(size, generator) for name, size in sizes.items() if size > FEW} for _ in range(count)]
    for size, names in few.items():
        orders = [torch.tensor(order) for order in itertools.permutations(range(size))]
        numbers = torch.randperm(len(orders) ** count - 1, generator=generator)[: len(names)] + 1
        for name, number in zip(names, numbers.tolist(), strict=True):
            for place, draw in enumerate(draws):
                draw[name] = orders[number // len(orders) ** place % len(orders)]
    return draws


def _moving(draws: Sequence[Permutations], name: str) -> Tensor:
    """An order of an atom's units that is not the one they have."""
    return next(draw[name] for draw in draws if not torch.equal(draw[name], torch.arange(len(draw[name]))))


def _cycle(size: int, generator: torch.Generator) -> Tensor:
    cycle = torch.randperm(size, generator=generator)
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(-1)
    return order


class Trial:
    """A module on healthy weights, run with its atoms renumbered.

    Attributes:
        places: for each atom, the axes that it is on.
        outputs: of the module as it is.
        scales: largest number of each of them.
        allowed: the largest relative difference that counts as none so far.
    """

    def __init__(self, patient: Patient, plan: Plan) -> None:
        self.patient, self.whole = patient, plan.whole
        names, tensors = tied(patient.module), dict(named_tensors(patient.module))
        self.axes: dict[str, tuple[Axis, ...]] = {}
        self.places: dict[str, list[Place]] = {}
        for name, axes in plan.tensors.items():
            if name not in names:
                raise SupernetError(f"the plan has a tensor {name!r}, and {type(patient.module).__name__} has none")
            self.axes[names[name]] = axes
            for dim, axis in enumerate(axes):
                for atom in dict.fromkeys(parts.atoms(axis)):
                    self.places.setdefault(atom, []).append(Place(names[name], dim, atom))
        self.tensors = {name: tensors[name] for name in self.axes}
        self._buffers = dict(patient.buffers)
        self.outputs = patient.first
        self.scales = [_largest(one) for one in self.outputs]
        double = patient.dtype == torch.float64 and not patient.single
        self.dtype = patient.dtype if double or patient.dtype != torch.float64 else torch.float32
        self.allowed, self._explained = TOLERANCE[double], False

    def error(self, permutations: Permutations, only: Container[Place] | None = None) -> float:
        """The largest relative difference of an output where atoms are renumbered: everywhere, or in some places only."""
        orders = {}
        for name, axes in self.axes.items():
            for dim, axis in enumerate(axes):
                chosen = {
                    atom: permutations[atom]
                    for atom in parts.atoms(axis)
                    if atom in permutations and (only is None or Place(name, dim, atom) in only)
                }
                if chosen:
                    orders[name, dim] = parts.permuted(axis, self.whole, chosen)
        try:
            self._renumber(orders)
            return self.distance(self.patient.outputs())
        finally:
            self._renumber({at: order.argsort() for at, order in orders.items() if at[0] not in self._buffers})
            self.patient.buffers.update(self._buffers)

    @torch.no_grad()
    def _renumber(self, orders: Mapping[tuple[str, int], Tensor]) -> None:
        """In place: what keeps a parameter elsewhere, as recurrent layers do, sees it."""
        for (name, dim), order in orders.items():
            if name in self._buffers:
                before = self.patient.buffers[name]
                self.patient.buffers[name] = before.index_select(dim, order.to(before.device))
            else:
                tensor = self.tensors[name].detach()
                tensor.copy_(tensor.index_select(dim, order.to(tensor.device)))

    def distance(self, others: Sequence[Tensor]) -> float:
        """How far outputs are from those of the module as it is: largest difference relative to the largest number."""
        if len(others) != len(self.outputs):
            return math.inf
        return max(
            (
                largest_difference(one, other) / (scale or 1.0)
                for one, other, scale in zip(self.outputs, others, self.scales, strict=True)
            ),
            default=0.0,
        )

    def differs(self, error: float) -> bool:
        """Is it more than rounding explains?  What that is, is measured when it is first needed."""
        if self.allowed < error <= MOST and not self._explained:
            self._explained = True
            self.allowed = max(self.allowed, min(MOST, self._rounding()))
        return error > self.allowed

    def _rounding(self) -> float:
        """What another order of the sums changes, relative to the outputs."""
        self.patient.reset()
        module, inputs = self.patient.module, self.patient.inputs
        if self.dtype != self.patient.dtype:
            module = with_tensors(module, {name: _in(one, self.dtype) for name, one in named_tensors(module)})
            inputs = tree_map(lambda leaf: _in(leaf, self.dtype) if isinstance(leaf, Tensor) else leaf, inputs)
        allowed = rounding(_Called(module), (inputs,))
        return max((one / size for one, size in zip(allowed, self.scales, strict=True) if size), default=0.0)


def _in(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()


class _Called(nn.Module):
    """A module that is called with one argument: its positional and keyword arguments."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: tuple[tuple[object, ...], dict[str, object]]) -> list[Tensor]:
        return outputs_of(self.module, inputs)


def _largest(tensor: Tensor) -> float:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 1.0
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.abs().max()) if finite.numel() else 0.0


# -- what outputs depend on


def _sensitivity(
    trial: Trial, atoms: Sequence[str], permutations: Permutations
) -> tuple[dict[str, str], tuple[Place, ...]]:
    """Atoms of which no place shows in the outputs, with the reason, and the places that do not of the others."""
    shown, unshown = _by_gradient(trial, permutations), {}
    suspects: list[Place] = []
    for atom in atoms:
        places = trial.places[atom]
        if shown.isdisjoint(places) and not any(_shows(trial, permutations, place) for place in places[:ALONE]):
            where = ", ".join(dict.fromkeys(repr(place.tensor) for place in places[:3]))
            unshown[atom] = f"not shown: no output depends on the order of its units in {where}, with this example"
        else:
            suspects += [
                place
                for place in places
                if place not in shown and isinstance(trial.tensors[place.tensor], nn.Parameter)
            ]
    return unshown, tuple(_silent(trial, permutations, suspects))


def _silent(trial: Trial, permutations: Permutations, suspects: Sequence[Place]) -> list[Place]:
    """Places that show nothing together with others: by halving, as far as a few runs go."""
    found, groups = set[Place](), [list(suspects)] if suspects else []
    for _ in range(HALVINGS):
        if not groups:
            break
        group = groups.pop(0)
        if not trial.differs(trial.error(permutations, set(group))):
            found.update(group)
        elif len(group) > 1:
            groups += [group[: len(group) // 2], group[len(group) // 2 :]]
    return [place for place in suspects if place in found]


def _shows(trial: Trial, permutations: Permutations, place: Place) -> bool:
    """Does renumbering an atom in one place alone change an output?"""
    try:
        return trial.differs(trial.error({place.atom: permutations[place.atom]}, {place}))
    except Exception:  # the module checks what it is given, and notices
        return True


def _by_gradient(trial: Trial, permutations: Permutations) -> set[Place]:
    """Places where renumbering an atom in that place alone changes outputs, in linear approximation: one backward for all."""
    found: set[Place] = set()
    tensors = {name: tensor for name, tensor in trial.tensors.items() if isinstance(tensor, nn.Parameter)}
    flags = {name: tensor.requires_grad for name, tensor in tensors.items()}
    trial.patient.reset()
    try:
        for tensor in tensors.values():
            tensor.requires_grad_(True)
        with torch.enable_grad():
            outputs = outputs_of(trial.patient.module, trial.patient.inputs)
            loss = torch.stack([_projected(one) for one in outputs if one.requires_grad]).sum()
            gradients = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
    except Exception:  # not differentiable: each place is looked at by itself
        return found
    finally:
        for name, tensor in tensors.items():
            tensor.requires_grad_(flags[name])
    size = sum(scale * math.sqrt(one.numel()) for scale, one in zip(trial.scales, trial.outputs, strict=True))
    for (name, tensor), gradient in zip(tensors.items(), gradients, strict=True):
        for dim, axis in enumerate(trial.axes[name]) if gradient is not None else ():
            for atom in dict.fromkeys(parts.atoms(axis)):
                if atom in permutations:
                    order = parts.permuted(axis, trial.whole, {atom: permutations[atom]}).to(tensor.device)
                    moved = tensor.detach().index_select(dim, order) - tensor.detach()
                    if abs(torch.sum(gradient.conj() * moved).item()) > 10 * trial.allowed * size:
                        found.add(Place(name, dim, atom))
    return found


def _projected(output: Tensor) -> Tensor:
    """The sum of an output's numbers with random signs."""
    generator = torch.Generator().manual_seed(output.numel())
    signs = torch.randint(0, 2, output.shape, generator=generator).to(output.device) * 2 - 1
    real = torch.view_as_real(output).sum(-1) if output.is_complex() else output
    return torch.where(real.isfinite(), real, torch.zeros_like(real)).double().mul(signs).sum()
