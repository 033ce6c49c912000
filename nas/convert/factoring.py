"""Which layers of a model may be two factors, of which ranks, and the proof that the model takes two in the place of one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nas.convert.calls import Called
from nas.convert.decisions import shared
from nas.convert.factors import CONVOLUTIONS, set_values, two
from nas.convert.healthy import Patient, healthy_copy, too_large
from nas.convert.permuting import guilty
from nas.convert.plan import AtomPlan, Decision, Factors, Plan
from nas.convert.proofs import distance
from nas.convert.report import Proof
from nas.errors import SpaceError, SupernetError, brief
from nas.supernet import low_rank
from nas.supernet.inputs import Inputs
from nas.supernet.skeleton import parameters_of, quiet

FACTORED = "two factors in the place of each layer, in the model itself"
QUARTERS = (0.25, 0.5, 0.75)
"""Of the rank at which two factors cost what one layer does: the ranks that are offered unless some are given."""
ALIKE = {torch.float64: 1e-9}
"""Largest difference that counts as none, relative to the largest output; `CLOSE` in other types."""
CLOSE = 1e-4


@dataclass
class Factoring:
    """What was found.

    Attributes:
        plan: with the decisions about ranks.
        whole: layers that stay as they are -> why.
        proof: that the model takes two factors; None where nothing was proved.
        skipped: why it was not; "" where it was.
    """

    plan: Plan
    whole: Mapping[str, str]
    proof: Proof | None
    skipped: str = ""

    def notes(self) -> list[str]:
        """A sentence for each reason."""
        names: dict[str, list[str]] = {}
        for name, why in self.whole.items():
            names.setdefault(why, []).append(name)
        return [f"no rank is decided of {_listed(some)}: {why}" for why, some in names.items()]


def with_ranks(
    model: nn.Module,
    plan: Plan,
    example: Inputs,
    ranks: bool | Sequence[float],
    *,
    wanted: Callable[[str], bool],
    calls: Mapping[str, Called],
    granule: int,
    share: str,
    check: bool,
) -> Factoring:
    """`plan` with a decision about the rank of each linear layer that may be two factors.

    Args:
        model: the user's own.
        plan: of it.
        example: inputs.
        ranks: True, or which: whole numbers, and shares of the full rank.
        wanted: says of a layer whether the user wants it elastic.
        calls: how modules were called in the example.
        granule: what ranks are multiples of, where there is room for that, unless they are given.
        share: as for widths.
        check: prove it.

    Raises:
        SpaceError: a rank is not one of any layer, or no layer may be two factors.
    """
    found, whole = _layers(model, calls, wanted)
    _check_ranks(ranks, found, model)
    offered = {name: tuple(_ranks(layer, ranks, granule)) for name, layer in found.items()}
    whole |= {name: "no such rank saves anything" for name, some in offered.items() if not some}
    offered = {name: some for name, some in offered.items() if some}
    proof, skipped = None, ""
    if check and offered:
        skipped = too_large(model)
        if not skipped:
            proof, failed = _proved(model, example, {name: found[name] for name in offered})
            whole |= failed
            offered = {name: some for name, some in offered.items() if name not in failed}
    if not offered:
        raise _none(model, whole)
    decisions = {one.name: one for one in plan.decisions}
    atoms, factors = dict(plan.atoms), []
    for name, some in offered.items():
        layer = found[name]
        decision = _decision(name, layer, some, share, decisions)
        atom = _unused(f"{name}.rank", atoms)
        atoms[atom] = AtomPlan(max(some), decision)
        factors.append(Factors(name, atom, layer.full, layer.transposed))
    made = replace(plan, decisions=tuple(decisions.values()), atoms=atoms, factors=tuple(factors))
    return Factoring(made, whole, proof, skipped)


@dataclass(frozen=True)
class _Layer:
    """A layer that computes what a matrix does."""

    inputs: int
    outputs: int
    transposed: bool

    @property
    def full(self) -> int:
        """The rank of a matrix of its size."""
        return min(self.inputs, self.outputs)


# -- which layers


def _layers(
    model: nn.Module, calls: Mapping[str, Called], wanted: Callable[[str], bool]
) -> tuple[dict[str, _Layer], dict[str, str]]:
    """Linear layers by name, and those that look like some -> why they stay whole."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    tied = {name for entry in parameters_of(model) if len(entry.names) > 1 for name in entry.names}
    found: dict[str, _Layer] = {}
    whole: dict[str, str] = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if not name or weight is None or not _is_matrix(module, weight) or isinstance(module, nn.Embedding):
            continue
        layer = _linear(module, weight)
        if layer is None:
            continue
        why = _hindrance(module, weight)
        if not wanted(name):
            why = "it was to stay whole"
        elif len(names[id(module)]) > 1:
            why = "it is at several places of the model"
        elif f"{name}.weight" in tied:
            why = "its weight is another layer's too"
        elif name not in calls:
            why = "it is not called for the example; the model may read its weight itself"
        if why:
            whole[name] = why
        else:
            found[name] = layer
    return found, whole


