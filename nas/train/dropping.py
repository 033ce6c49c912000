"""Which blocks a trained transformer can do without: those that hardly change what goes through them.

He et al. 2024, "What Matters in Transformers? Not All Attention is Needed" (LLM-Drop).  The similarity of a block is the
cosine between what goes in and what comes out; that of a residual branch (attention, perceptron) the cosine between the
stream before and after the branch is added: cos(h, h + f(norm(h))).  Averaged over tokens; the most similar are dropped in
one shot, attention and perceptrons in one ranking where both are given.  The paper uses 256 sequences of 2,048 tokens.

    found = similarities(model, task.calibration_inputs(), blocks="blocks.*")
    smaller = drop(model, found, 2)         # a copy without the two most similar
    order = importance(found)               # indices of blocks, most important first: for an elastic depth
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.checking import checked
from nas.errors import TrainError, suggest
from nas.supernet.inputs import Inputs, call

Kind: TypeAlias = Literal["block", "branch"]


@dataclass(frozen=True)
class Similarity:
    """How little a module changes what goes through it."""

    name: str
    """Of the module, as `named_modules` has it."""
    kind: Kind
    cosine: float
    """In [-1, 1]; 1 is a module that changes no direction."""
    extras: int | None
    """Entries after the first when the module gives a tuple; None when it gives a tensor."""


class Dropped(nn.Module):
    """In the place of a block: gives what goes in.  In the place of a residual branch: gives zeros.

    Args:
        kind: "block" or "branch".
        extras: entries after the first, None each, for a place whose module gives a tuple.
    """

    @checked(TrainError)
    def __init__(self, kind: Kind = "block", extras: int | None = None) -> None:
        super().__init__()
        self.kind, self.extras = kind, extras

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first tensor among the arguments, or zeros like it."""
        hidden = _first_tensor((*args, *kwargs.values()))
        value = torch.zeros_like(hidden) if self.kind == "branch" else hidden
        return value if self.extras is None else (value, *[None] * self.extras)

    def extra_repr(self) -> str:
        """Its kind."""
        return self.kind


class Mapped(Dropped):
    """In the place of a block: a linear map of what goes in.

    Args:
        linear_map: a layer that keeps the shape.
        extras: as of `Dropped`.
    """

    @checked(TrainError)
    def __init__(self, linear_map: nn.Module, extras: int | None = None) -> None:
        super().__init__("block", extras)
        self.linear_map = linear_map

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The map of the first tensor among the arguments."""
        return super().forward(self.linear_map(_first_tensor((*args, *kwargs.values()))))

    def extra_repr(self) -> str:
        """Nothing beside the map."""
        return ""


@checked(TrainError)
def similarities(
    module: nn.Module,
    batches: Iterable[Inputs],
    *,
    blocks: str | Sequence[str] | None = None,
    branches: Sequence[tuple[str, str]] = (),
) -> list[Similarity]:
    """Similarity of blocks and of residual branches of `module`, in eval mode, over all tokens of `batches`.

    Args:
        module: is left as it is.
        batches: inputs; padded tokens count like others, so give full ones.
        blocks: name patterns of the blocks, `*` for one part of a name: `"blocks.*"`, `"model.layers.*"`.
        branches: (norm, branch) name patterns: what goes into the norm is the stream, what the branch gives is added to
            it: `("blocks.*.norm1", "blocks.*.attention")`.

    Raises:
        TrainError: a pattern matches nothing, a pair not the same number, there is no batch, or a block gives another shape
            than it gets.
    """
    patterns = [blocks] if isinstance(blocks, str) else blocks or ()
    names = dict.fromkeys(name for pattern in patterns for name in _matching(module, pattern))
    found = [_Meter(name, "block", name) for name in names]
    for norm, branch in branches:
        streams, adds = _matching(module, norm), _matching(module, branch)
        if len(streams) != len(adds):
            raise TrainError(
                f"pattern {norm!r} matches {len(streams)} modules and {branch!r} {len(adds)}; each branch needs its norm"
            )
        found += [_Meter(add, "branch", stream) for stream, add in zip(streams, adds, strict=True)]
    if not found:
        raise TrainError("nothing to compare: give blocks= or branches=, as blocks='blocks.*'")
    was_training = [(each, each.training) for each in module.modules()]
    try:
        module.eval()
        with torch.no_grad(), ExitStack() as stack:
            for meter in found:
                meter.attach(module, stack)
            for inputs in batches:
                call(module, inputs)
    finally:
        for each, training in was_training:
            each.training = training
    return [meter.result() for meter in found]


def ranked(found: Sequence[Similarity]) -> list[Similarity]:
    """The most similar first, which is the order to drop them in; of equal ones the earlier."""
    return sorted(found, key=lambda each: -each.cosine)


@checked(TrainError)
def importance(found: Sequence[Similarity]) -> list[int]:
    """Indices into `found`, the least similar first: an elastic depth of d keeps the first d of them."""
    return sorted(range(len(found)), key=lambda index: found[index].cosine)


@checked(TrainError)
def drop(module: nn.Module, found: Sequence[Similarity], count: int) -> nn.Module:
    """A copy of `module` in which the `count` most similar of `found` do nothing; the others keep their names and weights.

    Raises:
        TrainError: `found` has not that many, or is not of this module.
    """
    if not 0 <= count <= len(found):
        raise TrainError(f"{count} modules cannot be dropped of the {len(found)} that were compared")
    smaller = copy.deepcopy(module)
    for each in ranked(found)[:count]:
        replace(smaller, each.name, Dropped(each.kind, each.extras))
    return smaller


Module = TypeVar("Module", bound=nn.Module)


def in_place_of(module: nn.Module, new: Module) -> Module:
    """`new` with the numbers and texts of `module`, which those around may read, and its mode."""
    own = vars(new)
    for key, value in vars(module).items():
        if key not in own and isinstance(value, bool | int | float | str | None):
            own[key] = value
    return new.train(module.training)


def replace(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` where `module` has the module `name`.

    Raises:
        TrainError: it has no such module.
    """
    path, _, leaf = name.rpartition(".")
    known = dict(module.named_modules())
    if name not in known or not name:
        raise TrainError(f"the module has no {name!r}{suggest(name, known)}")
    known[path]._modules[leaf] = new


