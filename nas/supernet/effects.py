"""Whether something that a module keeps changes what it computes: found out by running it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from nas.supernet import attributes
from nas.supernet.binding import Binding
from nas.supernet.inputs import Inputs, call, convert, tensors_in
from nas.supernet.skeleton import STATE, build_skeleton, quiet

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.supernet.supernet import Supernet

TOLERANCE = 1e-6
"""How far outputs may differ, relative to the largest, that one machine computes twice of the same numbers."""


def constructor_matters(supernet: Supernet, arch: Arch, inputs: Inputs) -> bool:
    """Whether the subnet of `arch` computes something else where its constructor saw another random state.

    Both have the supernet's weights and buffers.  An arch that does not run on `inputs` tells nothing.
    """
    ours, theirs = (_apart(supernet, arch, seed) for seed in (STATE, STATE + 1))
    theirs.take_buffers(ours)
    return any(_differ(_run(ours, inputs, mode), _run(theirs, inputs, mode)) for mode in (False, True))


def calls_matter(supernet: Supernet, arch: Arch, inputs: Inputs) -> bool:
    """Whether what the subnet of `arch` computes depends on its earlier calls, the buffers that are held aside.

    An arch that does not run on `inputs` tells nothing.
    """
    used = _apart(supernet, arch)
    others = convert(inputs, lambda one: 2 * _turned(one) + 1 if one.is_floating_point() else _turned(one))
    for earlier in (others, inputs):
        for mode in (False, True):
            _run(used, earlier, mode, held=True)
    return any(
        _differ(_run(_apart(supernet, arch), inputs, mode, held=True), _run(used, inputs, mode, held=True))
        for mode in (False, True)
    )


CALLS = 3
"""How often a module is called to see whether it draws at random."""
CLOSE = 1e-4
"""How far outputs of two calls may differ, relative to the largest: some devices add in another order each time."""


def varies(forward: Callable[[], Any]) -> bool:
    """Whether the same call gives other outputs when it is made again: it draws at random, or keeps something of earlier calls.

    Args:
        forward: calls a module in eval mode; the process's random states are left alone.
    """
    with quiet(STATE), torch.no_grad():
        first, *others = ([leaf.clone() for leaf in tensors_in(forward())] for _ in range(CALLS))
    return any(_differ(first, other, CLOSE) for other in others)


def _apart(supernet: Supernet, arch: Arch, seed: int = STATE) -> Binding:
    """A binding that nobody else uses."""
    return Binding(supernet._shared, build_skeleton(supernet.space, arch, seed), supernet)


def _run(binding: Binding, inputs: Inputs, training: bool, held: bool = False) -> list[Any] | None:
    """Outputs in one mode and a fixed random state, on copies of the buffers (that are held); None where it does not run."""
    binding.refresh()
    mode = binding.module.training
    with quiet(STATE), torch.no_grad(), binding.buffers(binding.copies(held)):
        try:
            output = call(binding.module.train(training), inputs)
        except Exception:  # whatever the model raises, it will raise it again where it is called
            return None
        finally:
            binding.module.train(mode)
    return [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(output)]


def _differ(ours: list[Any] | None, theirs: list[Any] | None, tolerance: float = TOLERANCE) -> bool:
    if ours is None or theirs is None:
        return False
    return len(ours) != len(theirs) or not all(
        attributes.same(one, other, tolerance) for one, other in zip(ours, theirs, strict=True)
    )


def _turned(tensor: Tensor) -> Tensor:
    """The samples in the opposite order."""
    return tensor.flip(0) if tensor.ndim else tensor
