"""Decisions relaxed: one network in which each option of a decision has a share, and that is the subnet where one has all of it.

Gates are derivatives by the shares of a subnet (ProxylessNAS: Cai et al. 2019), and the mixture of all options has shares of all
(DARTS: Liu et al. 2019).  What makes such a network of a space differs: the largest arch with masks (`nas.supernet.masks`), or a
network that the model gives (`nas.supernet.mixtures`).  Whether it equals the subnet is not a matter of rules: it is tried,
decision by decision and then together, on random weights.  A decision that fails is told with what was found, and is not
relaxed: where an arch has a smaller option of one, the network is that of this option.
"""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from nas.errors import Infeasible, NasError
from nas.supernet.calibration import own_statistics
from nas.supernet.inputs import Inputs, arguments, convert, tensors_in

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.supernet.supernet import Supernet

Shares = Mapping[int, Tensor]
"""Decision -> (options,) the share of each."""
CLOSE = 1e-5
"""Of the largest output, in float64: far more than roundings are."""
_TOGETHER = 16  # random archs that are tried in a row


class Relaxation(ABC):
    """One network for all options of the decisions of a space that are relaxed.

    Attributes:
        supernet: whose weights it has.
        relaxed: decisions whose options have shares.
        unfit: name of each other decision with several options -> why it has none.
    """

    called: ClassVar[str]
    """What the network is."""

    def __init__(self, supernet: Supernet, relaxed: Sequence[int] = (), unfit: Mapping[str, str] | None = None) -> None:
        self.supernet = supernet
        self.relaxed = list(relaxed)
        self.unfit = dict(unfit or {})

    @abstractmethod
    def output(self, whole: Arch, inputs: Inputs, shares: Shares, *, learning: bool = False) -> Any:
        """Output of the network of `whole`, differentiable by the shares; normalisations see the batch's statistics.

        Args:
            whole: from `Relaxation.whole`.
            inputs: of the model.
            shares: of relaxed decisions; others have the option of `whole`.
            learning: gradients reach the supernet's weights, too, and dropout drops.
        """

    def has(self, whole: Arch, decision: int) -> bool:  # noqa: ARG002
        """Whether the network of `whole` has all options of a relaxed decision that is active in it."""
        return True

    def whole(self, arch: Arch) -> Arch:
        """The arch with the largest option of every relaxed decision, which has all of them; others stay."""
        top = self.supernet.space.largest.genome
        mixed = {*self.relaxed}
        own = [
            large if gene is None or p in mixed else gene
            for p, (gene, large) in enumerate(zip(arch.genome, top, strict=True))
        ]
        return self.supernet.space.repair([0 if gene is None else gene for gene in own])

    def sharp(self, arch: Arch) -> dict[int, Tensor]:
        """All of each active relaxed decision's share for the option of `arch`: what makes the network the subnet."""
        whole = self.whole(arch)
        if not self.supernet.has(whole):
            return {}
        found = {}
        for p in self.relaxed:
            gene = arch.genome[p]
            if gene is not None and whole.genome[p] is not None and self.has(whole, p):
                width = len(self.supernet.space.decisions[p].point.canonical)
                found[p] = one_hot(gene, width)
        return found


def one_hot(option: int, width: int) -> Tensor:
    """(width,) float64 1 for one option."""
    return functional.one_hot(torch.tensor(option), width).double()


R = TypeVar("R", bound=Relaxation)


@torch.no_grad()
def tried(kind: type[R], supernet: Supernet, inputs: Inputs, seed: int = 0) -> R:
    """A relaxation of every decision whose options equal their subnets, each by itself and some together.

    Looks at every option of every decision once, on random weights in float64.

    Args:
        kind: of the relaxation.
        supernet: is left as it is.
        inputs: of a few samples.
        seed: of the random weights and of the archs that are tried together.
    """
    trial = kind(_random(supernet, seed))
    inputs = convert(inputs, lambda one: one.double() if one.is_floating_point() else one)
    largest = supernet.space.largest
    for p, decision in enumerate(supernet.space.decisions):
        point = decision.point
        if point.range is None and len(point.distinct_candidates) < 2:
            continue
        why = "it is a number" if point.range is not None else "its slots depend on each other" if point.group else ""
        if not why and largest.genome[p] is None:
            why = "the largest arch does not have it"
        if not why:
            trial.relaxed.append(p)
            why = _alone(trial, p, inputs)
        if why:
            _give_up(trial, p, why)
    _together(trial, inputs, seed)
    return kind(supernet, trial.relaxed, trial.unfit)


