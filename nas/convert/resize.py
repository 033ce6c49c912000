"""The user's own module, resized: a deep copy whose parameters and buffers are cuts of the original's.

Whatever the class does comes along: methods, hooks, attributes, ties.  What follows from the arch is changed: tensors, the
numbers that `Plan.numbers` names, what torch's layers say of their own sizes, and modules that are left out.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from nas.convert.copying import deep_copied, named_tables, restores_itself
from nas.convert.factors import factor_axes, only_saving, put_factors
from nas.convert.maps import map_axes, map_of
from nas.convert.plan import Number, Path, Plan
from nas.errors import Infeasible, SpaceError, suggest
from nas.supernet import parts
from nas.supernet.parts import Axis, Sizes
from nas.supernet.skeleton import like, on_meta, parameters_of
from nas.train.dropping import Dropped, Mapped, in_place_of, replace

Memo = dict[int, Any]


Axes = Mapping[str, tuple[Axis, ...]]


def resize(
    model: nn.Module,
    plan: Plan,
    sizes: Sizes,
    kept: Collection[str],
    *,
    meta: bool,
    axes: Axes | None = None,
    mapped: Collection[str] = (),
) -> nn.Module:
    """A copy of `model` with the first `sizes` units of each atom; it shares no memory with `model`.

    Args:
        model: the original; parameters on the meta device give parameters there.
        plan: of the model.
        sizes: length of each atom of the plan.
        kept: names of the plan's units that are there as they are.
        meta: parameters on the meta device, nothing of them being read.  Buffers have their values all the same.
        axes: what `named_axes` gives, where it is known.
        mapped: names of those of the other units in whose place there is a linear map.

    Raises:
        SpaceError: the plan is of another model, or the model cannot be copied.
        Infeasible: a number of a module has no value for these sizes.
    """
    axes = named_axes(model, plan) if axes is None else axes
    sizes = only_saving(model, plan, sizes, axes)
    memo: Memo = {}
    _cut_tensors(model, plan, axes, sizes, memo, meta=meta)
    originals = dict(model.named_modules())
    resized = _copied(model, memo, dict(_stand_ins(model, plan, sizes, kept, mapped=mapped, meta=meta)))
    _forget_caches(resized)
    copies = dict(resized.named_modules())
    for number in plan.numbers:
        if number.module in copies and not isinstance(copies[number.module], Dropped):
            _set_number(copies[number.module], number, plan.whole, sizes)
    for number in plan.numbers:
        if number.module in copies and not isinstance(copies[number.module], Dropped):
            _keep_in_copies(copies[number.module], number, originals[number.module])
    with _without_steps(model, resized):
        for name, layer in copies.items():
            if name in originals and type(layer) is type(originals[name]):
                _own_sizes(layer, originals[name], {number.path for number in plan.numbers if number.module == name})
    factored = {each.layer: each for each in plan.factors if sizes[each.atom] and each.layer in copies}
    for each in factored.values():
        more = factor_axes(originals[each.layer], each, axes)
        axes = {**axes, **more}
        put_factors(copies, originals[each.layer], each, plan.whole, sizes, axes=more)
    mapped = {unit.name: unit for unit in plan.mappable if isinstance(copies.get(unit.name), Mapped)}
    for unit in mapped.values():
        axes = {**axes, **map_axes(unit)}
    ordered = (*plan.ordered, *(each.atom for each in plan.factors))
    parts.mark(
        resized,
        sizes,
        axes,
        ordered,
        factored={name: each.transposed for name, each in factored.items()},
        mapped={name: unit.places or 0 for name, unit in mapped.items()},
    )
    return resized


def without_weights(model: nn.Module) -> nn.Module:
    """A copy of `model` with its parameters on the meta device, and without caches."""
    memo: Memo = {}
    _cut_tensors(model, Plan(), {}, {}, memo, meta=True)
    copied = _copied(model, memo, {})
    _forget_caches(copied)
    return copied


def named_axes(model: nn.Module, plan: Plan) -> dict[str, tuple[Axis, ...]]:
    """The axes of each tensor that the plan knows, under each of its names.

    Raises:
        SpaceError: the model has no tensor of a name, or one of another shape.
    """
    tensors: dict[str, Tensor] = {**dict(model.named_buffers(remove_duplicate=False)), **dict(named_tables(model))}
    same: dict[int, list[str]] = {}
    for name, buffer in tensors.items():
        same.setdefault(id(buffer), []).append(name)
    aliases = {name: names for names in same.values() for name in names}
    for entry in parameters_of(model):
        for name in entry.names:
            tensors[name], aliases[name] = entry.tensor, entry.names
    found: dict[str, tuple[Axis, ...]] = {}
    for name, axes in plan.tensors.items():
        if name not in tensors:
            raise SpaceError(
                f"the plan has {name!r}, and {type(model).__name__} has no such tensor{suggest(name, tensors)}; "
                "make the plan again with nas.elastic, for the model as it is now"
            )
        shape = tuple(parts.length(axis, plan.whole) for axis in axes)
        if shape != tuple(tensors[name].shape):
            raise SpaceError(
                f"the plan has {name!r} of shape {shape}, and that of {type(model).__name__} has {tuple(tensors[name].shape)}; "
                "make the plan again with nas.elastic, for the model as it is now"
            )
        found.update(dict.fromkeys(aliases[name], axes))
    return found


# -- tensors


def _cut_tensors(model: nn.Module, plan: Plan, axes: Axes, sizes: Sizes, memo: Memo, *, meta: bool) -> None:
    """Tell a deep copy what to put in the place of each parameter, buffer and table."""
    whole = plan.whole
    for entry in parameters_of(model):
        own = axes.get(entry.names[0], ())
        if meta or entry.tensor.is_meta:
            made = on_meta(entry.tensor, [parts.length(axis, sizes) for axis in own] if own else None)
        else:
            made = like(entry.tensor, parts.cut(entry.tensor.detach(), own, whole, sizes))
        for table, key in entry.slots:  # `nn.Parameter(other)` is another object and the same parameter
            memo[id(table[key])] = made
    # The first of a buffer's names has the axes, if one has.
    for name, buffer in (*model.named_buffers(), *named_tables(model)):
        if name in axes:
            memo[id(buffer)] = parts.cut(buffer.detach(), axes[name], whole, sizes)
    for (
        owner
    ) in model.modules():  # what hooks compute from parameters before each call: no leaf, which torch does not copy
        for value in vars(owner).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach()


# -- modules


def _copied(model: nn.Module, memo: Memo, stand_ins: Mapping[str, nn.Module]) -> nn.Module:
    """A deep copy with others in the place of modules; of one that has several names under the given one only."""
    places: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[id(module)] = places.get(id(module), 0) + 1
    known = dict(model.named_modules())
    several = []
    for name, stand_in in stand_ins.items():
        if places[id(known[name])] == 1:  # nothing of it is copied
            memo[id(known[name])] = stand_in
        else:
            several.append(name)
    try:
        resized = deep_copied(model, memo)
    except Exception as error:  # of any kind: whatever an attribute of the model says to being copied
        raise SpaceError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); "
            "keep out of its attributes what cannot (locks, open files, tensors with a gradient history)"
        ) from error
    for name in several:
        replace(resized, name, stand_ins[name])
    return resized


def _stand_ins(
    model: nn.Module,
    plan: Plan,
    sizes: Sizes,
    kept: Collection[str],
    *,
    mapped: Collection[str],
    meta: bool,
) -> Iterator[tuple[str, nn.Module]]:
    """What takes the place of units; it has their numbers and texts, which those around may read."""
    known = dict(model.named_modules())
    for unit in plan.units:
        if unit.name in kept:
            continue
        module = known.get(unit.name)
        if module is None:
            raise SpaceError(
                f"the plan leaves out {unit.name!r}, and {type(model).__name__} has no such module{suggest(unit.name, known)}"
            )
        if unit.name in mapped:
            yield unit.name, map_of(module, unit, parts.length(unit.features, sizes), meta=meta)
        else:
            yield unit.name, in_place_of(module, Dropped(extras=unit.extras))


def _forget_caches(module: nn.Module) -> None:
    """Let every module forget what it computed from weights or sizes, as it does when its mode changes.

    The mode ends as it began, since layers may merge weights for the one and take them apart for the other.
    """
    flags = [(each, each.training) for each in module.modules()]
    module.train(not module.training)
    module.train(not module.training)
    for each, training in flags:
        each.training = training


# -- numbers


def _set_number(module: nn.Module, number: Number, whole: Sizes, sizes: Sizes) -> None:
    """Give a module the number that these sizes ask for; one that stays as it is is not touched."""
    if parts.length(number.axis, whole) == parts.length(number.axis, sizes):
        return
    at = f"{number.module}.{_spelled(number.path)}".lstrip(".")
    old = _look_up(module, number.path, at)
    length = parts.length(number.axis, sizes)
    new = length if number.expression is None else solve(number.expression, length, old)
    if new is None:
        raise Infeasible(f"{at} is {old}, and no smaller number makes its part {length} long")
    if new != old:
        key, rest = number.path[0], number.path[1:]
        _assign(module, str(key), _replaced(getattr(module, str(key)), rest, new) if rest else new)


def _spelled(path: Path) -> str:
    return "".join(f"[{key!r}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def _keep_in_copies(module: nn.Module, number: Number, original: nn.Module) -> None:
    """Let copies of a module keep a number: one that is restored from other numbers of its own forgets it otherwise."""
    if not restores_itself(module):
        return
    at = f"{number.module}.{_spelled(number.path)}".lstrip(".")
    old, new = _look_up(original, number.path, at), _look_up(module, number.path, at)
    if old == new or _kept(module, number, at) == new:
        return
    for key, value in list(vars(module).items()):
        for path in _places_of(value, old):
            before = vars(module)[key]
            _assign(module, key, _replaced(before, path, new) if path else new)
            if _kept(module, number, at) == new:
                return
            _assign(module, key, before)


def _kept(module: nn.Module, number: Number, at: str) -> int | None:
    """The number in a copy; None where there is none."""
    try:
        return _look_up(copy.deepcopy(module), number.path, at)
    except Exception:  # whatever a class says to another number of its own
        return None


def _places_of(value: Any, wanted: int, path: Path = ()) -> Iterator[Path]:
    """Where a number is in tuples, lists and dicts."""
    if type(value) is int and value == wanted:
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, (str, int)):
                yield from _places_of(item, wanted, (*path, key))
    elif isinstance(value, (tuple, list)):
        for place, item in enumerate(value):
            yield from _places_of(item, wanted, (*path, place))


def _look_up(value: Any, path: Path, at: str) -> int:
    try:
        for key in path:
            value = _item(value, key)
    except (AttributeError, LookupError, TypeError):
        value = None
    if not isinstance(value, int):
        raise SpaceError(f"the plan changes the number {at}, and there is none; make the plan again with nas.elastic")
    return value


def _item(value: Any, key: str | int) -> Any:
    return value[key] if isinstance(value, list | tuple | Mapping) else getattr(value, str(key))  # type: ignore[index]


def _replaced(value: Any, path: Path, new: int) -> Any:
    """A shallow copy of `value` with another number in it: what it is part of may be shared."""
    if not path:
        return new
    inner = _replaced(_item(value, path[0]), path[1:], new)
    if isinstance(value, tuple):
        items = [inner if place == path[0] else item for place, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = copy.copy(value)
        object.__setattr__(changed, str(path[0]), inner)  # a frozen one, too
        return changed
    changed = copy.copy(value)
    if isinstance(changed, list | Mapping):
        changed[path[0]] = inner  # type: ignore[index]
    else:
        _assign(changed, str(path[0]), inner)
    return changed


def _assign(owner: Any, name: str, value: Any) -> None:
    """Set an attribute that the owner has for itself, without what its class does when it is set."""
    if name in getattr(owner, "__dict__", ()):
        owner.__dict__[name] = value
    else:
        setattr(owner, name, value)


def solve(expression: Any, length: int, old: int) -> int | None:
    """The x, at most `old`, for which `expression` is `length`; None where there is none.

    Of several the one whose divisions leave the least, then the largest: what is divided is rarely meant to leave a rest.

    >>> solve(["//", 96, "x"], 32, 6), solve(["//", "x", 8], 4, 64), solve(["*", "x", 3], 10, 64)
    (3, 32, None)
    """
    best, least = None, None
    for x in range(old, 0, -1):
        value, rest = _value(expression, x)
        if value == length and (least is None or rest < least):
            best, least = x, rest
            if not rest:
                break
    return best


def _value(expression: Any, x: int) -> tuple[int | None, int]:
    """The value of an expression, None where it divides by zero, and what its divisions leave."""
    if not isinstance(expression, list):
        return x if expression == "x" else int(expression), 0
    operator, *operands = expression
    (left, left_rest), (right, right_rest) = (_value(operand, x) for operand in operands)
    if left is None or right is None or (operator in ("//", "%") and right == 0):
        return None, 0
    rest = left_rest + right_rest + (left % right if operator == "//" else 0)
    return _OPERATORS[operator](left, right), rest


_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "//": lambda left, right: left // right,
    "%": lambda left, right: left % right,
}


# -- what torch's layers say of their own sizes


@contextmanager
def _without_steps(*modules: nn.Module) -> Iterator[None]:
    """Parametrisations in eval mode: in training mode each read of `.weight` is a step of `spectral_norm`'s power iteration."""
    lists = [one for module in modules for one in module.modules() if isinstance(one, ParametrizationList)]
    modes = [(part, part.training) for each in lists for part in each.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, training in modes:
            part.training = training


def _own_sizes(layer: nn.Module, original: nn.Module, told: Collection[Path]) -> None:
    """Set the sizes that one of torch's layers keeps beside its tensors, where the original's agree with its tensors."""
    for kind, sizes_of in _LAYERS:
        if isinstance(layer, kind):
            before, after = sizes_of(original), sizes_of(layer)
            for name, value in after.items():
                agrees = getattr(original, name, None) == before[name]
                if agrees and value != before[name] and not any(path[0] == name for path in told):
                    _assign(layer, name, value)
    if isinstance(layer, nn.RNNBase):  # keeps a list of its parameters
        layer._init_flat_weights()


def _convolution(layer: Any) -> dict[str, Any]:
    first, second = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
    return {"in_channels": first, "out_channels": second} if layer.transposed else _in_out(second, first, "channels")


def _in_out(inputs: int, outputs: int, of: str) -> dict[str, Any]:
    return {f"in_{of}": inputs, f"out_{of}": outputs}


def _normalized(layer: Any) -> dict[str, Any]:
    return {} if layer.weight is None else {"normalized_shape": tuple(layer.weight.shape)}


def _batch_norm(layer: Any) -> dict[str, Any]:
    tensor = layer.weight if layer.weight is not None else layer.running_mean
    return {} if tensor is None else {"num_features": tensor.shape[0]}


def _recurrent(layer: Any) -> dict[str, Any]:
    gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
    rows, columns = layer.weight_hh_l0.shape
    sizes = {"input_size": layer.weight_ih_l0.shape[1], "hidden_size": rows // gates}
    return sizes | ({"proj_size": columns} if layer.proj_size else {})


def _bilinear(layer: Any) -> dict[str, Any]:
    outputs, first, second = layer.weight.shape
    return {"in1_features": first, "in2_features": second, "out_features": outputs}


_LAYERS: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], Callable[[Any], dict[str, Any]]], ...] = (
    (nn.Linear, lambda layer: _in_out(layer.weight.shape[1], layer.weight.shape[0], "features")),
    (nn.Bilinear, _bilinear),
    (nn.modules.conv._ConvNd, _convolution),
    (nn.modules.batchnorm._NormBase, _batch_norm),
    (nn.GroupNorm, lambda layer: {} if layer.weight is None else {"num_channels": layer.weight.shape[0]}),
    ((nn.LayerNorm, nn.RMSNorm), _normalized),
    (
        (nn.Embedding, nn.EmbeddingBag),
        lambda layer: dict(zip(("num_embeddings", "embedding_dim"), layer.weight.shape, strict=True)),
    ),
    (nn.PReLU, lambda layer: {"num_parameters": layer.weight.numel()}),
    (nn.RNNBase, _recurrent),
    (
        nn.RNNCellBase,
        lambda layer: {"input_size": layer.weight_ih.shape[1], "hidden_size": layer.weight_hh.shape[1]},
    ),
)


# -- what a copy cannot follow


def shared_with(model: nn.Module, resized: nn.Module) -> Iterator[str]:
    """Where a copy of `model` still holds a tensor of the original: closures are not copied."""
    from nas.supernet import attributes

    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for path, value in attributes.leaves(resized).items():
        if id(value) in own:
            yield path