class _Meter:
    """Measures one block or branch through hooks."""

    def __init__(self, name: str, kind: Kind, stream: str) -> None:
        self.name, self.kind, self._stream = name, kind, stream
        self._before: Tensor | None = None
        self._sum, self._count = 0.0, 0
        self._extras: int | None = None

    def attach(self, module: nn.Module, stack: ExitStack) -> None:
        """Hook into `module` until `stack` closes."""
        for handle in (
            module.get_submodule(self._stream).register_forward_pre_hook(self._remember, with_kwargs=True),
            module.get_submodule(self.name).register_forward_hook(self._compare),
        ):
            stack.callback(handle.remove)

    def _remember(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._before = _first_tensor((*args, *kwargs.values()))

    def _compare(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        before, self._before = self._before, None
        assert before is not None
        given = output[0] if isinstance(output, tuple) else output
        self._extras = len(output) - 1 if isinstance(output, tuple) else None
        if not isinstance(given, Tensor) or given.shape != before.shape:
            shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise TrainError(
                f"{self.name!r} gives {shape} for {tuple(before.shape)}, so leaving it out is not possible"
            )
        after = before + given if self.kind == "branch" else given
        cosine = functional.cosine_similarity(before.double(), after.double(), dim=-1)
        self._sum += float(cosine.sum())
        self._count += cosine.numel()

    def result(self) -> Similarity:
        """The mean."""
        if not self._count:
            raise TrainError(f"{self.name!r} was not called; give at least one batch of inputs")
        return Similarity(self.name, self.kind, self._sum / self._count, self._extras)


def _first_tensor(values: Iterable[Any]) -> Tensor:
    found = next((value for value in values if isinstance(value, Tensor)), None)
    if found is None:
        raise TrainError("a block that gets no tensor cannot be compared or left out")
    return found


def _matching(module: nn.Module, pattern: str) -> list[str]:
    """Names of the modules that `pattern` matches part by part, in the module's order.

    Raises:
        TrainError: there is none.
    """
    parts = pattern.split(".")
    names = [name for name, _ in module.named_modules() if name]
    found = [
        name for name in names if name.count(".") == len(parts) - 1 and all(map(fnmatchcase, name.split("."), parts))
    ]
    if not found:
        there = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise TrainError(f"no module is called {pattern!r}{suggest(pattern, names)}; there are {there}")
    return found
