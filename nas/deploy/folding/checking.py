"""A network with fewer layers and the same outputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nas.checking import checked
from nas.convert.capture import Capture, capture
from nas.deploy.folding.layers import Undo, Unmerged, undo_all
from nas.deploy.folding.plan import Merge, plan
from nas.deploy.probes import probes
from nas.errors import DeployError, SpaceError, suggest, text_of
from nas.supernet import Inputs
from nas.supernet.inputs import call, has_batch, plain, tensors_in
from nas.supernet.rounding import Gap, largest_difference, rounding

_SHOWN = 4
_ASLEEP = 1e-3
"""Parameters all below this are taken for the scale of a block that does next to nothing yet."""


@dataclass(frozen=True)
class Folded:
    """A network whose layers have been merged where that leaves its outputs as they are.

    Attributes:
        module: a copy of the user's class in eval mode, with `nn.Identity` in the place of what was merged into a layer, or with
            `nn.Sequential` in that of a norm that calls other modules, such as its activation.
        merged: path of each module that is gone -> paths of the layers that it went into.
        left: path of each module that was not merged -> why not.
        difference: largest absolute difference of the outputs, which rounding explains.
    """

    module: nn.Module = field(repr=False)
    merged: Mapping[str, tuple[str, ...]]
    left: Mapping[str, str]
    difference: float

    def __str__(self) -> str:
        done = [f"{gone} into {' and '.join(into)}" for gone, into in self.merged.items()]
        stay = [f"{path} stays: {reason}" for path, reason in self.left.items()]
        said = (
            f"folded {len(done)} layer{'s' * (len(done) > 1)} ({_some(done, ', ')})"
            if done
            else "nothing could be folded"
        )
        said += f"; outputs differ by at most {self.difference:.2g}" if done else ""
        return f"{said}; {_some(stay, '; ')}" if stay else said

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        merged = {gone: list(into) for gone, into in self.merged.items()}
        return {"merged": merged, "left": dict(self.left), "difference": self.difference}


@checked(DeployError)
def fold(module: nn.Module, example: Inputs, *, required: Sequence[str] = ()) -> Folded:
    """Merge layers of a trained network that compute the same as one: it is smaller and faster, and no longer to be trained.

    - A BatchNorm, or any module that in eval mode only scales and shifts channels (a re-parameterised norm, a layer scale, a
      blend of norms or an activation that a schedule has made so), goes into the convolution or linear layer before it, or into
      all the layers that read it.
    - Two linear layers, or two convolutions of which one has a kernel of one place, become one where that has fewer weights.

    They are found in the captured graph, not by names.  A merge is kept only if the outputs for the example, for noise like it,
    and for several samples of both stay within what rounding explains (`nas.supernet.rounding`); others are undone, and
    `Folded.left` says why.  Weights are computed in double precision.  Only `forward` on the branches that the example takes is
    looked at: not other methods that call the layers, and not inputs of other sizes for which a model does something else.
    Buffers are taken for what they are now.

    Args:
        module: ordinary, as `extract` gives.  It is left alone.
        example: inputs that it takes: a tensor, a tuple, or a mapping.
        required: paths of modules that must be merged.

    Raises:
        DeployError: the graph cannot be captured, a required module is not there or not merged, or outputs are not numbers.
    """
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise DeployError(
            f"{type(module).__name__} has tensors on the meta device, without values; load its weights first"
        )
    own, refused = copy.deepcopy(module).eval(), dict[Merge, str]()
    _check_required(own, required)
    awake = _awake(own)
    if awake is not None:
        with suppress(DeployError):  # it says so of the network itself
            _fold(awake, example, refused)
    folded, merged, left, difference = _fold(own, example, refused)
    for path in required:
        if path not in merged:
            raise DeployError(
                f"{path!r} cannot be folded: {left.get(path, 'it does not scale and shift, and follows no layer')}"
            )
    return Folded(folded, merged, left, difference)


def _fold(
    module: nn.Module, example: Inputs, refused: dict[Merge, str]
) -> tuple[nn.Module, dict[str, tuple[str, ...]], dict[str, str], float]:
    """As the attributes of `Folded`; `refused` gets the merges that would change outputs."""
    reference = _Reference(module, example)
    folded, merged = copy.deepcopy(module), dict[str, tuple[str, ...]]()
    while True:
        found = plan(folded, _captured(folded, example), refused)
        if not found.merges:
            left = {**found.left, **{merge.gone: reason for merge, reason in refused.items()}}
            return folded, merged, left, reference.gap(folded).absolute
        for merge in _applied(found.merges, reference, folded, refused):
            merged[merge.gone] = merge.into


def _awake(module: nn.Module) -> nn.Module | None:
    """A copy whose blocks all count, for outputs tell nothing of a block that ends with a scale of zero; None if all do."""
    copied = copy.deepcopy(module)
    asleep = [
        one for one in copied.parameters() if one.is_floating_point() and one.numel() and one.abs().max() < _ASLEEP
    ]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in asleep:
            parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return copied if asleep else None


def _some(items: Sequence[str], between: str) -> str:
    """The first of them; `describe` has all."""
    more = len(items) - _SHOWN
    return between.join([*items[:_SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _check_required(module: nn.Module, required: Sequence[str]) -> None:
    names = [name for name, _ in module.named_modules(remove_duplicate=False)]
    for path in required:
        if path not in names:
            raise DeployError(f"{type(module).__name__} has no module {path!r} to fold{suggest(path, names)}")


def _captured(module: nn.Module, example: Inputs) -> Capture:
    try:
        return capture(module, plain(example))
    except SpaceError as error:
        raise DeployError(f"{type(module).__name__} cannot be folded, since its graph is not known: {error}") from error


class _Reference:
    """What the outputs must be, and how far from it rounding may bring them."""

    def __init__(self, module: nn.Module, example: Inputs) -> None:
        self.expected: list[tuple[Inputs, list[Tensor], list[float]]] = []
        for place, inputs in enumerate(probes(example, has_batch(example))):
            try:
                with torch.no_grad():
                    outputs = tensors_in(call(module, inputs))
            except Exception as error:
                if place:  # noise, or another number of samples: not everything is taken
                    continue
                raise DeployError(
                    f"{type(module).__name__} cannot be called with the example: {text_of(error)}"
                ) from error
            if not outputs:
                raise DeployError(f"{type(module).__name__} gives no tensors that could be compared")
            self.expected.append((inputs, outputs, rounding(module, inputs, outputs)))

    @torch.no_grad()
    def gap(self, module: nn.Module) -> Gap:
        """The largest difference in relation to what is allowed."""
        gaps = [Gap(0.0, 0.0)]
        for inputs, outputs, allowed in self.expected:
            found = tensors_in(call(module, inputs))
            if len(found) != len(outputs):
                return Gap(math.inf, 0.0)
            gaps += [
                Gap(largest_difference(one, other), most)
                for one, other, most in zip(outputs, found, allowed, strict=True)
            ]
        return max(gaps, key=lambda each: (not each.same, each.absolute))

    def fault(self, module: nn.Module) -> str | None:
        """Why `module` is not the same; None if it is."""
        try:
            found = self.gap(module)
        except Exception as error:
            return f"the model does not run without it ({text_of(error)})"
        if found.same:
            return None
        return f"outputs would change by {found.absolute:.2g}, and rounding explains {found.allowed:.2g}"


def _applied(
    merges: Sequence[Merge], reference: _Reference, module: nn.Module, refused: dict[Merge, str]
) -> list[Merge]:
    """The merges that leave the outputs as they are, done; the others are undone, and `refused` gets them with the reason."""
    undone: list[Undo] = []
    done: list[Merge] = []
    for merge in merges:
        try:
            undone.append(merge.apply())
            done.append(merge)
        except Unmerged as error:
            refused[merge] = str(error)
    if reference.fault(module) is None:
        return done
    undo_all(undone)()
    kept = []
    for merge in done:
        undo = merge.apply()
        fault = reference.fault(module)
        if fault is None:
            kept.append(merge)
        else:
            undo()
            refused[merge] = fault
    return kept
