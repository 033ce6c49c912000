"""What calls of bound subnets change: buffers that are learnt, and state that no checkpoint has.

Buffers are looked at after every call.  Whether anything was written through `.data`, or kept in plain attributes, is looked at
after the first, second, fourth, eighth … call of a kind of subnet, which costs a copy of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.errors import SupernetError
from nas.supernet import attributes, effects
from nas.supernet.constructor import refusal
from nas.supernet.inputs import Inputs
from nas.supernet.skeleton import Slot, buffers_of, statistics_of

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.supernet.binding import Binding
    from nas.supernet.supernet import Supernet


@dataclass
class Log:
    """What one supernet's calls were found to do.

    Attributes:
        calls: of subnets by the classes of their modules, in eval mode and in training.
        harmless: attributes that change, and change nothing.
    """

    calls: dict[frozenset[str], list[int]] = field(default_factory=dict)
    harmless: set[str] = field(default_factory=set)


@dataclass
class _Buffer:
    """A buffer before a call."""

    name: str
    slot: Slot
    tensor: Tensor
    version: int
    copy: Tensor | None


@dataclass
class Seen:
    """What there is before a call: buffers, and a copy of plain attributes where it is looked at closely."""

    training: bool
    buffers: list[_Buffer]
    plain: dict[str, Any] | None


class Watch:
    """Watches the calls of one arch's binding.

    Args:
        supernet: the binding's.
        arch: the binding's.
        binding: whose calls.
    """

    def __init__(self, supernet: Supernet, arch: Arch, binding: Binding) -> None:
        self._supernet, self._arch, self._binding = supernet, arch, binding
        module = binding.module
        classes = frozenset(f"{type(one).__module__}.{type(one).__qualname__}" for one in module.modules())
        self._calls = supernet._log.calls.setdefault(classes, [0, 0])
        self._parameters = _count(module)
        statistics = statistics_of(module)  # those are held, and torch updates them in training only
        self._slots = {name: slot for name, slot in buffers_of(module).items() if name not in statistics}
        self._first = True

    def before(self, inputs: Inputs) -> Seen | None:
        """What there is before a call with `inputs`; None where nothing is to be looked at.

        Raises:
            SupernetError: the output depends on a number that the constructor drew at random.
            LayoutError: a subnet mixes units, and declaring a layout would end that.
        """
        if self._first:
            self._first = False
            self._supernet.prove_once(inputs)
            check_numbers(self._supernet, self._arch, inputs)
        training = self._binding.module.training
        self._calls[training] += 1
        closely = self._calls[training].bit_count() == 1
        if not closely and not self._slots:
            return None
        plain = _copied(attributes.leaves(self._binding.module)) if closely else None
        return Seen(training, self._buffers(closely), plain)

    def after(self, seen: Seen | None, inputs: Inputs) -> None:
        """After that call: buffers that it changed in training are held from then on.

        Raises:
            SupernetError: the call changed what no checkpoint has, or anything in eval mode, and what the model computes
                depends on it; or it made parameters.
        """
        if seen is None:
            return
        changed = self._changed(seen.buffers, seen.training)
        if seen.plain is not None:
            self._check_parameters()
            now = attributes.leaves(self._binding.module)
            changed += [f"attribute {path!r}" for path in now if not _kept(seen.plain, now, path)]
            changed += [f"buffer {name!r}" for name in buffers_of(self._binding.module) if name not in self._known()]
        if changed:
            self._check(changed, seen.training, inputs)

    def _known(self) -> set[str]:
        return {*self._slots, *statistics_of(self._binding.module)}

    def _buffers(self, closely: bool) -> list[_Buffer]:
        return [
            _Buffer(name, (table, key), table[key], _version(table[key]), table[key].clone() if closely else None)
            for name, (table, key) in self._slots.items()
            if table.get(key) is not None
        ]

    def _changed(self, before: list[_Buffer], training: bool) -> list[str]:
        """What cannot be held of the buffers that a call changed; the others are held."""
        changed, learnt = [], {}
        held, temporary = self._supernet._shared.buffers, _not_persistent(self._binding.module)
        for one in before:
            table, key = one.slot
            now = table.get(key)
            if now is None or not _differs(one, now):
                continue
            if not training and one.name in held:
                raise self._refusal(f"buffer {one.name!r}", training)
            if not training or (one.name not in held and one.name in temporary):
                changed.append(f"buffer {one.name!r}")
            elif now.shape != one.tensor.shape:
                raise SupernetError(
                    f"buffer {one.name!r} of space {self._supernet.space.name!r} changes its shape from "
                    f"{tuple(one.tensor.shape)} to {tuple(now.shape)} in forward and cannot be shared; give it one shape"
                )
            elif one.name not in held or now is not one.tensor:  # else it was written to, and is a view
                learnt[one.name] = now
        self._hold(learnt)
        return changed

    def _hold(self, values: Mapping[str, Tensor]) -> None:
        """Let the supernet hold the values that a call left in this subnet."""
        if not values:
            return
        shared = self._supernet._shared
        with torch.inference_mode(False), torch.no_grad():
            self._supernet.hold(values.keys())
            for name, value in values.items():
                shared.put(name, value, self._binding.shapes)
            self._binding.place()

    def _check_parameters(self) -> None:
        if _count(self._binding.module) != self._parameters:
            names = {name for names, _ in self._binding.entries for name in names}
            made = [name for name, _ in self._binding.module.named_parameters() if name not in names]
            raise SupernetError(
                f"parameter {next(iter(made), '')!r} of space {self._supernet.space.name!r} is made in forward, "
                "where no supernet holds or trains it; make it in the constructor"
            )

    def _check(self, changed: list[str], training: bool, inputs: Inputs) -> None:
        """Refuse what changed, where it matters."""
        log = self._supernet._log
        changed = [what for what in changed if what not in log.harmless]
        if changed and effects.calls_matter(self._supernet, self._arch, inputs):
            raise self._refusal(changed[0], training)
        log.harmless.update(changed)

    def _refusal(self, what: str, training: bool) -> SupernetError:
        return SupernetError(
            f"{what} of space {self._supernet.space.name!r} is changed by forward{'' if training else ' in eval mode'}, and "
            "what the model computes depends on it, but no checkpoint has that; keep it in a persistent buffer "
            "(register_buffer in the constructor), and change it only while self.training"
        )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _differs(before: _Buffer, now: Tensor) -> bool:
    if now is not before.tensor:  # assigned: .to() and the like change nothing
        return now.shape != before.tensor.shape or not attributes.same(now, before.tensor, 0.0)
    if before.copy is not None:
        return not attributes.same(now, before.copy, 0.0)
    return _version(now) != before.version


def _not_persistent(module: nn.Module) -> set[str]:
    return {
        f"{prefix}.{key}" if prefix else key
        for prefix, owner in module.named_modules(remove_duplicate=False)
        for key in owner._non_persistent_buffers_set
    }


def _count(module: nn.Module) -> int:
    return sum(len(owner._parameters) for owner in module.modules())


def _copied(leaves: Mapping[str, Any]) -> dict[str, Any]:
    return {path: _copy(value) for path, value in leaves.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (np.ndarray, list, dict, set)):
        return value.copy()
    return value if isinstance(value, (int, float, str, type(None))) else copy.copy(value)


def _kept(before: Mapping[str, Any], after: Mapping[str, Any], path: str) -> bool:
    return path in before and attributes.same(before[path], after[path], 0.0)


def check_numbers(supernet: Supernet, arch: Arch, inputs: Inputs) -> None:
    """Refuse a plain attribute of one number or text that is drawn by the constructor and matters.

    Tensors, arrays and lists are refused when the supernet is made; single numbers may as well say when or where it was made.

    Raises:
        SupernetError: there is one.
    """
    numbers = supernet._shared.union.numbers
    if not numbers:
        return
    module = supernet._binding(arch).module
    found = sorted(numbers & attributes.leaves(module).keys())
    if found and effects.constructor_matters(supernet, arch, inputs):
        raise refusal(supernet.space, found[0])
