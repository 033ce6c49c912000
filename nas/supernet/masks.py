"""The largest arch with some of its weights at zero, in the place of a subnet: what gates of decisions are made of.

An option of a decision is a mask for some parameters of the largest arch, and an arch is the product of the masks of its options.
Only what reads a narrower axis is masked: with a mask on what writes it as well, a gradient of growing it would be a product of
two zeros.  A block that is left out has zeros in the parameters of its last layer alone, for the same reason; behind a residual
connection it then adds nothing.

Whether that equals the subnet is not a matter of rules: it is tried, decision by decision, on random weights.  A layer
normalisation along a narrower axis sees the whole one, a residual connection that a width switches on is not there, another
operation has parameters of its own: such decisions are told with what was found.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas.errors import Infeasible, NasError
from nas.supernet.calibration import own_statistics
from nas.supernet.inputs import Inputs, arguments, convert, tensors_in

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.supernet.binding import Binding
    from nas.supernet.supernet import Supernet

Mask = Mapping[str, Tensor]
"""Parameter of the largest arch -> 1 where it counts, 0 elsewhere; broadcasts to its shape."""
CLOSE = 1e-5
"""Of the largest output, in float64: far more than roundings are."""
_TOGETHER = 16  # random archs whose masks are tried together


@dataclass(frozen=True)
class Masks:
    """The options of a space's decisions as masks of the largest arch.

    Attributes:
        of: decision -> option -> its mask; options that mask nothing have an empty one.
        unfit: name of each decision that has no masks -> why.
    """

    supernet: Supernet
    of: dict[int, dict[int, Mask]] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)

    @property
    def binding(self) -> Binding:
        """The largest arch, on the supernet's weights."""
        return self.supernet.bind(self.supernet.space.largest)

    def arch(self, arch: Arch) -> dict[str, Tensor]:
        """The mask of an arch: the product of those of its active decisions."""
        return product([self.of[p][gene] for p, gene in enumerate(arch.genome) if gene is not None and p in self.of])

    def call(self, inputs: Inputs, weights: Mapping[str, Tensor]) -> Any:
        """Output of the largest arch with `weights` in the place of its own; normalisations see the batch's statistics."""
        binding = self.binding
        aliases = {name: tensor for names in aliases_of(binding) for name, tensor in _spread(names, weights)}
        positional, keywords = arguments(inputs)
        with own_statistics(binding):
            return functional_call(binding.module, aliases, positional, keywords, tie_weights=False)

    def weights(self) -> dict[str, Tensor]:
        """The parameters of the largest arch by their first name, detached."""
        cut = self.supernet.cut(self.supernet.space.largest)
        return {names[0]: cut[names[0]].detach() for names in aliases_of(self.binding)}


def aliases_of(binding: Binding) -> list[list[str]]:
    """Names of each parameter, several where it is tied."""
    return [names for names, _ in binding.entries]