def _is_matrix(module: nn.Module, weight: nn.Parameter) -> bool:
    """Whether it may be a product with a matrix: a weight of two axes longer than 1, perhaps a bias, and nothing else."""
    own = {name for name, one in module._parameters.items() if one is not None}
    return (
        own <= {"weight", "bias"}
        and not any(one is not None for one in module._buffers.values())
        and not any(one is not None for one in module._modules.values())
        and weight.dim() >= 2
        and min(weight.shape[:2]) > 1
        and all(size == 1 for size in weight.shape[2:])
        and weight.is_floating_point()
    )


def _hindrance(module: nn.Module, weight: nn.Parameter) -> str:
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return "it has hooks"
    return "its weight is not strided" if weight.layout != torch.strided else ""


def _linear(module: nn.Module, weight: nn.Parameter) -> _Layer | None:
    """What a layer computes, if that is the product with its weight; found out by calling it where its class does not say."""
    if isinstance(module, _ConvNd):
        plain = type(module).forward in {kind.forward for kind in CONVOLUTIONS.values()}
        padded = not isinstance(module.padding, str) and any(module.padding)
        if not plain or padded or module.groups != 1 or isinstance(module, _ConvTransposeNd):
            return None
        return _Layer(weight.shape[1], weight.shape[0], transposed=False)
    if weight.dim() != 2:
        return None
    if type(module).forward is nn.Linear.forward:
        return _Layer(weight.shape[1], weight.shape[0], transposed=False)
    for transposed in (False, True):
        if _behaves(module, transposed=transposed):
            outputs, inputs = low_rank.matrix(weight, transposed=transposed).shape
            return _Layer(inputs, outputs, transposed)
    return None


def _behaves(module: nn.Module, *, transposed: bool) -> bool:
    """Whether the layer gives the product with its weight and adds its bias, in both modes, and more than once."""
    try:
        with quiet(0), torch.no_grad():
            trial = copy.deepcopy(module).to_empty(device="cpu").double()
            for one in trial.parameters():
                one.copy_(torch.randn(one.shape, dtype=one.dtype))
            weight: Any = low_rank.matrix(trial.weight, transposed=transposed)  # type: ignore[arg-type]
            inputs = torch.randn(2, 3, weight.shape[1], dtype=torch.float64)
            wanted = functional.linear(inputs, weight, getattr(trial, "bias", None))
            given = [trial.train(training)(inputs) for training in (True, False, True, False)]
    except Exception:  # of any kind: it is some other layer
        return False
    return all(isinstance(one, Tensor) and one.shape == wanted.shape and torch.allclose(one, wanted) for one in given)


# -- of which ranks


def _check_ranks(ranks: bool | Sequence[float], found: Mapping[str, _Layer], model: nn.Module) -> None:
    if isinstance(ranks, bool):
        return
    if not ranks or any(isinstance(one, bool) or one <= 0 or (one >= 1 and one != int(one)) for one in ranks):
        raise SpaceError(
            f"rank={tuple(ranks)} is True, or a sequence of ranks (16, 32) and of shares of the full rank below 1 (0.25, 0.5)"
        )
    most = max((layer.full for layer in found.values()), default=math.inf)
    above = [one for one in ranks if one > most]
    if above:
        raise SpaceError(
            f"rank={above[0]} is above the full rank of every layer of {type(model).__name__}, at most {most}"
        )


