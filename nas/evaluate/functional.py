"""What a model computes, as a name that is equal for models that compute the same.

Gillard, Jonany, Miao, Munn, de Souza, Dungay, Liang, So, Le, Real 2023, "Unified Functional Hashing in Automatic Machine
Learning": run candidates on fixed inputs and hash the outputs.  Weights must not depend on what a layer is called or when it
was made, or equal networks would differ: here a layer draws its weights when it is called, from a seed that is made of the
kind of layer and of *what it is given*.  So the same operation on the same input has the same weights wherever it stands, and
two operations in a row, or after different ones, have different weights.

Numbers are compared on a grid of `PLACES` decimals.  No way from numbers to names is safe from rounding: whatever the grid, sums
that another processor takes in another order may fall on two sides of a border.  The error is then on the safe side: two names,
one evaluation too many.  In float64 that happens to about one name in 10^5 (rounding 1e-14, borders 1e-9 apart, some hundred
numbers); a model that computes in float32 inside has other names on other machines.  The grid is not coarser than that, since
equal names of different functions would be a lie: functions are told apart that differ by more than 1e-9 of their outputs.
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.checking import Count, checked
from nas.errors import EvaluationError
from nas.supernet.inputs import Inputs, call, convert, like, some, tensors_in
from nas.supernet.skeleton import build, quiet
from nas.train.task import Task

if TYPE_CHECKING:
    from nas.space import Arch

DIRECTIONS = 4  # projections that tell two tensors of one shape and length apart
PLACES = 9  # decimals that are compared; sums in another order differ beyond the twelfth
NOTHING = 1e-12  # a tensor of this length is what sums leave of zero
_MINUS_ZERO = f"{-0.0:.{PLACES}f}"
DROPS = ("p", "dropout", "attention_dropout", "drop_prob", "drop_rate")
"""Attributes of layers that are probabilities and show in training only."""


class Function:
    """Names what an arch computes: 32 hex characters, equal for archs that compute the same.

    Dropout is seen where a layer says its probability (`DROPS`), as torch's do; other things that show in training only are not.
    A layer that is given nothing but zeros is taken to answer zeros, whatever its biases.

    **Layers of one kind on the same input count as one layer**, as in the list of NAS-Bench-201's authors: two such branches
    side by side, each with weights of its own, have the name of one that is used twice.  Where a space has choices that make
    branches alike (a grammar that clones, for example), give `weights=True`.

    Args:
        task: its first calibration inputs are the probes.
        samples: how many of them.
        seed: of the weights.
        weights: names also tell how many weights the output depends on, so that two layers are not one that is used twice.

    Raises:
        EvaluationError: the task has fewer inputs.
    """

    names_outputs = True  # see `Once`

    @checked(EvaluationError)
    def __init__(self, task: Task, *, samples: Count = 4, seed: int = 0, weights: bool = False) -> None:
        self.task, self.samples, self.seed, self.weights = task, samples, seed, weights
        self._inputs: Inputs | None = None

    def __call__(self, arch: Arch) -> str:
        """The name; the same in every process.

        Raises:
            EvaluationError: the model does not run in float64, or its output has no finite number.
        """
        with quiet():
            torch.manual_seed(self.seed)
            return name_of(build(arch.space, arch), self._probes(), self.seed, weights=self.weights)

    def describe(self) -> dict[str, Any]:
        """JSON-able name and options."""
        # Left out where it is not asked for: names that were kept before there was a choice are found.
        weights = {"weights": True} if self.weights else {}
        return {"name": "Function", "samples": self.samples, "seed": self.seed, **weights, "task": self.task.describe()}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_inputs": None}

    def _probes(self) -> Inputs:
        if self._inputs is None:
            first: Inputs = next(iter(self.task.calibration_inputs()))
            self._inputs = some(like(first, self.task.example), slice(self.samples))
        return self._inputs


@torch.no_grad()
def name_of(module: nn.Module, inputs: Inputs, seed: int = 0, *, weights: bool = False) -> str:
    """The name of what `module` computes of `inputs`; its weights are drawn anew, in place, and it ends in float64.

    Args:
        module: any.
        inputs: probes.
        seed: of the weights.
        weights: names also tell how many weights the output depends on.

    Raises:
        EvaluationError: the model does not run in float64, or its output has no finite number.
    """
    module = module.double().eval()
    signatures = _Signatures(seed)
    held: dict[int, int] = {}
    for owner in module.modules():
        for parameter in owner._parameters.values():
            if parameter is not None:
                held[id(parameter)] = held.get(id(parameter), 0) + 1
    for parameter in module.parameters():  # what no layer draws when it is called: by shape alone
        _draw(parameter, "weight", f"{seed} {tuple(parameter.shape)}")
    handles = []
    for owner in module.modules():
        own = {key: one for key, one in owner._parameters.items() if one is not None and held[id(one)] == 1}
        if own:
            handles.append(owner.register_forward_pre_hook(_Layer(own, signatures), with_kwargs=True))
        if (dropped := _dropped(owner)) > 0:
            handles.append(owner.register_forward_hook(functools.partial(_thin, dropped)))
    try:
        with torch.set_grad_enabled(weights):
            output = call(module, convert(inputs, lambda one: one.double() if one.is_floating_point() else one))
    except RuntimeError as error:
        raise EvaluationError(
            f"{type(module).__name__} cannot be told from others by what it computes, as it does not run in float64: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    tensors = tensors_in(output)
    if not any(torch.isfinite(tensor).any() for tensor in tensors):
        raise EvaluationError(
            f"{type(module).__name__} cannot be told from others by what it computes, as its output has no finite number; "
            "give probes that it computes numbers of, and return tensors in tuples, mappings or dataclasses"
        )
    described = " ".join(map(signatures, tensors))
    if weights:
        described += f" {_felt(module, tensors)} weights"
    return hashlib.blake2b(described.encode(), digest_size=16).hexdigest()


def _felt(module: nn.Module, outputs: list[Tensor]) -> int:
    """How many weights are in tensors that the outputs depend on, as far as a gradient says so."""
    parameters = [one for one in module.parameters() if one.requires_grad]
    floats = [one for one in outputs if one.requires_grad]
    if not parameters or not floats:
        return 0
    # By numbers that do not cancel, as those of a softmax would in a plain sum.
    draw = torch.Generator().manual_seed(len(floats))
    along = [torch.randn(one.shape, generator=draw, dtype=torch.float64).to(one) for one in floats]
    slopes = torch.autograd.grad(floats, parameters, along, allow_unused=True)
    return sum(
        one.numel() for one, slope in zip(parameters, slopes, strict=True) if slope is not None and bool(slope.any())
    )


class _Layer:
    """Before a layer's first call: its parameters are drawn from what it is and what it is given."""

    def __init__(self, own: dict[str, nn.Parameter], signatures: _Signatures) -> None:
        self.own, self.signatures, self.done = own, signatures, False

    @torch.no_grad()
    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook."""
        if self.done:
            return
        self.done = True
        given = tensors_in((args, kwargs))
        dead = bool(given) and all(float(tensor.double().norm()) < NOTHING for tensor in given)
        shapes = {key: tuple(one.shape) for key, one in self.own.items()}
        what = f"{self.signatures.seed} {type(module).__qualname__} {shapes} {[*map(self.signatures, given)]}"
        for key, parameter in self.own.items():
            if dead and parameter.ndim < 2 and key != "weight":
                parameter.zero_()
            else:
                _draw(parameter, key, f"{what} {key}")


def _dropped(module: nn.Module) -> float:
    """How much of its output a layer drops in training; 0 where it says nothing."""
    found = [value for name in DROPS if isinstance(value := getattr(module, name, None), float)]
    return math.fsum(found)


def _thin(dropped: float, _module: nn.Module, _args: Any, output: Any) -> Any:
    """A forward hook: makes the output of a layer with dropout another one, unless it is nothing."""
    if isinstance(output, tuple):
        return (_thin(dropped, _module, _args, output[0]), *output[1:]) if output else output
    return output * (1 + dropped) if isinstance(output, Tensor) and output.is_floating_point() else output


class _Signatures:
    """A short text of a tensor, equal for tensors that differ by rounding: its shape, length, and direction.

    Of a tensor with numbers that are not finite: those that are, and where the others are.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._directions: dict[int, Tensor] = {}

    def __call__(self, tensor: Tensor) -> str:
        """Its text."""
        flat = tensor.detach().double().flatten()
        if not torch.isfinite(flat).all():
            marks = flat.nan_to_num(nan=2.0, posinf=1.0, neginf=-1.0).where(~torch.isfinite(flat), 0.0)
            return f"{self(flat.where(torch.isfinite(flat), 0.0).view(tensor.shape))} {self(marks)}"
        length = float(flat.norm()) if len(flat) else 0.0
        if length < NOTHING:
            return f"{tuple(tensor.shape)} 0"
        if len(flat) not in self._directions:
            generator = torch.Generator().manual_seed(len(flat))
            self._directions[len(flat)] = torch.randn(
                DIRECTIONS, len(flat), generator=generator, dtype=torch.float64
            ).to(flat.device)
        angles = (self._directions[len(flat)] @ flat / length).tolist()
        rounded = [f"{angle + 0.0:.{PLACES}f}".replace(_MINUS_ZERO, _MINUS_ZERO[1:]) for angle in angles]
        return f"{tuple(tensor.shape)} {length:.{PLACES}e} {rounded}"


def _draw(parameter: Tensor, name: str, seed: str) -> None:
    """Random values of the usual size: matrices by their inputs, gains around 1, biases around 0."""
    digest = hashlib.blake2b(seed.encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    if parameter.ndim >= 2:
        values /= math.sqrt(max(1, parameter[0].numel()))
    else:
        values = values / 10 + (name == "weight")
    parameter.copy_(values)
