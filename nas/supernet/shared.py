"""The weights of a supernet, and the one way to take a subnet's from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nas.errors import LayoutError, SupernetError, suggest
from nas.supernet.parts import Shape
from nas.supernet.skeleton import Slot
from nas.supernet.union import Union


class Shared:
    """Parameters and learnt buffers, registered in `root` under the model's own names.

    Forward, bound subnets, extraction and counting all ask here, so that they cannot disagree.
    Tensors are looked up where they hang at each use: replaced, moved and re-loaded ones are found.

    Attributes:
        generation: how often held buffers were replaced, so that views on them must be made anew.
        trained: calls of subnets in training mode, any of which may have updated running statistics.

    Args:
        root: gets nested plain modules with the tensors.
        union: names, shapes, ties and cuts.
        values: tensor of every canonical name, and of the cuts' own parameters where they are known already.
    """

    def __init__(self, root: nn.Module, union: Union, values: Mapping[str, Tensor]) -> None:
        self._root = root
        self.union = union
        self.generation = 0
        self.trained = 0
        self.homes: dict[str, Slot] = {}
        self.buffers: dict[str, Slot] = {}
        for alias, name in union.ties.items():
            table, key = _container(root, alias, "_parameters")
            if name in self.homes:
                table[key] = self.tensor(name)
            else:
                table[key] = nn.Parameter(values[name], requires_grad=union.trainable[name])
                self.homes[name] = (table, key)
        for name in sorted(union.buffers):
            self._hang(name, values[name])
        for helper, value in union.helpers().items():
            table, key = self.homes[helper] = _container(root, helper, "_parameters")
            table[key] = nn.Parameter(values.get(helper, value))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((table[key].device for table, key in self.homes.values()), torch.device("cpu"))

    def tensor(self, name: str) -> Tensor:
        """The whole tensor of canonical name `name`."""
        table, key = self.homes.get(name) or self.buffers[name]
        tensor: Tensor = table[key]
        return tensor

    def state(self) -> dict[str, Tensor]:
        """Everything that is learnt, under canonical names."""
        return {name: table[key] for name, (table, key) in {**self.homes, **self.buffers}.items()}

    def hold(self, union: Union, values: Mapping[str, Tensor]) -> None:
        """Hold more buffers from now on: `union` has them, and `values` are theirs."""
        self.union = union
        for name in sorted(values):
            self._hang(name, values[name].to(self.device, self._dtype(values[name])))
        self.generation += 1

    def put(self, name: str, value: Tensor, shapes: Mapping[str, Shape]) -> None:
        """Let the part of the held buffer `name` that the subnet whose tensors have `shapes` has be `value`.

        The buffer is replaced, not written to: a graph may have been recorded with it.
        """
        table, key = self.buffers[name]
        table[key] = table[key].clone()
        self.write(name, value, shapes)
        self.generation += 1

    def write(self, name: str, value: Tensor, shapes: Mapping[str, Shape]) -> None:
        """As `put`, in place."""
        whole, cut = self.tensor(name), self.union.cut(name, shapes)
        pieces = cut.split(value.detach(), whole.shape)
        for window, piece in zip(cut.windows(whole, tuple(value.shape)), pieces, strict=True):
            window.copy_(piece.reshape(window.shape))

    def _hang(self, name: str, value: Tensor) -> None:
        table, key = self.buffers[name] = _container(self._root, name, "_buffers")
        table[key] = value

    def name_of(self, names: list[str], shape: Shape) -> str:
        """Canonical name of what a subnet's parameter called `names` (several if tied) is cut from.

        Raises:
            SupernetError: no such parameter is held, or a smaller one, or `names` are several parameters here.
        """
        for alias in names:
            if alias not in self.union.ties:
                raise SupernetError(
                    f"parameter {alias!r} is not held: no covering arch of the space has it{suggest(alias, self.union.ties)}; "
                    "make the space's largest arch, or a candidate, have it"
                )
        name = self.union.ties[names[0]]
        whole = self.union.shapes[name]
        if len(whole) != len(shape) or any(part > held for part, held in zip(shape, whole, strict=True)):
            raise SupernetError(
                f"parameter {names[0]!r} of shape {tuple(shape)} does not fit into {whole}, which is held; "
                "say which values are largest with nas.Space(..., largest={...})"
            )
        if len(names) > 1 and any(self.union.ties[alias] != name for alias in names):
            raise SupernetError(
                f"parameters {names} are one in this arch and several in the supernet; tie them in all archs"
            )
        return name

    def part(self, names: list[str], shape: Shape, shapes: Mapping[str, Shape]) -> Tensor:
        """A parameter of the subnet whose tensors have `shapes`, as a differentiable function of the whole one."""
        name = self.name_of(names, shape)
        whole = self.tensor(name)
        try:
            cut = self.union.cut(name, shapes)
            sources = cut.sources(whole, shape)
            helpers = {suffix: self.tensor(f"{name}_{suffix}") for suffix in cut.needs(shape)}
        except LayoutError as error:
            raise LayoutError(f"parameter {name!r}: {error}") from error
        return cut.join(sources, whole.shape, shape, helpers)

    def buffer(self, name: str, like: Tensor, shapes: Mapping[str, Shape]) -> Tensor:
        """A subnet's buffer: cut from the held one, or what the constructor computed (`like`), on the weights' device."""
        if name not in self.buffers:
            return like.to(self.device, self._dtype(like))
        try:
            whole, cut = self.tensor(name), self.union.cut(name, shapes)
            return cut.join(cut.sources(whole, like.shape), whole.shape, like.shape, {})
        except LayoutError as error:
            raise LayoutError(f"buffer {name!r}: {error}") from error

    def _dtype(self, like: Tensor) -> torch.dtype:
        """Floating-point constants follow the weights when those were converted, as `module.half()` has it."""
        for name, built in self.union.dtypes.items():
            if name in self.homes and built.is_floating_point and like.is_floating_point():
                now = self.tensor(name).dtype
                return like.dtype if now == built else now
        return like.dtype


def _container(root: nn.Module, name: str, table: str) -> Slot:
    """Where tensor `name` hangs, in nested plain modules made as needed."""
    *path, leaf = name.split(".")
    owner = root
    for part in path:
        # Not add_module: a model may have a child called like a method of the supernet.
        child = owner._modules.get(part)
        if child is None:
            child = owner._modules[part] = nn.Module()
        owner = child
    return getattr(owner, table), leaf
