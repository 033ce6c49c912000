"""Which blocks a linear map may take the place of, and along which axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nas.convert.axes import free
from nas.convert.calls import Called
from nas.convert.converting import Conversion
from nas.convert.plan import Plan, Unit
from nas.convert.rules import Value
from nas.errors import SpaceError
from nas.supernet.parts import MAP


def with_maps(found: Conversion, plan: Plan) -> tuple[Plan, list[str]]:
    """`plan` in which a linear map may take the place of units, and a sentence for each reason why it may not of others.

    Raises:
        SpaceError: of none.
    """
    units, whole = [], dict[str, str]()
    entries = {residual.unit.name: residual.entry for residual in found.residuals}
    for unit in plan.units:
        made = _mapped(found, unit, entries[unit.name])
        if isinstance(made, str):
            whole[unit.name] = made
        units.append(unit if isinstance(made, str) else made)
    mapped = [unit.name for unit in units if unit.places is not None]
    if not mapped:
        name, why = next(iter(whole.items()), ("", ""))
        of = type(found.model).__name__
        raise SpaceError(
            f"no linear map may take the place of a block of {of}: of {name!r}, {why}"
            if name
            else f"{of} has no block that can be left out, whose place a linear map could take; leave linear= out"
        )
    notes = [f"a linear map may take the place of {', '.join(mapped)}; nas.fit_linear fits it"]
    notes += [f"no linear map takes the place of {name}: {why}" for name, why in whole.items()]
    return replace(plan, units=tuple(units)), notes


def _mapped(found: Conversion, unit: Unit, entry: Any) -> Unit | str:
    """The unit with where its features are, or why that is of no use."""
    module, called = found.model.get_submodule(unit.name), found.captured.calls[unit.name]
    shape = called.shape
    if shape is None or len(shape) < 2:
        return "it gets no tensor with an axis of features"
    if MAP in {**module._modules, **module._parameters, **module._buffers, **vars(module)}:
        return f"it has a part that is called {MAP!r} itself"
    value = found.analysis.values[entry]
    axes = value.axes if isinstance(value, Value) else ()
    elastic = {dim for dim, axis in enumerate(axes) if any(atom in found.names.atoms for atom in free(axis))}
    dims = elastic | _read(module, unit.name, shape, found.captured.calls)
    if len(dims) != 1:
        return "it is not known along which axis its features are"
    dim = dims.pop()
    if dim == len(shape) - 1:
        places = 0
    elif dim == 1 and len(shape) - 2 in range(1, 4):
        places = len(shape) - 2
    else:
        return f"its features are along axis {dim} of {len(shape)}"
    weights = sum(one.numel() for one in module.parameters() if one.dim() > 1)
    if shape[dim] ** 2 >= weights:
        return f"a map of {shape[dim]} features has no fewer weights than it"
    return replace(unit, places=places, features=found.names.axis(axes[dim]) if axes else (shape[dim],))


def _read(module: nn.Module, path: str, shape: Sequence[int], calls: Mapping[str, Called]) -> set[int]:
    """The axes that layers of known types inside of a unit, which get tensors of its input's shape, take for features."""
    found = set()
    for name, layer in module.named_modules():
        called = calls.get(f"{path}.{name}" if name else path)
        if called is not None and called.shape == tuple(shape):
            dim = _features(layer, shape)
            found |= {dim} if dim is not None else set()
    return found


def _features(layer: nn.Module, shape: Sequence[int]) -> int | None:
    if isinstance(layer, nn.Linear) and layer.in_features == shape[-1]:
        return len(shape) - 1
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and tuple(layer.normalized_shape) == (shape[-1],):
        return len(shape) - 1
    if isinstance(layer, _ConvNd) and not isinstance(layer, _ConvTransposeNd) and len(shape) == layer.weight.dim():
        return 1
    return 1 if isinstance(layer, _NormBase | nn.GroupNorm) else None
