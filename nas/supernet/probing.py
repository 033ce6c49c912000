"""A network run on random units: every layer's output is replaced by random numbers, so that what lies between layers shows.

What a layer like `nn.Linear` or a norm does to its units is known from its type.  What is *not* known is the code between
layers: chunks, concatenations, reshapes into heads, sums.  A `Probe` of the subnet records what reaches each layer.  A
`Probe` of the largest network, given the one of the subnet, gives the same random numbers to the units that the subnet has,
and zeros to all others; what reaches each layer must then be the same.  Layers are never computed, so that the cost is that
of the activations, not of the weights.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from nas.supernet.inputs import Inputs, call, convert
from nas.supernet.parts import Shape
from nas.supernet.roles import Port, Role, argument, output_of, role_of
from nas.supernet.skeleton import buffers_of, parameters_of
from nas.supernet.union import Union

Key = tuple[str, int]
"""A layer's name and how often it was called before."""

Base = tuple[str, int, int]
"""A tensor that the probe made: the output of a call, by its number, or a parameter (-1, 0)."""


Attention = tuple[tuple[str, Any], ...]
"""What was computed of attention, by function: lengths of heads, factors by which they are repeated."""


class Call(NamedTuple):
    """What reached a layer: the tensor at each of its ports, and what attention was computed since the call before."""

    inputs: tuple[tuple[Port, Tensor], ...]
    attention: Attention


class Made(NamedTuple):
    """Random numbers in the place of a layer's output or a parameter, as a leaf of autograd, and its units.

    `axis` and `units`: the positions, along that axis, of the units that the subnet has too; None where it has all.
    `name` and `dim`: the parameter, and its dimension, that the units are cut with.
    """

    tensor: Tensor
    axis: int | None
    units: Tensor | None
    name: str
    dim: int


