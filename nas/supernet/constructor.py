"""What the constructor of a model draws at random, or computes from the initial weights.

It would be something else in each process, at each extraction and each reload.  Each arch looked at is built twice, in two
random states: what differs is either a buffer, which the supernet then holds, saves and cuts like a parameter, or nothing that
can be kept, and is refused by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.errors import SupernetError
from nas.space import Arch, Space
from nas.supernet import attributes, parts
from nas.supernet.skeleton import STATE, Memory, build_skeleton, memory, parameters_of

_SEED = "draw it from a generator of its own with a fixed seed (torch.Generator().manual_seed(0))"


@dataclass
class Drawn:
    """What two builds of one arch differ in.

    Attributes:
        buffers: names of buffers that hold data.
        numbers: paths of single numbers and texts in plain attributes; they may be of no effect (a time stamp).
        indices: names of buffers of indices, which every arch has of its own.
    """

    buffers: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    indices: set[str] = field(default_factory=set)


def drawn(space: Space, arch: Arch, module: nn.Module, declared: Callable[[str], bool]) -> Drawn:
    """What `module`, a skeleton of `arch`, has from a random state or from initial weights.

    Costs a second skeleton; the process's random states are left alone.  A copy of a ready module draws nothing, and says
    itself which of its buffers are data.

    Args:
        space: the arch's.
        arch: what was built.
        module: its skeleton.
        declared: whether a cut is declared for the buffer of a name.

    Raises:
        SupernetError: something that differs can be neither kept nor shared, or a parameter is held outside the parameters.
    """
    if parts.HELD in vars(module):
        return Drawn(set(vars(module)[parts.HELD]))
    plain = attributes.leaves(module)
    _check_memory(space, module, plain)
    other = build_skeleton(space, arch, STATE + 1)
    _check_structure(space, arch, module, other)
    found = Drawn(_differing_buffers(space, module, other))
    for path, kind in _differing_attributes(plain, attributes.leaves(other)):
        if issubclass(kind, (int, float, complex, str, np.generic)):
            found.numbers.add(path)
        else:
            raise refusal(space, path, kind.__name__)
    indices = {name for name in found.buffers if not declared(name) and _is_indices(_buffers(module)[name])}
    if indices:
        _check_indices(space, arch, module, indices)
    found.buffers -= indices
    found.indices |= indices
    return found


def refusal(space: Space, path: str, kind: str = "number") -> SupernetError:
    """What to say of a plain attribute that cannot be kept."""
    name = path.partition("[")[0].rpartition(".")[2]
    return SupernetError(
        f"attribute {path!r} ({kind}) of space {space.name!r} is drawn at random by the constructor, or computed from initial "
        "weights, so that each process, reload and extracted subnet would have another one; keep it in a buffer "
        f"(register_buffer({name!r}, torch.as_tensor(…))), which is saved, or {_SEED}"
    )


def _called(space: Space, name: str) -> str:
    return f"buffer {name!r} of space {space.name!r}"


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_buffers(remove_duplicate=False))


def _differing_buffers(space: Space, module: nn.Module, other: nn.Module) -> set[str]:
    owners, theirs = dict(module.named_modules(remove_duplicate=False)), _buffers(other)
    found = set()
    for name, buffer in _buffers(module).items():
        if name not in theirs or buffer.shape != theirs[name].shape:
            raise SupernetError(f"{_called(space, name)} has another shape each time that it is built; {_SEED}")
        if attributes.same(buffer, theirs[name]):
            continue
        prefix, _, key = name.rpartition(".")
        if key in owners[prefix]._non_persistent_buffers_set:
            raise SupernetError(
                f"{_called(space, name)} is drawn at random, or computed from initial weights, and is not persistent, so that "
                f"no checkpoint has it; register it with persistent=True, or {_SEED}"
            )
        found.add(name)
    return found


def _differing_attributes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, type]]:
    """Paths of plain attributes that are not the same, and what they are."""
    for path in dict.fromkeys([*ours, *theirs]):
        if path not in ours or path not in theirs:
            yield path, object
        elif not attributes.same(ours[path], theirs[path]):
            yield path, type(ours[path]) if isinstance(theirs[path], type(ours[path])) else object


def _check_structure(space: Space, arch: Arch, module: nn.Module, other: nn.Module) -> None:
    """Layers and parameters must be those of the arch."""
    for ours, theirs in itertools.zip_longest(structure(module), structure(other)):
        if ours != theirs:
            name = (ours or theirs or ("",))[0]
            raise SupernetError(
                f"arch {arch.choices} of space {space.name!r} is another network each time that it is built: {name!r} differs; "
                "make what is drawn at random a decision of the space, or seed it in the constructor"
            )


def structure(module: nn.Module) -> Iterator[tuple[Any, ...]]:
    """A tuple for each submodule and each parameter, with its name first."""
    for name, owner in module.named_modules():
        yield name, type(owner).__module__, type(owner).__qualname__
    for entry in parameters_of(module):
        yield entry.names[0], tuple(entry.names), tuple(entry.shape), entry.tensor.dtype, entry.tensor.requires_grad


def _check_memory(space: Space, module: nn.Module, plain: Mapping[str, Any]) -> None:
    """Nothing but parameters may hold a parameter: it would not be the supernet's."""
    places: dict[int, list[tuple[str, Memory]]] = {}
    for entry in parameters_of(module):
        if entry.tensor.layout == torch.strided and entry.tensor.numel():
            place = memory(entry.tensor)
            for name, known in places.setdefault(place[0], []):
                if _overlap(place, known):
                    raise SupernetError(
                        f"parameters {name!r} and {entry.names[0]!r} of space {space.name!r} share memory and have other shapes; "
                        "keep one of them, and compute the other in forward"
                    )
            places[place[0]].append((entry.names[0], place))
    buffers = ((f"buffer {name!r}", buffer) for name, buffer in module.named_buffers())
    for what, value in (*buffers, *((f"attribute {path!r}", value) for path, value in plain.items())):
        if isinstance(value, Tensor) and value.layout == torch.strided and value.numel():
            place = memory(value)
            if any(_overlap(place, known) for _, known in places.get(place[0], ())):
                raise SupernetError(
                    f"{what} is computed from parameters in the constructor and shares their memory; "
                    "compute it in forward, so that it follows the supernet's weights, or keep a copy in a buffer"
                )