def _give_up(trial: Relaxation, p: int, why: str) -> None:
    if p in trial.relaxed:
        trial.relaxed.remove(p)
    trial.unfit[trial.supernet.space.decisions[p].name] = why


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


def _alone(trial: Relaxation, p: int, inputs: Inputs) -> str:
    """Why decision `p` cannot be relaxed: "" where each of its options, beside the largest of the others, equals its subnet."""
    space, largest = trial.supernet.space, trial.supernet.space.largest
    for option in space.decisions[p].point.distinct_candidates:
        label = space.decisions[p].labels[option]
        near = only(trial.supernet, largest, p, option)
        if near is None:
            return f"no arch differs from the largest in {label} alone"
        try:
            gap = _gap(trial, near, inputs)
        except Infeasible:
            return f"{label} cannot be built beside the largest options of the others"
        except NasError as error:
            return f"{label} is no part of the largest arch ({error})"
        if gap:
            return f"{label} computes something else than {trial.called}{gap}"
    return ""


def only(supernet: Supernet, arch: Arch, p: int, option: int) -> Arch | None:
    """`arch` with another option of one decision and of no other; None where there is none."""
    near = supernet.space.replaced(arch, p, option)
    if near is None or any(
        a != b for q, (a, b) in enumerate(zip(near.genome, arch.genome, strict=True)) if q != p and a is not None
    ):
        return None
    return near


def _gap(trial: Relaxation, arch: Arch, inputs: Inputs) -> str:
    """ "" where the relaxed network computes what the subnet does; else by how much it does not."""
    binding = trial.supernet.bind(arch)
    positional, keywords = arguments(inputs)
    with own_statistics(binding):
        expected = binding.module(*positional, **keywords)
    got = trial.output(trial.whole(arch), inputs, trial.sharp(arch))
    for one, other in zip(tensors_in(expected), tensors_in(got), strict=True):
        if one.shape != other.shape:
            return f" (outputs of shape {tuple(one.shape)}, not {tuple(other.shape)})"
        apart, most = float((one - other).double().abs().max()), float(one.double().abs().max())
        if not apart <= CLOSE * most:
            return f" (outputs differ by {apart / max(most, 1e-300):.2g} of the largest)"
    return ""


def _together(trial: Relaxation, inputs: Inputs, seed: int) -> None:
    """Gives up decisions until random archs equal the relaxed network, whatever the decisions are that are not relaxed."""
    space, draw, tries = trial.supernet.space, random.Random(seed), 0
    while trial.relaxed and tries < _TOGETHER:
        arch = _arch(trial, space.sample(draw), {p: _narrow(trial, p, draw) for p in trial.relaxed})
        gap = "" if arch is None else _gap(trial, arch, inputs)
        tries = 0 if gap else tries + 1
        if not gap or arch is None:
            continue
        why = f"its options and those of others together are not the subnet of {arch.choices}{gap}"
        alone = [p for p in trial.relaxed if arch.genome[p] not in (None, space.largest.genome[p])]
        blamed = [p for p in alone if _fits(trial, arch, p, inputs)]
        for p in blamed[:1] or list(trial.relaxed):
            _give_up(trial, p, why)


def _narrow(trial: Relaxation, p: int, draw: random.Random) -> int:
    """An option; one that is not the largest rather than that one, so that many meet in an arch."""
    space = trial.supernet.space
    options = space.decisions[p].point.distinct_candidates
    narrow = [option for option in options if option != space.largest.genome[p]]
    return draw.choice(narrow if draw.random() < 0.75 else list(options))


def _fits(trial: Relaxation, arch: Arch, p: int, inputs: Inputs) -> bool:
    """Whether `arch` with the largest option of decision `p` equals the relaxed network."""
    near = _arch(trial, arch, {p: trial.supernet.space.largest.genome[p]})
    return near is not None and not _gap(trial, near, inputs)


def _arch(trial: Relaxation, arch: Arch, genes: Mapping[int, Any]) -> Arch | None:
    """`arch` with other options of relaxed decisions; None where it or the network for it cannot be built."""
    space = trial.supernet.space
    top = space.largest.genome
    own = [large if gene is None else gene for gene, large in zip(arch.genome, top, strict=True)]
    for p, gene in genes.items():
        own[p] = gene
    found = space.repair([0 if gene is None else gene for gene in own])
    if not space.allows(found):
        return None
    return found if trial.supernet.has(found) and trial.supernet.has(trial.whole(found)) else None