class Probe:
    """One run of `module`, an arch of `union` without its weights.

    Attributes:
        calls: what reached each layer, in order.
        made: the random numbers.
        outputs: floating-point tensors of the network's output.
        last: what attention was computed between the last layer and the output.
        attended: the queries, keys and values of attention, in order.
        norms: names of the layers that keep the shape of what they read.
        foreign: those of `made` that the other probe does not have, or has in another shape.

    Args:
        union: what the arch is cut from.
        module: its skeleton; it is spent.
        inputs: what to call it with.
        small: the probe of the subnet, when this is the one of the largest network.
        full: the largest network has random numbers at its other units too, not zeros.
        draw: which random numbers.
        flat: attention averages, so that what it reads does not depend on queries and keys.
        real: give every layer weights, for a model that reads the weights of a layer without calling it.
    """

    def __init__(
        self,
        union: Union,
        module: nn.Module,
        inputs: Inputs,
        *,
        small: Probe | None = None,
        full: bool = False,
        draw: int = 0,
        flat: bool = False,
        real: bool = False,
    ) -> None:
        self.union = union
        self.shapes = union.shapes_of(module)
        self.calls: dict[Key, Call] = {}
        self.made: dict[Base, Made] = {}
        self.outputs: list[Tensor] = []
        self.foreign: set[Base] = set()
        self._small, self._full, self._draw, self._real = small, full, draw, real
        self._mode = _Steady(flat)
        self._counts: dict[str, int] = {}
        module = module.float().eval()
        roles = self._roles(module)
        self.norms = {name for name, (_, role) in roles.items() if role.keeps_shape}
        self._fill(module, roles)
        for name, (layer, role) in roles.items():
            vars(layer)["forward"] = self._replaced(name, layer, role)
        generator = torch.Generator().manual_seed(draw)
        with torch.enable_grad(), self._mode:
            output = call(module, convert(inputs, lambda tensor: _given(tensor, generator)))
        self.last, self.attended = self._mode.taken(), self._mode.attended
        self.outputs = [one for one in tree_leaves(output) if isinstance(one, Tensor) and one.is_floating_point()]

    def _roles(self, module: nn.Module) -> dict[str, tuple[nn.Module, Role]]:
        """The layers that are replaced, each under one of its names."""
        found: dict[str, tuple[nn.Module, Role]] = {}
        inside: tuple[str, ...] = ()
        for name, layer in module.named_modules():
            role = None if name.startswith(inside) and inside else role_of(layer)
            if role is not None and all(
                f"{name}.{port.parameter}".lstrip(".") in self.union.ties for port in _ports(role)
            ):
                found[name] = (layer, role)
                if layer._modules:  # nn.MultiheadAttention: its own parts are never called
                    inside = (*inside, f"{name}.")
        return found

    # -- weights

    def _fill(self, module: nn.Module, roles: Mapping[str, tuple[nn.Module, Role]]) -> None:
        """Give values to the parameters of layers that are not replaced, and to buffers that are held."""
        replaced = {id(each) for layer, _ in roles.values() for each in layer.parameters()}
        inside = {id(owner._parameters) for layer, _ in roles.values() for owner in layer.modules()}
        for entry in parameters_of(module):
            if not self._real and id(entry.tensor) in replaced and all(id(table) in inside for table, _ in entry.slots):
                continue
            name = self.union.ties[entry.names[0]]
            part = nn.Parameter(self._part(name, tuple(entry.shape)))
            self.made[name, -1, 0] = Made(part, None, None, name, 0)
            for table, key in entry.slots:
                table[key] = part
        for name, (table, key) in buffers_of(module).items():
            if name in self.union.buffers and table[key].is_floating_point():
                table[key] = self._part(name, tuple(table[key].shape)).abs()

    def _part(self, name: str, shape: Shape) -> Tensor:
        """This arch's part of a random whole; zero, in the largest network, where the subnet has nothing."""
        whole = _random(self.union.shapes[name], name, self._draw)
        whole *= 1.4 / max(1.0, (whole.numel() / max(1, whole.shape[0])) ** 0.5) if whole.dim() > 1 else 1.0
        if self._small is not None and not self._full and name in self._small.shapes:
            kept = torch.zeros_like(whole)
            for window in self.union.cut(name, self._small.shapes).windows(kept, self._small.shapes[name]):
                window.fill_(1)
            whole *= kept
        cut = self.union.cut(name, self.shapes)
        sources, helpers = cut.sources(whole, shape), cut.helpers(self.union.shapes[name])
        return cut.join(sources, whole.shape, shape, helpers).clone()

    # -- layers

    def _replaced(self, name: str, layer: nn.Module, role: Role) -> Callable[..., Any]:
        def run(*positional: Any, **keywords: Any) -> Any:
            with self._mode.paused():
                key = (name, self._counts.get(name, 0))
                self._counts[name] = key[1] + 1
                inputs = [(port, argument(at, word, positional, keywords)) for at, word, port in role.inputs]
                present = tuple((_full(name, port), tensor) for port, tensor in inputs if tensor is not None)
                self.calls[key] = Call(present, self._mode.taken())
                leaves, spec = tree_flatten(output_of(layer, role, positional, keywords))
                made = [self._make((*key, index), leaf, _full(name, role.output)) for index, leaf in enumerate(leaves)]
                return tree_unflatten(made, spec)

        return run

    def _make(self, base: Base, like: Any, port: Port) -> Any:
        """Random numbers in the place of `like`."""
        if not isinstance(like, Tensor):
            return like
        if not like.is_floating_point():
            return torch.zeros(like.shape, dtype=like.dtype)
        made = self._embedded(base, tuple(like.shape), port) if self._small is not None else None
        if made is None:
            axis = axis_of(port, self.shapes[self.union.ties[port.parameter]], tuple(like.shape))
            made = Made(
                _random(tuple(like.shape), repr(base), self._draw),
                axis,
                None,
                self.union.ties[port.parameter],
                port.dim,
            )
            self.foreign.add(base)
        made.tensor.requires_grad_(True)
        self.made[base] = made
        return made.tensor.to(like.dtype) * 1.0  # the model may change it in place

    def _embedded(self, base: Base, shape: Shape, port: Port) -> Made | None:
        """The subnet's numbers at its units, zeros elsewhere; None where the subnet has no such tensor, or one unlike it."""
        assert self._small is not None
        given = self._small.made.get(base)
        if given is None:
            return None
        name = self.union.ties[port.parameter]
        if shape == given.tensor.shape:
            return given._replace(tensor=given.tensor.detach().clone())
        units = units_of(self.union, name, port.dim, self._small.shapes, self.shapes)
        axis = axis_of(port, self.shapes[name], shape)
        if units is None or axis is None:
            return None
        tensor = _random(shape, repr(base), self._draw)
        if not self._full:
            dead = torch.ones(shape[axis], dtype=torch.bool)
            dead[units] = False
            tensor.movedim(axis, 0)[dead] = 0
        alive = [length if dim != axis else len(units) for dim, length in enumerate(shape)]
        if alive == list(given.tensor.shape):
            tensor.index_copy_(axis, units, given.tensor.detach())
        # Otherwise it is of another size (images, say): the same units, of which only the numbers differ.
        return Made(tensor, axis, units, name, port.dim)


