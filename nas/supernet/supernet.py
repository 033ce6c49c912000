"""One set of weights for every model of a space."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from nas import carried, reading
from nas.checking import checked
from nas.errors import Infeasible, SupernetError
from nas.space import Arch, Space
from nas.supernet import checkpoint, costs, low_rank, maps, parts
from nas.supernet.binding import Binding, hang, replace_buffers
from nas.supernet.calibration import calibrate
from nas.supernet.inputs import Inputs, call_with, check_batch, few_samples
from nas.supernet.layouts import Cut
from nas.supernet.pretrained import fill_from
from nas.supernet.proof import FEW, Proof, check_roles, prove
from nas.supernet.shared import Shared
from nas.supernet.skeleton import buffers_of, build, build_skeleton, like, parameters_of, quiet, statistics_of
from nas.supernet.unbuildable import can_build, without_unbuildable
from nas.supernet.union import CORNER, Union, initialise, survey, with_buffers
from nas.supernet.watching import Log, Watch, check_numbers

BINDINGS = 256
"""Bound subnets kept for reuse; a binding has no weights of its own, only modules, views and small buffers."""


class Supernet(nn.Module):
    """One set of weights for every model that `space` can build.

    A subnet's parameter is the leading corner of the supernet's parameter of the same name, except where a `Cut` is
    declared for it, or known of its layer (`nas.supernet.known`: recurrent layers, grouped convolutions, fused projections).
    There is no active arch: every method takes the arch it is about.  `state_dict` has the model's own names.

    With an `example`, or when it is first called, it looks at some archs beside the largest and refuses those that mix units
    (`nas.supernet.proof`); `proof` has what was found.

    Running statistics of normalisation layers are held and cut like parameters, and a subnet in training mode updates its
    corner, so that they are those of the last subnets trained: calibrate an arch before evaluating it.  Buffers that a call in
    training mode changes (statistics of a layer of your own, a codebook, a counter) are held from then on, shared and cut as
    weights are; calibration leaves them alone.  Buffers that the constructor draws at random or computes from the initial
    weights are held and cut too; those of indices (a permutation) are drawn for each arch, the same in every process.  Other
    buffers are what the model's constructor computes for the arch, unless a cut is declared for their names.

    Bound subnets are cached and share modules, so one supernet is for one thread at a time.

    Args:
        space: builds an `nn.Module` for each of its archs.
        layouts: name pattern (`fnmatch`) of parameters -> how they are cut.  The first that matches wins.
        example: inputs with one sample or more, for counting operations; an `Example` where the batch is not their first axis.
        weights: a trained model, or its state dict, whose weights the largest arch gets.
        seed: of the initial values; the random state of the process is left alone.
        check: look whether subnets are made of the units that they claim; without it that is said in checkpoints.

    Raises:
        SupernetError: archs of the space disagree about a parameter, a pattern matches none, `weights` do not fit, or the
            constructor keeps outside of persistent buffers what it draws or computes from the initial weights.
        LayoutError: a layout does not fit its parameter, or a subnet mixes units and declaring one would end that.
    """

    space: Space
    example: Inputs | None
    proof: Proof | None
    """Whether subnets are made of the units that they claim, as far as it was looked at; None if it was not."""
    is_checked: bool
    """False where it was made, or its space, with check=False; checkpoints say so."""
    _shared: Shared

    @checked(SupernetError)
    def __init__(
        self,
        space: Space,
        *,
        layouts: Mapping[str, Cut] | None = None,
        example: Inputs | None = None,
        weights: nn.Module | Mapping[str, Tensor] | None = None,
        seed: int = 0,
        check: bool = True,
    ) -> None:
        super().__init__()
        if example is not None:
            check_batch(example)
        space, union = survey(space, dict(layouts or {}))
        if check:
            check_roles(space, union)
        proof = prove(space, union, example, FEW) if example is not None and check else None
        values = initialise(space, union, seed)
        if weights is not None:
            fill_from(space, union, values, weights)
        low_rank.fill(values, union.factored)
        maps.reset(values, union.mapped)
        self._assemble(space, union, values, example)
        self.trained = weights is not None
        self.is_checked = self.is_checked and check
        self.proof, self._unproven = proof, proof is None and check
        if example is not None:
            check_numbers(self, space.largest, example)

    def _assemble(self, space: Space, union: Union, values: Mapping[str, Tensor], example: Inputs | None) -> None:
        self.space = space
        self.example = example
        self._shared = Shared(self, union, values)
        self.proof, self._unproven = None, False
        self.is_checked = getattr(space, "is_checked", True)
        self._bindings: OrderedDict[str, Binding] = OrderedDict()
        self._macs: dict[str, int] = {}
        self._log = Log()
        self._origin: tuple[Path, str] | None = None
        self._stamp: checkpoint.Stamp | None = None
        self._initial: dict[str, int] | None = None
        self._grown: checkpoint.Grown | None = None
        self._made_in_study = reading.is_strict()

    def forbid_unbuildable(self) -> None:
        """From now on `space` has only archs that can be built: for models that raise `Infeasible` for some.

        A supernet does so by itself where one of the archs that it is made from is such.  Others are found when they are drawn.
        """
        self.space = without_unbuildable(self.space)

    # -- do the weights mean something?

    @property
    def trained(self) -> bool:
        """Whether the weights are others than the constructors drew: trained, loaded or given.

        Assign True where initial weights are meant, or where weights were set in a way that PyTorch does not count.
        """
        initial = self._initial
        return initial is None or any(one._version != initial.get(name) for name, one in self.named_parameters())

    @trained.setter
    def trained(self, trained: bool) -> None:
        self._initial = None if trained else {name: one._version for name, one in self.named_parameters()}

    def check_trained(self) -> None:
        """Refuse to read initial weights in a study; elsewhere everybody may.

        A supernet that an evaluation of a study has made itself may be read.

        Raises:
            SupernetError: so it is.
        """
        if reading.is_strict() and not self._made_in_study and not self.trained:
            raise SupernetError(
                f"the supernet of space {self.space.name!r} was never trained or loaded: its subnets have initial weights; "
                "train it first ('nas train JOB', or Training.run), load a checkpoint (Supernet.load), give it weights=, or set "
                "supernet.trained = True if these weights are meant"
            )

    # -- calling a subnet

    def forward(self, inputs: Inputs, arch: Arch, buffers: Mapping[str, Tensor] | None = None) -> Any:
        """Output of the subnet of `arch`, differentiable with respect to the supernet's parameters.

        Args:
            inputs: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.
            arch: of the supernet's space.
            buffers: of this arch, from `calibrate`; without it those that the supernet holds.

        Raises:
            SupernetError: as `bind`, or `buffers` are of another arch.
        """
        self.check_trained()
        binding = self._fitted(self._binding(arch))
        if not torch.is_grad_enabled():
            return binding(inputs, buffers)
        binding.refresh()
        with binding.buffers(buffers or {}), binding.watched(inputs):
            return call_with(binding.module, inputs, self._parts(binding))

    def has(self, arch: Arch) -> bool:
        """Whether the subnet of `arch` can be built: its model function does not raise `Infeasible`."""
        try:
            self._binding(arch)
        except Infeasible:
            return False
        return True

    def bind(self, arch: Arch) -> Binding:
        """The subnet of `arch`, on the supernet's own weights and gradients: the fast way to train.

        A binding may be kept and called again after optimizer steps; several may be called before their backward, and
        their gradients add up in the supernet's.  Gradients of the rest of the supernet are zero, or None where no
        subnet came since `zero_grad(set_to_none=True)`.

        Raises:
            SupernetError: `arch` is of another space, or has a parameter that the supernet does not hold.
            LayoutError: a layout does not fit a parameter of `arch`.
        """
        self.check_trained()
        binding = self._fitted(self._binding(arch))
        binding.refresh()
        return binding

    def _fitted(self, binding: Binding) -> Binding:
        """The binding, whose linear maps in the place of modules were fitted."""
        if not binding.fitted:
            self._check_maps(binding.module)
            binding.fitted = True
        return binding

    def _check_maps(self, module: nn.Module) -> None:
        for name in parts.mapped_in(module):
            if maps.is_identity(*map(self._shared.tensor, maps.tensors(name))):
                raise SupernetError(
                    f"the linear map in the place of {name!r} was never fitted, and gives what it gets; fit it first: "
                    "nas.fit_linear(supernet, task=…)"
                )

    def _binding(self, arch: Arch) -> Binding:
        self._check(arch)
        binding = self._bindings.get(arch.key)
        if binding is None:
            binding = Binding(self._shared, build_skeleton(self.space, arch), self)
            binding.watch = Watch(self, arch, binding)
            self._bindings[arch.key] = binding
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
                f"arch of space {arch.space.name!r} ({arch.space.fingerprint[:8]}) was given to the supernet of space "
                f"{self.space.name!r} ({self.space.fingerprint[:8]}); make it with this supernet's space"
            )

    def hold(self, names: Set[str]) -> None:
        """Hold the buffers `names` as well, with the values that constructors give them: they are learnt.

        Those that a call in training mode changes are held without being asked for.

        Raises:
            SupernetError: no covering arch of the space has one of them.
        """
        more = names - self._shared.buffers.keys()
        if more:
            with torch.inference_mode(False), torch.no_grad():
                self._shared.hold(*with_buffers(self.space, self._shared.union, more))

    def own_buffers(self) -> list[str]:
        """Names of the buffers that archs of the space have, but for running statistics of torch's layers; in order."""
        names: set[str] = set()
        for arch in filter(self.has, self.space.representatives()):
            module = build_skeleton(self.space, arch)
            names |= buffers_of(module).keys() - statistics_of(module)
        return sorted(names)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module.load_state_dict`; buffers that the state's supernet found to be learnt are held from now on."""
        more = state_dict.keys() - self.state_dict().keys()
        if more:
            self.hold(more & set(self.own_buffers()))
        found = super().load_state_dict(state_dict, strict, assign)
        self.trained = True
        return found

    # -- taking a subnet out

    def cut(self, arch: Arch) -> dict[str, Tensor]:
        """The parameters of `arch`, as differentiable functions of the supernet's; tied ones under each name."""
        self.check_trained()
        return self._parts(self._binding(arch))

    def _parts(self, binding: Binding) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for names, shape in binding.entries:
            found.update(dict.fromkeys(names, self._shared.part(names, shape, binding.shapes)))
        return found

    def extract(self, arch: Arch, buffers: Mapping[str, Tensor] | None = None) -> nn.Module:
        """An ordinary module of the model's own class with a copy of the weights of `arch`, in eval mode.

        It shares nothing with the supernet, its ties are its own, and it computes what `supernet(inputs, arch, buffers)` does.

        Raises:
            SupernetError: as `bind`, or `buffers` are of another arch.
        """
        self._check(arch)
        self.check_trained()
        with torch.inference_mode(False), torch.no_grad():
            module = build_skeleton(self.space, arch)
            self._check_maps(module)
            shapes = self._shared.union.shapes_of(module)
            for entry in parameters_of(module):
                part = self._shared.part(entry.names, entry.shape, shapes).clone(memory_format=torch.contiguous_format)
                hang(like(entry.tensor, part), entry.slots)
            for layer in module.modules():
                if isinstance(layer, nn.RNNBase):  # keeps a list of its parameters
                    layer._init_flat_weights()
            slots = buffers_of(module)
            for name, (table, key) in slots.items():
                table[key] = self._shared.buffer(name, table[key], shapes).clone()
            replace_buffers(slots, {name: tensor.clone() for name, tensor in (buffers or {}).items()})
        parts.unmark(module)
        return module.eval()

    def calibrate(self, arch: Arch, batches: Iterable[Inputs]) -> dict[str, Tensor]:
        """Running statistics of the subnet of `arch` over `batches`; {} when it has none.  The supernet is left alone.

        Normalisation layers see each batch with its own statistics, everything else is in eval mode.  Mean and unbiased
        variance are averaged over batches, weighted by their elements (Cai et al. 2020; Yu & Huang 2019).

        Raises:
            SupernetError: as `bind`, or there is no batch.
        """
        return calibrate(self.bind(arch), batches)

    def cut_otherwise(self, other: Supernet) -> str:
        """The first parameter that `other` cuts in another way, and both ways; "" if there is none."""
        ours, theirs = self._shared.union.cuts, other._shared.union.cuts
        for name in self._shared.union.shapes:
            left, right = ours.get(name, CORNER), theirs.get(name, CORNER)
            if left != right:
                return f"{name!r} by {right}, not by {left}"
        return ""

    # -- is a subnet what it claims to be?

    def prove(self, inputs: Inputs | None = None) -> Proof:
        """Look at every candidate of every decision beside the largest arch: is a subnet made of the units that it claims?

        All other units are put to zero in the largest network, which must then compute what the subnet does, layer by layer; see
        `nas.supernet.proof`.  A supernet looks at a few archs by itself, when it is made with an `example` or first called.

        Args:
            inputs: to call the model with, instead of the supernet's own example; no weight is computed with.

        Returns:
            What was found; it is `proof` from now on, and its `str` a report.

        Raises:
            LayoutError: a subnet mixes units, and declaring a layout would end that.
            SupernetError: there is no example.
        """
        if inputs is None and self.example is None:
            raise SupernetError("prove needs inputs to call the model with; give example= to the supernet or inputs")
        self._unproven = False
        self.proof = prove(self.space, self._shared.union, self.example if inputs is None else inputs)  # type: ignore[arg-type]
        return self.proof

    def prove_once(self, inputs: Inputs) -> None:
        """Look at a few archs, on two samples of `inputs`, unless that was done or these weights were trained elsewhere."""
        if self._unproven:
            self._unproven = False
            self.proof = prove(self.space, self._shared.union, few_samples(inputs), FEW)

    # -- what a subnet costs

    def params(self, arch: Arch) -> int:
        """Number of parameters of the subnet of `arch`, tied ones once."""
        return sum(math.prod(shape) for _, shape in self._binding(arch).entries)

    def macs(self, arch: Arch, example: Inputs | None = None) -> int:
        """Multiply-accumulates of one sample, or of a whole example without a batch: products, convolutions, attention.

        Args:
            arch: of the supernet's space.
            example: inputs to count with, instead of the supernet's own; of several samples one is counted.

        Raises:
            SupernetError: there is no example, the model does not run on it, or its first axis is no batch.
        """
        self._check(arch)
        if example is not None:
            return self._count(arch, example)
        if self.example is None:
            raise SupernetError("macs needs inputs to count with; give example= to the supernet or to macs")
        if arch.key not in self._macs:
            self._macs[arch.key] = self._count(arch, self.example)
        return self._macs[arch.key]

    def _count(self, arch: Arch, example: Inputs) -> int:
        with quiet():
            return costs.macs(build_skeleton(self.space, arch), lambda: build(self.space, arch), example)

    # -- keeping

    def save(self, path: str | Path, *, force: bool = False) -> str:
        """Write the supernet to folder `path` and return the SHA-256 of its weights.

        An earlier checkpoint there is replaced in one step, and stays whole if this is interrupted.

        Args:
            path: folder; made if it is not there.
            force: replace a checkpoint of another space, too.

        Raises:
            CheckpointError: the folder cannot be written, or holds a supernet of another space.
        """
        digest = self._write(Path(path), force=force)
        self._saved_as(Path(path), digest)
        return digest

    def _write(self, path: Path, *, force: bool = False) -> str:
        """Write a copy that is not known as the supernet's checkpoint, unless `_saved_as` follows."""
        return checkpoint.save(
            path,
            self.space,
            self._shared.union,
            self._shared.state(),
            self.example,
            checked=self.is_checked,
            unproved=getattr(self.space, "unproved", ()),
            trained=self.trained,
            grown=self._grown,
            force=force,
        )

    def _saved_as(self, path: Path, digest: str) -> None:
        self._origin = (path.absolute(), digest)
        self._stamp = checkpoint.stamp(self._shared.state())

    @classmethod
    def load(cls, path: str | Path, space: Space, *, verify: bool = True) -> Self:
        """The supernet saved in folder `path`; its weights are mapped from the file, and writing to them stays private.

        Its `example` is of the saved shapes, filled with zeros.

        Args:
            path: folder that `save` wrote.
            space: the space that it was saved with.
            verify: read the weights once to compare their hash; without it a changed file goes unnoticed.

        Raises:
            CheckpointError: missing, truncated, foreign, newer, altered, or of another space.
        """
        supernet = cls.__new__(cls)
        supernet._fill(space, Path(path), checkpoint.load(Path(path), space, verify=verify))
        return supernet

    @classmethod
    def _later(cls, space: Space, path: Path, digest: str) -> Self:
        """The supernet saved in `path` with hash `digest`, loaded when it is first used.

        A process that receives one reads nothing that it does not need, and a checkpoint that is gone is an error of the
        evaluation that needs it.
        """
        supernet = cls.__new__(cls)
        supernet.__dict__["_awaited"] = (space, path, digest)
        return supernet

    def _fill(self, space: Space, path: Path, loaded: checkpoint.Loaded) -> None:
        training = self.__dict__.get("training", True)  # `eval` may be what woke it
        nn.Module.__init__(self)
        self.training = training
        # What else cannot be built is found when it is drawn, as in the supernet that was saved.
        known = all(map(can_build, (space.largest, space.smallest)))
        self._assemble(space if known else without_unbuildable(space), loaded.union, loaded.values, loaded.example)
        self.is_checked = self.is_checked and loaded.checked
        self.trained = loaded.trained
        self._grown = loaded.grown
        self._origin = (path.absolute(), loaded.digest)
        self._stamp = checkpoint.stamp(self._shared.state())

    def __getattr__(self, name: str) -> Any:
        awaited = self.__dict__.get("_awaited")
        if awaited is None or name.startswith("__"):
            return super().__getattr__(name)
        space, path, digest = awaited
        if name == "space":
            return space
        loaded = checkpoint.load(path, space, digest=digest)
        del self.__dict__["_awaited"]
        self._fill(space, path, loaded)
        return getattr(self, name)

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, as `save` returns it: read from them unless they are those of `source`."""
        source = self.source
        return checkpoint.digest(self._shared.state()) if source is None else source[1]

    @property
    def keeps(self) -> tuple[str, ...]:
        """Digests of smaller supernets all of whose archs compute here what they did there: `nas.grow` made this one of them.

        None any more once the weights are trained on.
        """
        grown = self._grown
        return () if grown is None or grown.digest != self.digest else grown.smaller

    def grown_from(self, smaller: Supernet) -> None:
        """Note that all archs of `smaller`, as it is now, compute the same here, as this is now."""
        self._grown = checkpoint.Grown(self.digest, (smaller.digest, *smaller.keeps))

    @property
    def source(self) -> tuple[Path, str] | None:
        """(folder, SHA-256) of the checkpoint that holds exactly these weights; None when there is none.

        Writing through `.data` goes unseen; optimizers, `copy_` and `load_state_dict` are seen.
        """
        if "_awaited" in self.__dict__:
            awaited: tuple[Space, Path, str] = self.__dict__["_awaited"]
            return awaited[1:]
        if self._stamp is None or not checkpoint.unchanged(self._stamp, self._shared.state()):
            return None
        return self._origin

    def __reduce__(self) -> tuple[Callable[..., Supernet], tuple[Space, str, str]]:
        source = self.source
        if source is None:
            raise SupernetError(
                "a supernet travels as the path of its checkpoint, and this one was never saved or changed since; save it first"
            )
        path, digest = str(source[0]), source[1]
        carried.refer(path, digest, lambda: checkpoint.as_folder(path, digest))
        return checkpoint.revive, (self.space, path, digest)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        shared = self._shared
        values = {name: tensor.detach().clone() for name, tensor in shared.state().items()}
        copy = type(self).__new__(type(self))
        nn.Module.__init__(copy)
        copy._assemble(self.space, shared.union, values, self.example)
        copy.is_checked = self.is_checked
        for name, parameter in copy.named_parameters():
            parameter.requires_grad_(self.get_parameter(name).requires_grad)
        copy.training = self.training
        copy.trained = self.trained
        copy._grown = self._grown
        memo[id(self)] = copy
        return copy

    # -- as a module

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._shared.device

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Zero the gradients, by default in place, so that they need not be allocated at each step."""
        super().zero_grad(set_to_none)

    def __repr__(self) -> str:
        if "_awaited" in self.__dict__:
            return f"Supernet(space={self.space.name!r}, not loaded yet)"
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"Supernet(space={self.space.name!r}, params={count:,}, device={str(self.device)!r})"