def _overlap(one: Memory, other: Memory) -> bool:
    """Whether two tensors of one storage have numbers in common, or may have."""
    return _first_last(one)[0] <= _first_last(other)[1] and _first_last(other)[0] <= _first_last(one)[1]


def _first_last(place: Memory) -> tuple[int, int]:
    _, offset, shape, strides = place
    return offset, offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _check_indices(space: Space, arch: Arch, module: nn.Module, names: Set[str]) -> None:
    """Indices are not shared: a part of a permutation is none.

    Each arch has its own, drawn in the one random state in which skeletons are built, and an extracted subnet saves it.
    """
    again = _buffers(build_skeleton(space, arch))
    for name in sorted(names):
        ours = _buffers(module)[name]
        kept = f"{_called(space, name)} holds {str(ours.dtype).removeprefix('torch.')}, taken for indices, which cannot be cut"
        if not any(parameter.is_meta for parameter in module.parameters()):
            raise SupernetError(
                f"{kept}, and may be computed from the initial weights; compute it in forward, or declare a cut in layouts="
            )
        if not attributes.same(ours, again[name]):
            raise SupernetError(f"{kept}, and is drawn from a generator without a seed; {_SEED}")


def _is_indices(buffer: Tensor) -> bool:
    """Whole numbers that are no mask."""
    if buffer.is_floating_point() or buffer.is_complex() or buffer.dtype == torch.bool:
        return False
    return not bool(((buffer == 0) | (buffer == 1)).all())