def _ranks(layer: _Layer, ranks: bool | Sequence[float], granule: int) -> list[int]:
    """Rising ranks that save operations."""
    most = low_rank.largest_saving(layer.inputs, layer.outputs)
    if ranks is True:
        step = granule
        while step > 1 and most // step < 2 * len(QUARTERS):
            step = max(step // 2, 1)
        asked = [round(share * (most + 1) / step) * step for share in QUARTERS]
    else:
        assert not isinstance(ranks, bool)
        asked = [int(one) if one >= 1 else round(one * layer.full) for one in ranks]
    return sorted({one for one in asked if 1 <= one <= most})


def _decision(name: str, layer: _Layer, some: tuple[int, ...], share: str, decisions: dict[str, Decision]) -> str:
    """Name of the decision about a layer's rank, which is made where there is none that it shares."""
    choices = (*some, layer.full)
    wanted = shared(f"{name}.rank", share)
    for together in (wanted, f"{wanted}_{layer.full}"):
        known = decisions.get(together)
        if known is None or (known.kind, known.choices) == ("rank", choices):
            break
    else:
        together = f"{name}.rank"
    decisions.setdefault(together, Decision(together, "rank", layer.full, choices))
    return together


def _unused(name: str, taken: Iterable[str]) -> str:
    number, found = 2, name
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found


# -- whether the model takes them


def _proved(model: nn.Module, example: Inputs, layers: Mapping[str, _Layer]) -> tuple[Proof, dict[str, str]]:
    """The model with each layer as two, of the full rank, one of which is a unit matrix: it must compute the same."""
    try:
        patient = healthy_copy(model, example)
    except SupernetError as error:
        raise SpaceError(f"{error}; check=False converts it without proof") from error
    allowed = ALIKE.get(patient.dtype, CLOSE) if not patient.single else CLOSE
    worst, count, reasons = 0.0, 0, dict[str, str]()

    def breaks(some: Sequence[str]) -> float:
        nonlocal worst, count
        count += 1
        try:
            far = distance(patient.first, _with_two(patient, {name: layers[name] for name in some}))
        except Exception as error:  # of the user's code, which reads what a layer has
            reasons[some[-1]] = f"{type(error).__name__}: {brief(error, 120)}"
            return math.inf
        if far > allowed:
            return far
        worst = max(worst, far)
        return 0.0

    failed = {
        name: (
            f"as two factors the model fails ({reasons.get(name, 'outputs of another form')})"
            if math.isinf(far)
            else f"as two factors the output is off by {far:.1g} of its size"
        )
        for name, far in guilty(list(layers), breaks).items()
    }
    return Proof(FACTORED, worst, count), failed


def _with_two(patient: Patient, layers: Mapping[str, _Layer]) -> list[Tensor]:
    """The outputs of the patient's module with these layers as two."""
    modules = dict(patient.module.named_modules())
    places = {name: (modules[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in layers}
    try:
        for name, (owner, leaf) in places.items():
            owner._modules[leaf] = _unit_factors(modules[name], layers[name])
        return patient.outputs()
    finally:
        for name, (owner, leaf) in places.items():
            owner._modules[leaf] = modules[name]


@torch.no_grad()
def _unit_factors(module: nn.Module, layer: _Layer) -> nn.Module:
    """The layer as two of its full rank: the product of its matrix with a unit matrix, on the smaller side."""
    made = two(module, layer.full, transposed=layer.transposed)
    weight = low_rank.matrix(cast("Tensor", module.weight), transposed=layer.transposed)
    unit = torch.eye(layer.full, dtype=weight.dtype, device=weight.device)
    first, second = (unit, weight) if layer.inputs <= layer.outputs else (weight, unit)
    set_values(made, first, second, getattr(module, "bias", None))
    return made


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _none(model: nn.Module, whole: Mapping[str, str]) -> SpaceError:
    name, why = next(iter(whole.items()), ("", ""))
    if not name:
        return SpaceError(
            f"{type(model).__name__} has no linear layer and no convolution with kernels of one pixel, whose rank could be "
            "decided; leave rank= out"
        )
    return SpaceError(f"no layer of {type(model).__name__} may be two factors: {name!r} is whole, since {why}")
