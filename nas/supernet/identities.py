"""Blocks that give what they get: which of their last layers have to be zero for that.

A residual block adds what its branches give, so it is the identity once the last layer of every branch gives zeros (He et
al. 2016; Goyal et al. 2017 for the scale of a last norm).  Which layers those are is found by trying, on what reaches the
block: from the last called to the first, each is set to zero, and stays so if that changes what the block gives, until it
gives what it got.  Then each that is not needed for it is set back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nas.supernet.inputs import Inputs, call
from nas.supernet.roles import role_of


@torch.no_grad()
def silenced(module: nn.Module, blocks: Sequence[str], inputs: Inputs) -> tuple[list[str], list[str]]:
    """Make each of `blocks` the identity, in place, or, where it cannot be, give zeros, as a new branch has to.

    Args:
        module: the network, in eval mode.
        blocks: paths of modules in it.
        inputs: of the network.

    Returns:
        Names of the parameters that are zero now; and the blocks that are not the identity.
    """
    found: list[str] = []
    others: list[str] = []
    for path in _called(module, blocks, inputs):
        block = module.get_submodule(path)
        met = _met(module, block, inputs)
        if met is None:
            continue
        names = _zeros(block, *met, wanted=_first(met))
        if names is None:
            others.append(path)
            names = _zeros(block, *met, wanted=None) or []
        found += [f"{path}.{name}" for name in names]
    return found, others


def _called(module: nn.Module, blocks: Sequence[str], inputs: Inputs) -> list[str]:
    """Those of `blocks` that are called, in order; of one that is not, what is called inside of it."""
    order: list[str] = []
    hooks = [
        owner.register_forward_pre_hook(lambda *_, path=path: order.append(path))
        for path, owner in module.named_modules()
        if any(path == block or path.startswith(f"{block}.") for block in blocks)
    ]
    try:
        call(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    called = list(dict.fromkeys(order))
    return [path for path in called if not any(path.startswith(f"{other}.") for other in called)]


def _met(module: nn.Module, block: nn.Module, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What `block` is called with, the first time."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(_: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if not seen:  # a copy: the block may change it in place
            seen.append((_copied(positional), _copied(keywords)))

    hook = block.register_forward_pre_hook(note, with_kwargs=True)
    try:
        call(module, inputs)
    finally:
        hook.remove()
    return seen[0] if seen else None


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(map(_copied, value))
    return {key: _copied(item) for key, item in value.items()} if type(value) is dict else value


def _first(given: Any) -> Tensor | None:
    """The first floating-point tensor in what a block is given or gives."""
    return next((one for one in tree_leaves(given) if isinstance(one, Tensor) and one.is_floating_point()), None)


def _zeros(
    block: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any], *, wanted: Tensor | None
) -> list[str] | None:
    """Parameters of `block` whose being zero makes it give `wanted`, or zeros; they are zero then, or None."""

    def given() -> Tensor | None:
        output = _first(block(*_copied(positional), **_copied(keywords)))
        return None if output is None else output.clone()

    def fits(output: Tensor | None) -> bool:
        if output is None:
            return False
        return (
            not bool(output.any()) if wanted is None else output.shape == wanted.shape and torch.equal(output, wanted)
        )

    before = given()
    zeroed: list[tuple[list[str], list[Tensor]]] = []
    for names in reversed(list(_layers(block, given))):
        if fits(before):
            break
        kept = _set_to_zero(block, names)
        output = given()
        if output is None or before is None or (output.shape == before.shape and torch.equal(output, before)):
            _set_back(block, names, kept)
            continue
        zeroed.append((names, kept))
        before = output
    if not fits(before):
        for names, kept in zeroed:
            _set_back(block, names, kept)
        return None
    needed: list[str] = []
    for names, kept in zeroed:
        _set_back(block, names, kept)
        if not fits(given()):
            _set_to_zero(block, names)
            needed += names
    return needed


def _layers(block: nn.Module, run: Callable[[], Any]) -> Iterator[list[str]]:
    """Parameters of each layer that decide whether it gives zeros, in the order in which the layers have been called."""
    order: list[str] = []
    hooks = [
        owner.register_forward_hook(lambda *_, path=path: order.append(path))
        for path, owner in block.named_modules()
        if any(one is not None for one in owner._parameters.values()) or role_of(owner) is not None
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for path in dict.fromkeys(order):
        owner = block.get_submodule(path)
        role = role_of(owner)
        if role is None:
            names = [name for name, one in owner._parameters.items() if one is not None]
        else:
            prefix, _, _ = role.output.parameter.rpartition(".")
            bias = f"{prefix}.bias".lstrip(".")
            names = [role.output.parameter, bias]
        there = dict(owner.named_parameters())
        yield [f"{path}.{name}".lstrip(".") for name in names if name in there]


def _set_to_zero(block: nn.Module, names: Sequence[str]) -> list[Tensor]:
    kept = [block.get_parameter(name).clone() for name in names]
    for name in names:
        block.get_parameter(name).zero_()
    return kept


def _set_back(block: nn.Module, names: Sequence[str], kept: Sequence[Tensor]) -> None:
    for name, tensor in zip(names, kept, strict=True):
        block.get_parameter(name).copy_(tensor)