def _ports(role: Role) -> list[Port]:
    return [*(port for *_, port in role.inputs), role.output]


def _full(name: str, port: Port) -> Port:
    return port._replace(parameter=f"{name}.{port.parameter}".lstrip("."))


def axis_of(port: Port, shape: Shape, tensor: Shape) -> int | None:
    """The axis of a tensor of shape `tensor` that is as long as dimension `port.dim` of a parameter of shape `shape`."""
    length = shape[port.dim]
    for axis in (port.axis, 1, -1):
        if -len(tensor) <= axis < len(tensor) and tensor[axis] == length:
            return axis % len(tensor)
    return None


def units_of(
    union: Union, name: str, dim: int, small: Mapping[str, Shape], large: Mapping[str, Shape]
) -> Tensor | None:
    """Where, along dimension `dim` of the parameter `name` of one arch, the units are that another one has.

    None where the larger one lacks some of them.
    """
    if name not in small or name not in large:
        return None
    ours, theirs = (_kept(union, name, dim, shapes) for shapes in (small, large))
    positions = torch.searchsorted(theirs, ours).clamp_(max=len(theirs) - 1)
    return positions if torch.equal(theirs[positions], ours) else None


def _kept(union: Union, name: str, dim: int, shapes: Mapping[str, Shape]) -> Tensor:
    """Numbers, in the supernet, of what an arch has along a dimension: read off the windows of the cut itself."""
    whole = union.shapes[name]
    numbers = torch.arange(whole[dim]).reshape([-1 if axis == dim else 1 for axis in range(len(whole))]).expand(whole)
    windows = union.cut(name, shapes).windows(numbers, shapes[name])
    # Along all other axes the numbers repeat without a stride.
    lines = [window[tuple([slice(None) if stride else 0 for stride in window.stride()])] for window in windows]
    kept: Tensor = torch.unique(torch.cat([line.flatten() for line in lines]))
    return kept


def _random(shape: Shape, what: str, draw: int) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{what} {draw}".encode()))
    return torch.randn(shape, generator=generator)


