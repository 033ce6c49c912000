"""`nas.grow`: a supernet of a larger space, with the weights of a smaller one.

Old archs are leading corners (or what their cuts say) of the larger weights, so the old weights stay where they are, and
every old arch keeps its tensors bit for bit.  The new largest arch has other units besides.  It computes what the old
largest one did because nothing that was there reads them: columns for new units are zero, and gradients reach them at
once; what writes new units is drawn, or copied, and learns a step later.  Norms over units are the exception, since they
see all units: there new units are copies of the old ones, which changes no mean and no variance where each has equally
many copies.  New blocks are the identity.

Whether that holds is not taken from rules but looked at: tensors of old archs bit for bit, outputs up to rounding.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from nas import reading
from nas.checking import checked
from nas.errors import Infeasible, SpaceError, SupernetError
from nas.space import Arch, Space
from nas.supernet import maps, parts, rounding
from nas.supernet.atomic import Parts
from nas.supernet.enlarging import Placement, divided, enlarged, new_name, placements
from nas.supernet.identities import silenced
from nas.supernet.inputs import Inputs, call, check_batch, convert
from nas.supernet.layouts import Cut
from nas.supernet.order import random_inputs, reads
from nas.supernet.ranking import Place
from nas.supernet.roles import role_of
from nas.supernet.skeleton import build_skeleton, parameters_of
from nas.supernet.states import check_separate, padded
from nas.supernet.supernet import Supernet

Width = Literal["zero", "fpi", "aki"]
Depth = Literal["identity", "stacked"]
Units = Literal["drawn", "copied", "next"]

FEW = 24
"""Archs of the old space that are looked at beside its largest and smallest."""


@checked(SupernetError)
@torch.no_grad()
def grow(
    supernet: Supernet,
    larger: Space | Supernet,
    *,
    width: Width = "zero",
    depth: Depth = "identity",
    units: Units = "drawn",
    layouts: Mapping[str, Cut] | None = None,
    inputs: Inputs | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    seed: int = 0,
) -> Supernet:
    """A supernet of a larger space in which every arch of the old one computes exactly what it did; the old one is left alone.

    The new largest arch computes what the old largest did, up to rounding, in eval mode: training goes on from the same loss.

    - Wider: nothing that was there reads new units, and what writes them is drawn, or copied (`units`).  BatchNorm is of each
      unit alone.  Norms over units (LayerNorm, RMSNorm) see new units too: these are copies, and the new number must be a
      whole multiple of the old; where the weight that reads them is the one that writes them (an embedding that is the head,
      too), norms have zeros for them.  GroupNorm allows more groups of the same size.
    - Deeper: the last layer of each branch of a new residual block is zero, or the scale of its last norm.  A new block that
      changes the shape, or normalises after the sum, has no such layer.
    - Larger kernels have zeros around the old ones.

    What cannot be grown so is refused.  Others' ways are there to compare with, and preserve less:

    - `width="fpi"` (Chen et al. 2022, "bert2BERT"): all units are copies, and what reads them is divided by their number.  The
      new largest arch computes what the old largest did; old archs compute something else.
    - `width="aki"`, of the same paper: new units are those of the next block, which breaks the symmetry.  The new largest arch
      begins near the old largest, and old archs compute something else.
    - `depth="stacked"` (Gong et al. 2019): new blocks are copies of the old ones, in their order.  Old archs compute what they
      did (but for the two above), and the new largest arch something else.

    Args:
        supernet: the smaller one.
        larger: its space, which contains that of the smaller: every arch, as `Space.from_row` follows it.  Or a supernet of
            that space, for its cuts and initial values; it is left as it is.  An automatic space is given the old choices
            besides its own (`Space.including`).
        width: how units are added: see above.
        depth: how blocks are added: see above.
        units: of width="zero", what new units are: "drawn" as the constructor draws them, "copied" from the old ones in turn,
            or "next" from those of the next block (as "aki", without changing anything that was there).  Where norms see them
            they are copied.
        layouts: as `Supernet` takes them; by default the old ones, which new blocks have too.
        inputs: to compare outputs with, instead of the supernet's example.
        optimizer: of the old supernet; it becomes one of the new: what it keeps of a parameter is padded, averages of squares
            by their mean, all else by zeros.  What it keeps in another shape (Adafactor's sums over rows and columns) starts
            anew for the parameters that grew.
        seed: of what is drawn.

    Returns:
        The larger supernet, on the old one's device.

    Raises:
        SupernetError: there are no inputs; the larger space lacks an arch or a tensor of the old one; it cannot be grown
            without changing what the largest arch, or an old one, computes; or the optimizer is LBFGS, which keeps all
            parameters in one vector.
    """
    example = supernet.example if inputs is None else inputs
    if example is None:
        raise SupernetError("grow compares outputs before and after; give the supernet an example=, or inputs=")
    check_batch(example)
    if (width != "zero" or depth != "identity") and units != "drawn":
        raise SupernetError(f"units={units!r} has no effect with width={width!r} and depth={depth!r}; leave it out")
    check_separate(optimizer)
    with reading.any_weights():
        growth = _Growth(supernet, _empty(supernet, larger, layouts, seed), _inputs(example, supernet))
        growth.fill(width, depth, units)
        if optimizer is not None:
            growth.carry(optimizer)
    grown = growth.grown
    grown.trained = supernet.trained
    if width == "zero":
        grown.grown_from(supernet)
    return grown


def _including(space: Space, smaller: Space) -> Space:
    try:
        return space.including(smaller)
    except SpaceError as error:
        raise SupernetError(str(error)) from error


def home(space: Space, arch: Arch) -> Arch:
    """The arch of `space` that is `arch` of a smaller one.

    Raises:
        SupernetError: there is none.
    """
    try:
        found = space.from_row(arch.row(), arch.space.schema())
    except SpaceError as error:
        raise SupernetError(
            f"space {space.name!r} does not contain the old one: {error}; grow to a space that has every old choice"
        ) from error
    if not space.allows(found):
        raise SupernetError(
            f"space {space.name!r} does not contain the old one: its where= refuses {arch!r}; grow to a space that allows it"
        )
    return found


# -- the larger supernet


def _empty(supernet: Supernet, larger: Space | Supernet, layouts: Mapping[str, Cut] | None, seed: int) -> Supernet:
    """A fresh supernet of the larger space, of the old one's device, types, held buffers and training mode."""
    if isinstance(larger, Supernet):
        if layouts is not None:
            raise SupernetError("layouts= has no effect beside a supernet, which has its own; give one of them")
        home(larger.space, supernet.space.largest)
        grown = copy.deepcopy(larger)
    else:
        space = _including(larger, supernet.space)
        home(space, supernet.space.largest)  # before anything is built: whatever is wrong with it follows from that
        cuts = _layouts(supernet, space) if layouts is None else layouts
        grown = Supernet(space, layouts=cuts, example=supernet.example, seed=seed, check=supernet.is_checked)
    if more := supernet._shared.buffers.keys() - grown._shared.buffers.keys():
        grown.hold(set(more) & set(grown.own_buffers()))
    grown.to(supernet.device)
    grown.train(supernet.training)
    for name, tensor in supernet._shared.state().items():
        theirs = grown._shared.tensor(new_name(supernet._shared.union, grown._shared.union, name))
        if tensor.dtype != theirs.dtype and tensor.is_floating_point():
            grown.to(tensor.dtype)
        if isinstance(tensor, nn.Parameter):
            theirs.requires_grad_(tensor.requires_grad)
    return grown


_NUMBER = re.compile(r"(?:(?<=\.)|\A)\d+(?=\.)")


def _layouts(supernet: Supernet, larger: Space) -> dict[str, Cut]:
    """The cuts of the old supernet, which tensors of the same names but for their numbers have too, by name."""
    old = supernet._shared.union.cuts
    alike: dict[str, list[Cut]] = {}
    for name, cut in old.items():
        alike.setdefault(_NUMBER.sub("*", name), []).append(cut)
    found = {}
    for entry in parameters_of(build_skeleton(larger, larger.largest)):
        for name in entry.names:
            cuts = [old[name]] if name in old else alike.get(_NUMBER.sub("*", name), [])
            if cuts and not isinstance(cuts[0], Parts) and all(cut == cuts[0] for cut in cuts):
                found[name] = cuts[0]
                break
    return found


def _inputs(example: Inputs, supernet: Supernet) -> Inputs:
    """The example where it has numbers; else random ones, and of indices the first two, if the model takes them."""
    numbers: list[bool] = []
    convert(example, lambda tensor: numbers.append(bool(tensor.any())))
    given: Inputs = convert(example, lambda tensor: tensor.to(supernet.device))
    if any(numbers):
        return given
    generator = torch.Generator().manual_seed(0)

    def draw(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            return tensor
        return torch.randint(0, 2, tensor.shape, generator=generator).to(tensor)

    drawn: Inputs = convert(random_inputs(supernet, example), draw)
    try:
        call(supernet.extract(supernet.space.largest), drawn)
    except Exception:  # of any kind: what a model does with indices that it does not know
        return given
    return drawn


# -- its values


@dataclass(frozen=True)
class _Way:
    """One way to fill the larger supernet.

    Attributes:
        everywhere: new units are copies of old ones along every axis, not only where norms see them.
        muted: norms that have zeros for new units: none; the "last", where the weight that reads them is one that writes
            them; or "every" one, where what reads them is copied.
    """

    everywhere: bool
    muted: Literal["none", "last", "every"]


@dataclass
class _Growth:
    supernet: Supernet
    grown: Supernet
    inputs: Inputs
    places: dict[str, Placement] = field(init=False)

    def __post_init__(self) -> None:
        ours, theirs = self.supernet._shared, self.grown._shared
        there = build_skeleton(self.grown.space, home(self.grown.space, self.supernet.space.largest))
        self.places = placements(ours.union, theirs.union, parts.sizes_of(there))
        self._old = {
            new_name(ours.union, theirs.union, name): tensor.detach()
            for name, tensor in ours.state().items()
            if name in ours.union.shapes
        }
        self._drawn = {name: tensor.detach().clone() for name, tensor in theirs.state().items()}
        self._helpers = {
            name: tensor.detach() for name, tensor in ours.state().items() if name not in ours.union.shapes
        }
        self._readers, self._both, self._norms = _roles(self.grown)
        self._seen = {
            self._axis(name, dim) for name, place in self.places.items() if name in self._norms for dim in place.grown
        }
        self._largest = self.supernet.extract(self.supernet.space.largest)

    def fill(self, width: Width, depth: Depth, units: Units) -> None:
        """Give the larger supernet its values.

        Raises:
            SupernetError: none would preserve what has to be.
        """
        if width != "zero":
            self._divide(beside=width == "aki")
            if depth == "stacked" or width == "aki":
                self._stack() if depth == "stacked" else self._silence()
                return
            self._settle(f"width={width!r}")
            return
        mutes: tuple[Literal["none", "last", "every"], ...] = ("none", "last", "every") if self._seen else ("none",)
        ways = [_Way(each, muted) for each in ((False, True) if units == "drawn" else (True,)) for muted in mutes]
        reason = ""
        for way in ways:
            self._enlarge(way, beside=units == "next")
            if depth == "stacked":
                self._stack()
                self._check_archs()
                return
            why = self._apart(self._silence())
            if not why:
                self._check_archs()
                return
            reason = reason or why
        raise SupernetError(reason)

    def _settle(self, what: str) -> None:
        """Make new blocks the identity, and look at the largest arch."""
        why = self._apart(self._silence())
        if why:
            raise SupernetError(f"{what} changes what the largest arch computes: {why}")

    def _set(self, name: str, value: Tensor) -> None:
        self.grown._shared.tensor(name).copy_(value)

    def _reset(self) -> None:
        for name, value in self._drawn.items():
            self._set(name, value)
        for name, value in self._helpers.items():
            if name in self._drawn and self._drawn[name].shape == value.shape:
                self._set(name, value)

    def _axis(self, name: str, dim: int) -> Hashable:
        """What is the same for dimensions along the same units: the atoms, or where there are none the lengths."""
        cut, place = self.grown._shared.union.cuts.get(name), self.places[name]
        return tuple(parts.atoms(cut.axes[dim])) if isinstance(cut, Parts) else (place.old[dim], place.new[dim])

    def _enlarge(self, way: _Way, *, beside: bool) -> None:
        self._reset()
        muted = {"none": set[str](), "last": self._last_norm, "every": self._norms}[way.muted]
        for name, place in self.places.items():
            grown = place.grown
            seen = [dim for dim in grown if self._axis(name, dim) in self._seen]
            heard = (
                seen if way.muted == "every" else [dim for dim in grown if way.muted == "last" and name in self._both]
            )
            silent = [dim for dim in grown if (name, dim) in self._readers and dim not in heard]
            copied = [dim for dim in grown if dim not in silent and (way.everywhere or dim in seen)]
            if name in muted:
                value = enlarged(self._old[name], torch.zeros_like(self._drawn[name]), place)
            else:
                more = self._next(name) if beside and not seen else None
                value = enlarged(self._old[name], self._drawn[name], place, copied=copied, silent=silent, beside=more)
            self._set(name, value)

    @cached_property
    def _last_norm(self) -> set[str]:
        """Names of what belongs to the norm over new units that is called last."""
        order: list[set[str]] = [set()]
        for path in _outputs(self._largest, self.inputs):
            names = {name for name in self._norms & self.places.keys() if name.rpartition(".")[0] == path}
            if any(self.places[name].grown for name in names):
                order.append(names)
        return order[-1]

    def _divide(self, *, beside: bool) -> None:
        self._reset()
        for name, place in self.places.items():
            readers = [dim for dim in place.grown if (name, dim) in self._readers]
            self._set(name, divided(self._old[name], place, readers, self._next(name) if beside else None))

    def _next(self, name: str) -> Tensor | None:
        """The old tensor of the next block, if it is like this one."""
        for number in _NUMBER.finditer(name):
            other = f"{name[: number.start()]}{int(number[0]) + 1}{name[number.end() :]}"
            if other in self._old and self._old[other].shape == self._old[name].shape:
                return self._old[other]
        return None

    def _stack(self) -> None:
        """Let tensors of new blocks be those of old ones, in their order."""
        for name in self._drawn.keys() - self.places.keys():
            for other in self._below(name):
                if self._drawn[other].shape == self._drawn[name].shape:
                    self._set(name, self.grown._shared.tensor(other))
                    break

    def _below(self, name: str) -> Iterator[str]:
        for number in _NUMBER.finditer(name):
            before, after = name[: number.start()], name[number.end() :]
            there = sorted(
                {
                    int(each[0])
                    for each in (re.match(r"\d+", one[len(before) :]) for one in self.places if one.startswith(before))
                    if each
                }
            )
            if there and int(number[0]) not in there:
                first = there[int(number[0]) % len(there)]
                for other in dict.fromkeys([first, *reversed(there)]):
                    if f"{before}{other}{after}" in self.places:
                        yield f"{before}{other}{after}"

    def _silence(self) -> list[str]:
        """Make new blocks of the largest arch the identity; those that cannot be."""
        shared = self.grown._shared
        module = self.grown.extract(self.grown.space.largest)
        names, others = silenced(module, _new_blocks(module, set(self.supernet._shared.union.ties)), self.inputs)
        for name in names:
            shared.tensor(shared.union.ties[name]).zero_()
        return others

    # -- is it what it was?

    def _apart(self, blocks: Sequence[str]) -> str:
        """Why the new largest arch does not compute what the old one did; "" if it does.

        Args:
            blocks: new ones that do not give what they get.
        """
        module = self.grown.extract(self.grown.space.largest)
        found = rounding.gap(self._largest, partial(call, module), self.inputs)
        if found.same:
            return ""
        if blocks:
            return (
                f"the new {blocks[0]!r} of the largest arch cannot give what it gets, whichever of its last layers are zero, so "
                "that the largest arch would compute something else; grow to blocks that are added to what they get"
            )
        name = _first_apart(self._largest, module, self.inputs)
        space = self.grown.space.name
        if name is None:
            return (
                f"the largest arch of space {space!r} gives something else than that of the old one, or in another shape; grow "
                "to a space whose largest arch can compute the same"
            )
        layer = f"{name!r} ({type(module.get_submodule(name)).__name__})"
        for tensor, place in self.places.items():
            if tensor.startswith(f"{name}.") and tensor in self._norms and place.grown:
                old, new = place.old[place.grown[0]], place.new[place.grown[0]]
                instead = f"grow to a whole multiple of {old}, or leave" if new % old else "leave"
                return (
                    f"the largest arch cannot be grown from {old} to {new} units through {layer}, which normalises over them, "
                    f"without computing something else; {instead} them as they are"
                )
        return (
            f"the largest arch of space {space!r} cannot compute what that of the old one does: {layer} is the first layer that "
            "gives something else; leave as it was what that layer sees"
        )

    def _check_archs(self) -> None:
        """Old archs have their tensors bit for bit, and compute what they did.

        Raises:
            SupernetError: one does not.
        """
        space, draw = self.supernet.space, random.Random(0)
        covering = space.covering()
        some = covering if len(covering) <= FEW else draw.sample(covering, FEW)
        drawn = [space.smallest, *(space.sample(draw) for _ in range(FEW // 4))]
        for arch in dict.fromkeys([*drawn, *some, space.largest]):
            if not self.supernet.has(arch):
                continue
            there = home(self.grown.space, arch)
            try:
                ours, theirs = (_tensors(net, one) for net, one in ((self.supernet, arch), (self.grown, there)))
            except Infeasible as error:
                raise SupernetError(f"the larger space cannot build {arch!r} of the old one: {error}") from error
            lacking = sorted(ours.keys() ^ theirs.keys())
            different = lacking[0] if lacking else rounding.first_difference(ours, theirs)
            if different is not None:
                raise SupernetError(
                    f"{arch!r} has another {different!r} in the larger space; grow to a space whose archs are built and cut as "
                    "the old ones are"
                )
        for arch in dict.fromkeys([*drawn[:3], space.largest]):
            if self.supernet.has(arch) and not self._lacks_maps(arch):
                module = self.grown.extract(home(self.grown.space, arch))
                before = self.supernet.extract(arch)
                if not rounding.gap(before, partial(call, module), self.inputs).same:
                    raise SupernetError(
                        f"{arch!r} computes something else in the larger space, with the same tensors; grow to a space whose "
                        "model function builds the same for it"
                    )

    def _lacks_maps(self, arch: Arch) -> bool:
        """Whether it has linear maps that were not fitted yet, and computes nothing."""
        names = parts.mapped_in(build_skeleton(self.supernet.space, arch))
        return any(maps.is_identity(*map(self.supernet._shared.tensor, maps.tensors(name))) for name in names)

    # -- an optimizer

    def carry(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer of the old supernet's parameters be one of the new one's, with what it keeps of them padded."""
        union = self.supernet._shared.union
        named = dict(self.supernet._shared.homes)
        theirs = {
            new_name(union, self.grown._shared.union, name)
            if name in union.shapes
            else name: self.supernet._shared.tensor(name)
            for name in named
        }
        replaced = {id(old): name for name, old in theirs.items()}
        for group in optimizer.param_groups:
            for index, old in enumerate(group["params"]):
                name = replaced.get(id(old))
                if name is None:
                    continue
                group["params"][index] = new = self.grown._shared.tensor(name)
                kept = optimizer.state.pop(old, {})
                place = self.places.get(name)
                if left := dict(kept) if place is None else padded(kept, place):
                    optimizer.state[new] = left
        more = [self.grown._shared.tensor(name) for name in self.grown._shared.homes if name not in theirs]
        for one in more:
            _group_for(optimizer, one)["params"].append(one)


def _group_for(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any]:
    """The group of an optimizer in which parameters are that have as many dimensions; else the first."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    alike = (group for group in groups if any(one.dim() == parameter.dim() for one in group["params"]))
    return next(alike, groups[0])


def _tensors(supernet: Supernet, arch: Arch) -> dict[str, Tensor]:
    """Parameters and buffers of an arch."""
    return {**supernet.cut(arch), **supernet._binding(arch).copies()}


def _roles(supernet: Supernet) -> tuple[set[Place], set[str], set[str]]:
    """Dimensions along which layers sum over their inputs; tensors that write such units, too, under another of their names;
    and names of what belongs to norms over units.
    """
    union = supernet._shared.union
    readers: set[Place] = set()
    both: set[str] = set()
    norms: set[str] = set()
    known: set[str] = set()
    for arch, shapes in union.archs:
        if shapes.keys() <= known:
            continue
        known |= shapes.keys()
        readers |= reads(supernet, arch)
        module = build_skeleton(supernet.space, arch)
        for path, owner in module.named_modules(remove_duplicate=False):
            names = {
                union.ties[f"{path}.{name}".lstrip(".")] for name, one in owner._parameters.items() if one is not None
            }
            if isinstance(owner, (nn.RNNBase, nn.RNNCellBase)):
                readers |= {(name, 1) for name in names if name.rpartition(".")[2].startswith("weight")}
            both |= names if isinstance(owner, nn.Embedding) else set()
            role = role_of(owner)
            if role is not None and role.keeps_shape and not isinstance(owner, (_BatchNorm, _InstanceNorm, nn.PReLU)):
                norms |= names
    return readers, both & {name for name, _ in readers}, norms


def _new_blocks(module: nn.Module, old: set[str]) -> list[str]:
    """The outermost modules that have parameters, and only such as no arch of the old space has."""
    found: list[str] = []
    for path, owner in module.named_modules():
        if any(path.startswith(f"{block}.") for block in found):
            continue
        names = [f"{path}.{name}".lstrip(".") for name, _ in owner.named_parameters(remove_duplicate=False)]
        if path and names and not any(name in old for name in names):
            found.append(path)
    return found


def _first_apart(old: nn.Module, new: nn.Module, inputs: Inputs) -> str | None:
    """The first layer with parameters that gives something else in the new network, where old units are the first ones."""
    ours, theirs = (_outputs(module, inputs) for module in (old, new))
    for name, one in ours.items():
        other = theirs.get(name)
        if other is None or one.dim() != other.dim():
            continue
        corner = other[tuple(map(slice, one.shape))]
        if corner.shape == one.shape and not torch.allclose(one, corner, rtol=1e-3, atol=1e-3 * float(one.abs().max())):
            return name
    return None


def _outputs(module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def note(path: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            found.setdefault(path, output.clone())

    hooks = [
        owner.register_forward_hook(lambda _, __, output, path=path: note(path, output))
        for path, owner in module.named_modules()
        if any(one is not None for one in owner._parameters.values())
    ]
    try:
        call(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found
