"""One set of weights for every model of a space."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas.errors import LayoutError, SupernetError, suggest
from nas.space import Arch, Space
from nas.supernet import checkpoint, costs
from nas.supernet.binding import Binding
from nas.supernet.calibration import calibrate
from nas.supernet.inputs import Inputs, arguments
from nas.supernet.layouts import Cut, Shape
from nas.supernet.skeleton import Slot, buffers_of, build, build_skeleton, parameters_of, quiet
from nas.supernet.union import CORNER, Union, initialise, survey
from nas.supernet.weights import fill_from

BINDINGS = 256
"""Bound subnets kept for reuse; a binding has no weights of its own, only modules, views and small buffers."""


class Supernet(nn.Module):
    """One set of weights for every model that `space` can build.

    A subnet's parameter is the leading corner of the supernet's parameter of the same name, except where a `Cut` is
    declared for it, or known of its layer (GPT-2's `c_attn`, timm's `qkv`, `in_proj_weight`, `gate_up_proj`).  There is
    no active arch: every method takes the arch it is about.  `state_dict` has the model's own names.

    Running statistics of normalisation layers are held and cut like parameters, and a subnet in training mode updates its
    corner, so that they are those of the last subnets trained: calibrate an arch before evaluating it.  Other buffers are
    what the model's constructor computes for the arch, unless a cut is declared for their names.

    Bound subnets are cached and share modules, so one supernet is for one thread at a time.

    Args:
        space: builds an `nn.Module` for each of its archs.
        layouts: name pattern (`fnmatch`) of parameters -> how they are cut.  The first that matches wins.
        example: inputs with one sample or more, for counting operations.
        weights: a trained model, or its state dict, whose weights the largest arch gets.
        seed: of the initial values; the random state of the process is left alone.

    Raises:
        SupernetError: archs of the space disagree about a parameter, a pattern matches none, or `weights` do not fit.
        LayoutError: a layout does not fit its parameter.
    """

    def __init__(
        self,
        space: Space,
        *,
        layouts: Mapping[str, Cut] | None = None,
        example: Inputs | None = None,
        weights: nn.Module | Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        union = survey(space, dict(layouts or {}))
        values = initialise(space, union, seed)
        if weights is not None:
            fill_from(space, union, values, weights)
        self._assemble(space, union, values, example)

    def _assemble(self, space: Space, union: Union, values: Mapping[str, Tensor], example: Inputs | None) -> None:
        """Register `values` under the model's own names."""
        self.space = space
        self.example = example
        self._union = union
        self._homes: dict[str, Slot] = {}
        self.buffer_homes: dict[str, Slot] = {}
        for alias, name in union.ties.items():
            table, key = self._container(alias, "_parameters")
            if name not in self._homes:
                table[key] = nn.Parameter(values[name], requires_grad=union.trainable[name])
                self._homes[name] = (table, key)
            else:
                table[key] = self._homes[name][0][self._homes[name][1]]
        for name in sorted(union.buffers):
            table, key = self._container(name, "_buffers")
            table[key] = values[name]
            self.buffer_homes[name] = (table, key)
        for name, cut in union.cuts.items():
            for suffix, value in cut.helpers(union.shapes[name]).items():
                table, key = self._container(f"{name}_{suffix}", "_parameters")
                table[key] = nn.Parameter(values.get(f"{name}_{suffix}", value))
                self._homes[f"{name}_{suffix}"] = (table, key)
        self._bindings: OrderedDict[str, Binding] = OrderedDict()
        self._macs: dict[str, int] = {}
        self._saved: checkpoint.Saved | None = None
        self._origin: tuple[Path, str] | None = None

    def _container(self, name: str, table: str) -> Slot:
        """Where tensor `name` hangs, in nested plain modules made as needed."""
        *path, leaf = name.split(".")
        owner: nn.Module = self
        for part in path:
            # Not add_module: a model may have a child called like a method of this class.
            owner = owner._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
        return getattr(owner, table), leaf

    # -- what a subnet is made of

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.parameters()), torch.empty(0)).device

    def held(self, names: list[str], shape: Shape) -> str:
        """Canonical name of the supernet's parameter that a subnet's parameter is cut from.

        Raises:
            SupernetError: the supernet has no such parameter, or a smaller one, or ties other names to it.
        """
        for alias in names:
            if alias not in self._union.ties:
                raise SupernetError(
                    f"parameter {alias!r} is not held by the supernet of space {self.space.name!r}: no covering arch has it"
                    f"{suggest(alias, self._union.ties)}"
                )
        name = self._union.ties[names[0]]
        whole = self._union.shapes[name]
        if len(whole) != len(shape) or any(length > held for length, held in zip(shape, whole, strict=True)):
            raise SupernetError(
                f"parameter {names[0]!r} of shape {shape} does not fit in the supernet's {whole}; "
                "name the largest arch with nas.Space(..., largest={...})"
            )
        if any(self._union.ties[alias] != name for alias in names):
            raise SupernetError(f"parameters {names} are one in this arch and several in the supernet")
        return name

    def home(self, name: str) -> Slot:
        """Where the supernet's parameter of canonical name `name` hangs."""
        return self._homes[name]

    def cut_of(self, name: str) -> Cut:
        """How canonical name `name` is cut."""
        return self._union.cuts.get(name, CORNER)

    def bind(self, arch: Arch) -> Binding:
        """The subnet of `arch`, with views on the supernet's weights and gradients: the fast way to train and to evaluate.

        A binding may be kept and called again after optimizer steps; several may be called before their backward, and
        their gradients add up in the supernet's.  Use `zero_grad` of the supernet or of an optimizer as with any module.

        Raises:
            SupernetError: `arch` is of another space, or has a parameter that the supernet does not hold.
        """
        binding = self._binding(arch)
        binding.refresh()
        return binding

    def _binding(self, arch: Arch) -> Binding:
        binding = self._bindings.get(arch.key)
        if binding is None:
            self._check(arch)
            binding = self._bindings[arch.key] = Binding(self, build_skeleton(self.space, arch))
            if len(self._bindings) > BINDINGS:
                self._bindings.popitem(last=False)
        else:
            self._bindings.move_to_end(arch.key)
        return binding

    def _check(self, arch: Arch) -> None:
        if not isinstance(arch, Arch):
            raise SupernetError(f"{arch!r} is a {type(arch).__name__}, not an Arch; make one with space.arch({{...}})")
        if arch.space is not self.space and arch.space.fingerprint != self.space.fingerprint:
            raise SupernetError(
                f"arch of space {arch.space.name!r} ({arch.space.fingerprint[:8]}) given to the supernet of space "
                f"{self.space.name!r} ({self.space.fingerprint[:8]}); make it with this supernet's space"
            )

    def forward(self, inputs: Inputs, arch: Arch, buffers: Mapping[str, Tensor] | None = None) -> Any:
        """Output of the subnet of `arch`, differentiable with respect to the supernet's parameters.

        Args:
            inputs: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.
            arch: of the supernet's space.
            buffers: of this arch, from `calibrate`; without it those that the supernet holds.

        Raises:
            SupernetError: as `bind`.
        """
        binding = self._binding(arch)
        if not torch.is_grad_enabled():
            return binding(inputs, buffers)
        binding.refresh()
        positional, keywords = arguments(inputs)
        tensors = {**self._parts(binding.module), **(buffers or {})}
        return functional_call(binding.module, tensors, positional, keywords, tie_weights=False)

    def cut(self, arch: Arch) -> dict[str, Tensor]:
        """The parameters of `arch`, as differentiable functions of the supernet's; tied ones under each name."""
        return self._parts(self._binding(arch).module)

    def _parts(self, module: nn.Module) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        for entry in self._entries(module):
            part = self._part(*entry)
            parts.update(dict.fromkeys(entry[0], part))
        return parts

    def _entries(self, module: nn.Module) -> list[tuple[list[str], Shape]]:
        return [(entry.names, tuple(entry.shape)) for entry in parameters_of(module)]

    def _part(self, names: list[str], shape: Shape) -> Tensor:
        """One parameter of a subnet."""
        name = self.held(names, shape)
        cut = self.cut_of(name)
        helpers = {suffix: self._tensor(f"{name}_{suffix}") for suffix in cut.needs(shape)}
        try:
            return cut.apply(cut.window(self._tensor(name), shape), shape, helpers)
        except LayoutError as error:
            raise LayoutError(f"parameter {name!r}: {error}") from error

    def _tensor(self, name: str) -> Tensor:
        table, key = self._homes[name]
        tensor: Tensor = table[key]
        return tensor

    def extract(self, arch: Arch, buffers: Mapping[str, Tensor] | None = None) -> nn.Module:
        """An ordinary module of the model's own class with a copy of the weights of `arch`, in eval mode.

        It shares nothing with the supernet, its ties are its own, and it computes what `supernet(inputs, arch, buffers)` does.

        Raises:
            SupernetError: as `bind`, or `buffers` are not of this arch.
        """
        self._check(arch)
        with quiet():
            module = build(self.space, arch).to(self.device)
        with torch.no_grad():
            for entry in parameters_of(module):
                entry.tensor.data = (
                    self._part(entry.names, tuple(entry.shape)).detach().clone(memory_format=torch.contiguous_format)
                )
            slots = buffers_of(module)
            for name, (table, key) in slots.items():
                if name in self.buffer_homes:
                    owner, held = self.buffer_homes[name]
                    table[key] = self.cut_of(name).window(owner[held], tuple(table[key].shape)).clone()
            for name, tensor in (buffers or {}).items():
                if name not in slots or slots[name][0][slots[name][1]].shape != tensor.shape:
                    raise SupernetError(
                        f"buffer {name!r} of shape {tuple(tensor.shape)} is not one of this arch; calibrate the arch itself"
                    )
                slots[name][0][slots[name][1]] = tensor.detach().clone()
        return module.eval()

    def calibrate(self, arch: Arch, batches: Iterable[Inputs]) -> dict[str, Tensor]:
        """Running statistics of the subnet of `arch` over `batches`; {} when it has none.  The supernet is left alone.

        Normalisation layers see each batch with its own statistics, everything else is in eval mode.  Mean and unbiased
        variance are averaged over batches, weighted by their elements (Cai et al. 2020; Yu & Huang 2019).

        Raises:
            SupernetError: as `bind`, or there is no batch.
        """
        return calibrate(self.bind(arch), batches)

    # -- costs

    def params(self, arch: Arch) -> int:
        """Number of parameters of the subnet of `arch`, tied ones once."""
        return sum(_numel(shape) for _, shape in self._entries(self._binding(arch).module))

    def macs(self, arch: Arch, example: Inputs | None = None) -> int:
        """Multiply-accumulates for one sample: matrix products, convolutions, attention.

        Args:
            arch: of the supernet's space.
            example: inputs to count with, instead of the supernet's own; the length of the first axis is divided out.

        Raises:
            SupernetError: there is no example, or the model cannot run on the meta device.
        """
        if example is not None:
            self._check(arch)
            return costs.macs(build_skeleton(self.space, arch), example)
        if self.example is None:
            raise SupernetError("macs needs inputs to count with; give example= to the supernet or to macs")
        if arch.key not in self._macs:
            self._check(arch)
            self._macs[arch.key] = costs.macs(build_skeleton(self.space, arch), self.example)
        return self._macs[arch.key]

    # -- keeping

    def save(self, path: str | Path) -> str:
        """Write the supernet to folder `path` and return the SHA-256 of its weights.

        An earlier checkpoint there is replaced in one step, and stays whole if this is interrupted.
        """
        digest = checkpoint.save(Path(path), self.space, self._union, self._state(), self.example)
        self._origin = (Path(path).absolute(), digest)
        self._saved = checkpoint.stamp(self._state())
        return digest

    @classmethod
    def load(cls, path: str | Path, space: Space, *, verify: bool = True) -> Self:
        """The supernet saved in folder `path`; its weights are mapped from the file, and writing to them stays private.

        Args:
            path: folder that `save` wrote.
            space: the space that it was saved with.
            verify: read the weights once to compare their hash; without it a changed file goes unnoticed.

        Raises:
            CheckpointError: missing, truncated, foreign, newer, altered, or of another space.
        """
        supernet = cls.__new__(cls)
        supernet._fill(space, Path(path).absolute(), checkpoint.load(Path(path), space, verify=verify))
        return supernet

    def _fill(self, space: Space, path: Path, loaded: checkpoint.Loaded) -> None:
        training = self.__dict__.get("training", True)  # `eval` may have been what woke it
        nn.Module.__init__(self)
        self.training = training
        self._assemble(space, loaded.union, loaded.values, loaded.example)
        self._origin = (path, loaded.digest)
        self._saved = checkpoint.stamp(self._state())

    @classmethod
    def later(cls, space: Space, path: Path, digest: str) -> Self:
        """The supernet saved in `path` with hash `digest`, loaded when it is first used.

        So that a process which receives one reads nothing that it does not need, and a checkpoint that is gone is an
        error of the evaluation that needs it.
        """
        supernet = cls.__new__(cls)
        supernet.__dict__["_awaited"] = (space, path, digest)
        return supernet

    def __getattr__(self, name: str) -> Any:
        awaited = self.__dict__.get("_awaited")
        if awaited is None:
            return super().__getattr__(name)
        if name == "space":
            return awaited[0]
        if name == "_origin":
            return awaited[1:]
        space, path, digest = awaited
        loaded = checkpoint.load(path, space, digest=digest)
        del self.__dict__["_awaited"]
        self._fill(space, path, loaded)
        return getattr(self, name)

    @property
    def source(self) -> tuple[Path, str] | None:
        """(folder, SHA-256) of the checkpoint that holds exactly these weights; None when there is none."""
        if self._origin is None or self._saved is None or not checkpoint.unchanged(self._saved, self._state()):
            return None
        return self._origin

    def _state(self) -> dict[str, Tensor]:
        """Everything that is learnt, under canonical names."""
        homes = {**self._homes, **self.buffer_homes}
        return {name: table[key] for name, (table, key) in homes.items()}

    def __reduce__(self) -> tuple[Callable[..., Supernet], tuple[Space, str, str]]:
        source = self.source
        if source is None:
            raise SupernetError(
                "a supernet travels as the path of its checkpoint, and this one was never saved or changed since; save it first"
            )
        return checkpoint.revive, (self.space, str(source[0]), source[1])

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Zero the gradients, by default in place, so that they need not be allocated at each step."""
        super().zero_grad(set_to_none)

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"Supernet(space={self.space.name!r}, params={count:,}, device={str(self.device)!r})"


def _numel(shape: Shape) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