def _given(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """An input like `tensor`: a loaded example is all zeros, where no two units would differ."""
    tensor = tensor.detach().cpu().clone()  # not one of inference mode
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.float()
    return tensor if tensor.numel() and tensor.any() else torch.randn(tensor.shape, generator=generator)


class _Steady(TorchFunctionMode):
    """Functions that depend on the number of units, made independent of it, and a record of attention.

    Norms over units pass them on; attention is scaled by a constant, or averages.
    """

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self._flat = flat
        self._attention: list[tuple[str, Any]] = []
        self.attended: list[tuple[str, Tensor]] = []
        self._weighted = False
        self._paused = 0

    def taken(self) -> Attention:
        """What was recorded since it was last asked for."""
        found, self._attention = tuple(self._attention), []
        return found

    def paused(self) -> _Paused:
        """Leaves functions alone meanwhile."""
        return _Paused(self)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self._paused or name in _LOOKS:
            return func(*args, **kwargs)
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        if any(tensor.is_meta for tensor in given):  # a linear layer would go on with whatever is in memory
            raise NotImplementedError("the weights of a layer are read without calling it, on the meta device")
        if name in _OVER_UNITS:
            return _OVER_UNITS[name](*args, **kwargs)
        if name in ("expand", "repeat", "repeat_interleave"):
            self._attention.append((name, str([each for each in args if not isinstance(each, Tensor)])))
        elif name in ("matmul", "bmm", "baddbmm", "__matmul__"):
            self._attention.append(("product", given[-2].shape[-1]))
            self._attend_to(name, given)
        elif name == "scaled_dot_product_attention":
            self._attend_to(name, given)
            self._attention.append(("attention", given[0].shape[-1]))
            if given[0].dim() > 3:
                self._attention.append(("groups", given[0].shape[-3] // max(1, given[1].shape[-3])))
            return self._attend(func, *args, **kwargs)
        elif name == "softmax":
            self._weighted = True
            self._attention.append(("attention", None))
            if self._flat:
                return torch.full(given[0].shape, 1 / given[0].shape[-1])
        return func(*args, **kwargs)

    def _attend_to(self, name: str, given: list[Tensor]) -> None:
        self.attended += _operands(name, given, weighted=self._weighted)
        self._weighted = False

    def _attend(
        self, func: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if self._flat:
            query, key = torch.zeros_like(query), torch.zeros_like(key)
        return func(query, key, value, *args, **{**kwargs, "scale": 0.3})


def _operands(name: str, given: Sequence[Tensor], *, weighted: bool) -> list[tuple[str, Tensor]]:
    """Queries, keys and values among the arguments of a function.

    Args:
        name: of the function.
        given: its tensors.
        weighted: whether a softmax was computed since the product before, so that this one weights values.
    """
    if name == "scaled_dot_product_attention":
        return list(zip(("queries", "keys", "values"), given[:3], strict=False))
    if len(given) < 2 or min(given[-1].dim(), given[-2].dim()) < 4:
        return []
    if weighted:
        return [("values", given[-1])]
    return [("queries", given[-2]), ("keys", given[-1].mT)]


class _Paused:
    def __init__(self, mode: _Steady) -> None:
        self._mode = mode

    def __enter__(self) -> None:
        self._mode._paused += 1

    def __exit__(self, *_: object) -> None:
        self._mode._paused -= 1


def _affine(tensor: Tensor, weight: Tensor | None, bias: Tensor | None, axis: int = -1) -> Tensor:
    """What is left of a norm: the scale and the shift of each unit."""
    shape = [-1, *[1] * (tensor.dim() - 2)] if axis == 1 else [-1]
    for number, combine in ((weight, torch.mul), (bias, torch.add)):
        if number is not None:
            tensor = combine(tensor, number.reshape(shape) if axis == 1 else number)
    return tensor * 1.0


def _group_norm(input: Tensor, *positional: Any, **keywords: Any) -> Tensor:
    named = dict(zip(("num_groups", "weight", "bias", "eps"), positional, strict=False)) | keywords
    return _affine(input, named.get("weight"), named.get("bias"), 1)


def _layer_norm(input: Tensor, *positional: Any, **keywords: Any) -> Tensor:
    named = dict(zip(("normalized_shape", "weight", "bias", "eps"), positional, strict=False)) | keywords
    return _affine(input, named.get("weight"), named.get("bias"))


def _rms_norm(input: Tensor, *positional: Any, **keywords: Any) -> Tensor:
    named = dict(zip(("normalized_shape", "weight", "eps"), positional, strict=False)) | keywords
    return _affine(input, named.get("weight"), None)


def _normalize(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return input * 1.0


_OVER_UNITS: dict[str, Callable[..., Tensor]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "normalize": _normalize,
}

_LOOKS = {"__get__", "size", "dim", "numel", "stride", "is_floating_point", "__len__", "element_size"}
"""What may be asked of a tensor without values."""