def _spread(names: Sequence[str], weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((name, weights[names[0]]) for name in names)


def product(masks: Sequence[Mask]) -> dict[str, Tensor]:
    """Of the masks that name a parameter, for each parameter that one names."""
    found: dict[str, Tensor] = {}
    for mask in masks:
        for name, tensor in mask.items():
            found[name] = found[name] * tensor if name in found else tensor
    return found


def masked(weights: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
    """`weights` where the mask says so multiplied by it."""
    return {name: tensor * mask[name] if name in mask else tensor for name, tensor in weights.items()}


@torch.no_grad()
def masks_of(supernet: Supernet, inputs: Inputs, seed: int = 0) -> Masks:
    """Masks for every decision whose options equal their subnets, each by itself and some together; the others with a reason.

    Looks at every option of every decision once, on random weights in float64.

    Args:
        supernet: is left as it is.
        inputs: of a few samples.
        seed: of the random weights and of the archs that are tried together.
    """
    trial = Masks(_random(supernet, seed))
    inputs = convert(inputs, lambda one: one.double() if one.is_floating_point() else one)
    space, largest = supernet.space, supernet.space.largest
    for p, decision in enumerate(space.decisions):
        point = decision.point
        if point.range is None and len(point.distinct_candidates) < 2:
            continue
        why = "it is a number" if point.range is not None else "its slots depend on each other" if point.group else ""
        if not why and largest.genome[p] is None:
            why = "the largest arch does not have it"
        if not why:
            why = _take(trial, p, inputs)
        if why:
            trial.of.pop(p, None)
            trial.unfit[decision.name] = why
    _together(trial, inputs, seed)
    return Masks(supernet, _like(trial.of, supernet), trial.unfit)


def _random(supernet: Supernet, seed: int) -> Supernet:
    """A copy with weights that hide nothing: no zeros, as norms and last layers begin with, and no ones."""
    found = copy.deepcopy(supernet).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in found.parameters():
        if parameter.is_floating_point():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = max(1.0, parameter[0].numel() if parameter.ndim > 1 else 1.0) ** -0.5
            parameter.copy_(drawn.to(parameter.device) * scale)
    found.trained = True
    return found.eval()


def _take(trial: Masks, p: int, inputs: Inputs) -> str:
    """Makes the masks of decision `p`, and why they are none: "" where all equal their subnets."""
    space, largest = trial.supernet.space, trial.supernet.space.largest
    trial.of[p] = {}
    for option in space.decisions[p].point.distinct_candidates:
        near = space.replaced(largest, p, option)
        if near is None or any(
            a != b for q, (a, b) in enumerate(zip(near.genome, largest.genome, strict=True)) if _moved(q, p, b, a)
        ):
            return f"no arch differs from the largest in {space.decisions[p].labels[option]} alone"
        try:
            trial.of[p][option] = _mask(trial, near)
        except Infeasible:
            return f"{space.decisions[p].labels[option]} cannot be built beside the largest options of the others"
        except NasError as error:
            return f"{space.decisions[p].labels[option]} is no part of the largest arch ({error})"
        if gap := _gap(trial, near, inputs):
            return f"{space.decisions[p].labels[option]} computes something else than the largest arch with masks{gap}"
    return ""


def _moved(q: int, p: int, before: Any, after: Any) -> bool:
    """Whether another decision has another option; one that is not there any more has none."""
    return q != p and after is not None and after != before


def _mask(trial: Masks, arch: Arch) -> Mask:
    """What makes the largest arch compute what `arch` does, as far as rules tell."""
    binding, small = trial.binding, trial.supernet.bind(arch)
    shared = trial.supernet._shared
    kept = {shared.name_of(names, shape): shape for names, shape in small.entries}
    found: dict[str, Tensor] = {}
    absent: list[str] = []
    for names, shape in binding.entries:
        name = shared.name_of(names, shape)
        if name not in kept:
            absent.append(names[0])
        elif kept[name] != shape:
            whole = torch.zeros_like(shared.tensor(name))
            cut = shared.union.cut(name, small.shapes)
            for window in cut.windows(whole, kept[name]):
                window.fill_(1)
            cut = shared.union.cut(name, binding.shapes)
            part = cut.join(cut.sources(whole, shape), whole.shape, shape, {})
            reader = part.amax(0, keepdim=True) if part.ndim > 1 else torch.ones_like(part)
            if not bool(reader.all()):
                found[names[0]] = reader
    for name in _last(binding.module, absent):
        found[name] = torch.zeros_like(binding.module.get_parameter(name))
    return found


def _last(module: nn.Module, absent: Sequence[str]) -> list[str]:
    """Of each block that is left out as a whole, the parameters of its last layer."""
    lost = {*absent}
    found: list[str] = []

    def walk(prefix: str, inner: nn.Module) -> None:
        names = [f"{prefix}{name}" for name, _ in inner.named_parameters(remove_duplicate=False)]
        if names and lost.issuperset(names):
            owners = [
                f"{prefix}{name}"
                for name, one in inner.named_modules()
                if any(True for _ in one.parameters(recurse=False))
            ]
            last = owners[-1].rstrip(".")
            found.extend(name for name in names if name.rpartition(".")[0] == last)
            return
        for name, child in inner.named_children():
            walk(f"{prefix}{name}.", child)

    if lost:
        walk("", module)
    return found


def _gap(trial: Masks, arch: Arch, inputs: Inputs) -> str:
    """ "" where the masked largest arch computes what the subnet does; else by how much it does not."""
    binding = trial.supernet.bind(arch)
    positional, keywords = arguments(inputs)
    with own_statistics(binding):
        expected = binding.module(*positional, **keywords)
    got = trial.call(inputs, masked(trial.weights(), trial.arch(arch)))
    for one, other in zip(tensors_in(expected), tensors_in(got), strict=True):
        if one.shape != other.shape:
            return f" (outputs of shape {tuple(one.shape)}, not {tuple(other.shape)})"
        apart, most = float((one - other).double().abs().max()), float(one.double().abs().max())
        if not apart <= CLOSE * most:
            return f" (outputs differ by {apart / max(most, 1e-300):.2g} of the largest)"
    return ""


def _together(trial: Masks, inputs: Inputs, seed: int) -> None:
    """Gives up masks of decisions until random archs of those that are left equal the product of their masks."""
    space, draw, tries = trial.supernet.space, random.Random(seed), 0
    while trial.of and tries < _TOGETHER:
        arch = _arch(trial, {p: _narrow(options, draw) for p, options in trial.of.items()})
        gap = "" if arch is None else _gap(trial, arch, inputs)
        tries = 0 if gap else tries + 1
        if not gap or arch is None:
            continue
        why = f"its masks and those of others together are not the subnet of {arch.choices}{gap}"
        alone = [p for p in trial.of if arch.genome[p] not in (None, space.largest.genome[p])]
        blamed = [p for p in alone if _fits(trial, {q: gene for q, gene in enumerate(arch.genome) if q != p}, inputs)]
        for p in blamed[:1] or list(trial.of):
            del trial.of[p]
            trial.unfit[space.decisions[p].name] = why


def _narrow(options: Mapping[int, Mask], draw: random.Random) -> int:
    """An option; one that masks something rather than one that does not, so that many meet in an arch."""
    narrow = [option for option, mask in options.items() if mask]
    return draw.choice(narrow if narrow and draw.random() < 0.75 else list(options))


def _fits(trial: Masks, genes: Mapping[int, Any], inputs: Inputs) -> bool:
    """Whether the arch of these options, the largest's elsewhere, equals the product of its masks."""
    arch = _arch(trial, genes)
    return arch is not None and not _gap(trial, arch, inputs)


def _arch(trial: Masks, genes: Mapping[int, Any]) -> Arch | None:
    """The arch of these options of decisions with masks, the largest's elsewhere; None where it cannot be built."""
    space = trial.supernet.space
    genome = list(space.largest.genome)
    for p in trial.of:
        genome[p] = genes.get(p, genome[p])
    arch = space.repair([0 if gene is None else gene for gene in genome])
    return arch if space.allows(arch) and trial.supernet.has(arch) else None


def _like(of: Mapping[int, Mapping[int, Mask]], supernet: Supernet) -> dict[int, dict[int, Mask]]:
    """The masks with the weights' types and places."""
    weights = supernet.cut(supernet.space.largest)
    return {
        p: {
            option: {name: tensor.to(weights[name].device, weights[name].dtype) for name, tensor in mask.items()}
            for option, mask in options.items()
        }
        for p, options in of.items()
    }
