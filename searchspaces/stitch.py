"""Stitchable networks: paths that begin in one trained network and end in another, joined by linear layers.

Pan et al. 2023, "Stitchable Neural Networks" (SN-Net), and Pan et al. 2023, "Stitched ViTs are Flexible Vision Backbones"
(SN-Netv2), over any two or more *anchors*: transformers and stages of convolutional networks, of equal or unequal depth.

    anchors = [nas.model(vit)(width=48), nas.model(vit)(width=64), trained_module]
    net = stitch.supernet(stitch.space(anchors, blocks="blocks", example=images[:1]))
    stitch.least_squares(net, images[:100])
    nas.train.train(net, task, sampler=nas.Uniform(), loss=nas.Labels())

A path is one decision, `route`, written as `stitching_plan` says; the space is uniform over paths, so `nas.Uniform` is the
sampling of SN-Net and `nas.train.Bucketed(net.macs, …)` that of SN-Netv2.  The supernet's parameters are called
`anchors.0.<the anchor's own names>` and `stitches.0to1_3.weight`.  A route through one anchor is that very anchor.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import pyglove as pg
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.errors import SpaceError, SupernetError, suggest
from nas.supernet.inputs import Inputs, call, convert
from nas.supernet.layouts import Cut
from nas.supernet.skeleton import quiet
from searchspaces.stitching_plan import Hop, Planner, SNNet, parse
from searchspaces.stitching_trunk import Ref, Shape, Steps, Trunk, Weaver, expand, record

TRUNKS = 64
"""Recorded anchors kept."""


class Stitch(nn.Module):
    """A linear map of the channels, with bias; with a `rank` it is frozen but for its bias and a low-rank update (LoSA).

    y = W x + b + (1 / rank) · B A x.  A is drawn as nn.Linear draws weights and B is zero (SN-Netv2; α = 1).

    Args:
        inputs: channels of the front.
        outputs: channels of the end.
        axis: of the channels: -1 for tokens, 1 for images (n, channels, h, w).
        rank: of the update; None trains the weight itself.
    """

    def __init__(self, inputs: int, outputs: int, axis: int = -1, rank: int | None = None) -> None:
        super().__init__()
        made = nn.Linear(inputs, outputs)
        self.axis, self.rank = axis, rank
        self.weight, self.bias = made.weight, made.bias
        if rank is not None:
            self.weight.requires_grad_(False)
            self.down = nn.Parameter(nn.Linear(inputs, rank, bias=False).weight.detach())
            self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Channels of the front -> channels of the end."""
        y = self._map(x, self.weight, self.bias)
        if self.rank is None:
            return y
        return y + self._map(self._map(x, self.down, None), self.up, None) / self.rank

    def _map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.axis == -1:
            return functional.linear(x, weight, bias)
        return functional.conv2d(x, weight[:, :, None, None], bias)


class Given:
    """Something that a space holds as it is and that is equal to nothing else: a module, a function, an example."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Given({type(self.value).__name__})"


def _hang(root: nn.Module, path: str, table: str, value: Any) -> None:
    """Put `value` at `path`, in plain modules made as needed."""
    *owners, leaf = path.split(".")
    for name in owners:
        if name not in root._modules:
            root._modules[name] = nn.Module()
        child = root._modules[name]
        assert child is not None
        root = child
    if table == "_parameters":
        root.register_parameter(leaf, value)
    else:
        getattr(root, table)[leaf] = value


def _copied(module: nn.Module) -> nn.Module:
    """A copy of `module` whose parameters are registered anew, so that a skeleton of it costs no memory."""
    fresh = {
        id(old): nn.Parameter(old.detach(), requires_grad=old.requires_grad)  # shares the storage at first
        for old in module.parameters()
    }
    copied = copy.deepcopy(module, dict(fresh))
    held: set[int] = set()
    for owner in copied.modules():
        for name, parameter in list(owner._parameters.items()):
            if parameter is not None:
                owner.register_parameter(name, parameter)
                if owner._parameters[name] is parameter and id(parameter) not in held:
                    held.add(id(parameter))
                    parameter.data = parameter.data.clone()
    return copied


def _made(anchor: Any, number: int) -> nn.Module:
    """A module of its own for `anchor`.

    Raises:
        SpaceError: it is no module and makes none.
    """
    given = anchor.value if isinstance(anchor, Given) else anchor
    made = _copied(given) if isinstance(given, nn.Module) else given() if callable(given) else given
    if not isinstance(made, nn.Module):
        raise SpaceError(
            f"anchor {number} is a {type(made).__name__}; give a module, or a function (a model function's call) that builds one"
        )
    return made


_trunks: OrderedDict[Any, tuple[Any, Trunk]] = OrderedDict()


def _trunk(anchor: Any, module: nn.Module, blocks: str, example: Given, number: int) -> Trunk:
    """The trunk of `anchor`, of which `module` is one, recorded once."""
    same = id(anchor) if isinstance(anchor, Given) else f"{type(anchor).__module__}.{anchor!r}"
    key = same, blocks, id(example), number
    if key not in _trunks:
        trunk = record(module, blocks, example.value, number)
        _trunks[key] = (anchor, example), trunk  # what an id is of is kept, so that it stays its own
        if len(_trunks) > TRUNKS:
            _trunks.popitem(last=False)
    return _trunks[key][1]


@nas.model  # type: ignore[untyped-decorator]
def stitched(
    *,
    route: str,
    anchors: Sequence[Any],
    blocks: Sequence[str],
    stitches: Mapping[str, str],
    example: Given,
    axis: int | None = None,
    rank: int | None = None,
) -> nn.Module:
    """One path through the anchors.

    Args:
        route: which, as `"0:3>1:4"`.
        anchors: calls of model functions, or `Given` modules and functions.
        blocks: where the blocks of each anchor are.
        stitches: hop -> name of its stitch layer.
        example: inputs of one sample.
        axis: of the channels; None takes 1 for features of four dimensions and -1 for others.
        rank: of low-rank stitches; None trains whole ones.
    """
    hops = parse(route)
    order = [hop.front for hop in hops] + [hops[-1].end] if hops else [int(route)]
    unknown = [number for number in order if number >= len(anchors)]
    if unknown:
        raise SpaceError(f"route {route!r} names anchor {unknown[0]}, and there are {len(anchors)}")
    modules = {number: _made(anchors[number], number) for number in dict.fromkeys(order)}
    if not hops:
        return _Alone(order[0], modules[order[0]])
    trunks = {n: _trunk(anchors[n], module, blocks[n], example, n) for n, module in modules.items()}
    weaver, output, sizes = _weave(hops, trunks, stitches, axis)
    path = Steps(weaver.names, weaver.steps, output)
    for number, kind, target in weaver.used:
        _take(path, number, modules[number], (kind, target), trunks[number])
    for name, size in sizes.items():
        _hang(path, f"stitches.{name}", "_modules", Stitch(*size, rank))
    return path


def _weave(
    hops: Sequence[Hop], trunks: Mapping[int, Trunk], stitches: Mapping[str, str], axis: int | None
) -> tuple[Weaver, Any, dict[str, tuple[int, int, int]]]:
    """The steps of a path, its output, and channels (in, out, axis) of its stitches.

    Raises:
        SpaceError: a hop is not stitched, or joins what does not fit.
    """
    weaver = Weaver(trunks[hops[0].front].names)
    leg = weaver.leg(hops[0].front, trunks[hops[0].front], None, None)
    sizes: dict[str, tuple[int, int, int]] = {}
    for hop in hops:
        name = stitches.get(str(hop))
        if name is None:
            raise SpaceError(f"a route has the hop {str(hop)!r}, which the space does not stitch")
        left, entered = _ends(hop, trunks[hop.front], trunks[hop.end])
        where = (1 if len(left) == 4 else -1) if axis is None else axis
        _check_fit(hop, left, entered, where)
        sizes[name] = left[where], entered[where], where
        value: Ref = weaver.put("call_module", f"stitches.{name}", (leg.block(hop.leave),), {})
        leg = weaver.leg(hop.end, trunks[hop.end], hop.enter, value)
    return weaver, leg.output(), sizes


class _Alone(nn.Module):
    """An anchor by itself, under the name that it has in the supernet."""

    def __init__(self, number: int, module: nn.Module) -> None:
        super().__init__()
        self.anchors = nn.ModuleDict({str(number): module})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the anchor's own."""
        (anchor,) = self.anchors.values()
        return anchor(*args, **kwargs)


def _take(path: nn.Module, number: int, module: nn.Module, what: tuple[str, str], trunk: Trunk) -> None:
    """Hang a module or tensor of anchor `number` into `path`, under the name that it has in the supernet."""
    kind, target = what
    name = f"anchors.{number}.{target}"
    if kind == "call_module":
        _hang(path, name, "_modules", module.get_submodule(target))
    elif target in trunk.constants:
        _hang(path, name, "_buffers", trunk.constants[target].clone())
    else:
        prefix, _, leaf = target.rpartition(".")
        owner = module.get_submodule(prefix)
        _hang(path, name, "_parameters" if leaf in owner._parameters else "_buffers", getattr(owner, leaf))


def _ends(hop: Hop, front: Trunk, end: Trunk) -> tuple[Shape, Shape]:
    """What is left and what is entered.

    Raises:
        SpaceError: an anchor has no such block.
    """
    for anchor, block, trunk in ((hop.front, hop.leave, front), (hop.end, hop.enter, end)):
        if block >= len(trunk.blocks):
            raise SpaceError(f"hop {str(hop)!r} names block {block} of anchor {anchor}, which has {len(trunk.blocks)}")
    return front.leaves[hop.leave], end.enters[hop.enter]


def _check_fit(hop: Hop, left: Shape, entered: Shape, axis: int) -> None:
    """Refuse blocks that differ in more than their channels."""
    rest = [tuple(size for place, size in enumerate(s) if place != axis % len(s)) for s in (left, entered)]
    if len(left) != len(entered) or rest[0] != rest[1]:
        raise SpaceError(
            f"block {hop.leave} of anchor {hop.front} gives {left} and block {hop.enter} of anchor {hop.end} takes {entered}; "
            "blocks that are stitched may differ in their channels alone"
        )


def _opaque(anchor: Any) -> Any:
    return anchor if isinstance(anchor, (pg.Functor, Given)) else Given(anchor)


def _largest(anchor: Any, number: int) -> nn.Module:
    """The anchor as a module; the largest where it is elastic itself."""
    if isinstance(anchor, pg.Functor) and not pg.is_deterministic(anchor):
        space_ = nas.Space(anchor)
        return _made(lambda: space_.build(space_.largest), number)
    return _made(anchor, number)


def space(
    anchors: Sequence[Any],
    *,
    example: Inputs,
    blocks: str | Sequence[str] = "blocks",
    plan: Planner | None = None,
    axis: int | None = None,
    rank: int | None = None,
    name: str = "stitch",
) -> nas.Space:
    """The paths through `anchors`, smallest anchor first.

    Args:
        anchors: two or more of: a module, whose weights are kept; a call of a model function, which may have open
            arguments of its own; a function without arguments that builds a module.  A space of the latter two travels
            without weights.
        example: inputs of one sample or more, which every anchor runs on.
        blocks: path of the container of the blocks in each anchor, or one for all; with `*` for stages, as `"stages.*"`.
        plan: which paths; the default is SN-Net's: neighbours in the list, windows of two blocks that slide by one.
        axis: of the channels in what blocks give; None takes 1 for four dimensions, and -1 for others.
        rank: trains stitches by updates of this rank (LoSA; 64 in SN-Netv2); None trains them whole.
        name: of the space.

    Raises:
        SpaceError: fewer than two anchors, blocks that are not there, or that cannot be stitched.
    """
    given = list(map(_opaque, anchors))
    paths = [blocks] * len(given) if isinstance(blocks, str) else list(blocks)
    if len(paths) != len(given):
        raise SpaceError(
            f"{len(paths)} paths of blocks were given for {len(given)} anchors; give one for all, or each its own"
        )
    if rank is not None and rank < 1:
        raise SpaceError(f"rank={rank} is no rank of a low-rank stitch; give 1 or more, or None for whole stitches")
    with quiet():
        modules = [_largest(anchor, number) for number, anchor in enumerate(given)]
    stages = [expand(module, path, number) for number, (module, path) in enumerate(zip(modules, paths, strict=True))]
    planned = (plan or SNNet()).plan([[len(stage) for stage in each] for each in stages])
    held = Given(convert(example, lambda tensor: tensor[:1].detach().clone()))
    with quiet():
        parts = enumerate(zip(given, modules, paths, strict=True))
        trunks = {n: _trunk(anchor, module, path, held, n) for n, (anchor, module, path) in parts}
    for hop in planned.stitches:  # what does not fit is an error here, not of some arch later
        _weave(parse(hop), trunks, planned.stitches, axis)
    value = stitched(
        route=pg.oneof(planned.routes),
        anchors=given,
        blocks=paths,
        stitches=planned.stitches,
        example=held,
        axis=axis,
        rank=rank,
    )
    last = str(len(given) - 1)
    return nas.Space(value, name=name, largest={"route": last}, smallest={"route": "0"})


def supernet(
    space_: nas.Space,
    *,
    weights: Sequence[nn.Module | Mapping[str, Tensor] | None] | None = None,
    layouts: Mapping[str, Cut] | None = None,
    seed: int = 0,
) -> nas.Supernet:
    """A supernet of `space_`, with the weights of the anchors that were given as modules.

    Args:
        space_: made by `space`.
        weights: of anchors, in their order: a module or a state dict each; None leaves an anchor as it is.
        layouts: of the anchors' own parameters, where they are elastic themselves.
        seed: of the initial values.

    Raises:
        SupernetError: weights do not fit their anchor.
    """
    net = nas.Supernet(space_, layouts=layouts, example=space_.value.example.value, seed=seed)
    if weights is not None:
        _fill(net, weights)
    return net


@torch.no_grad()
def _fill(net: nas.Supernet, weights: Sequence[nn.Module | Mapping[str, Tensor] | None]) -> None:
    count = len(net.space.value.anchors)
    if len(weights) != count:
        raise SupernetError(
            f"weights of {len(weights)} anchors were given, and there are {count}; give None for the others"
        )
    held = net.state_dict()
    chosen: list[tuple[Tensor, Tensor]] = []
    for number, given in enumerate(weights):
        if given is None:
            continue
        state = dict(given.state_dict() if isinstance(given, nn.Module) else given)
        prefix = f"anchors.{number}."
        for full in (name for name in held if name.startswith(prefix)):
            name, whole = full.removeprefix(prefix), held[full]
            tensor = state.get(name)
            if tensor is None:
                raise SupernetError(f"weights of anchor {number} have no {name!r}{suggest(name, state)}")
            if tensor.shape != whole.shape:
                shapes = f"{tuple(tensor.shape)}, and the anchor needs {tuple(whole.shape)}"
                raise SupernetError(f"weights of anchor {number} have {name!r} of shape {shapes}")
            chosen.append((whole, tensor))
    for target, source in chosen:  # only when all are known to fit
        target.copy_(source)


@torch.no_grad()
def least_squares(net: nas.Supernet, inputs: Inputs) -> None:
    """Set every stitch to the linear map that best takes what its front gives to what its end takes, on `inputs`.

    weight and bias are the least-squares solution, of smallest norm, of [X₁, 1] · A = X₂ over all samples and positions; a
    layer that several hops share takes the mean of their solutions (SN-Net; 100 training images there).  The anchors run
    with the weights and statistics that the supernet holds, in eval mode.

    Raises:
        SupernetError: an anchor of the space is elastic, so that a stitch has no one solution.
    """
    settings = net.space.value
    if set(net.space.names) != {"route"}:
        raise SupernetError(
            "least squares needs anchors of one width each, and this space has other decisions than its route; "
            "train the stitches, or initialise them anchor by anchor first"
        )
    hops = [(parse(hop)[0], name) for hop, name in settings.stitches.items()]
    features = [_Features(net, number) for number in range(len(settings.anchors))]
    for each in features:
        each.run(inputs)
    solutions: dict[str, list[Tensor]] = {}
    inverses: dict[tuple[int, int], Tensor] = {}
    for hop, name in hops:
        target = features[hop.end].entered[hop.enter]
        key = hop.front, hop.leave
        if key not in inverses:
            left = features[hop.front].left[hop.leave]
            inverses[key] = torch.linalg.pinv(torch.cat([left, left.new_ones(len(left), 1)], 1))  # (C₁ + 1, N·T)
        solutions.setdefault(name, []).append(inverses[key] @ target)
    for name, found in solutions.items():
        solution = torch.stack(found).mean(0)
        net.get_parameter(f"stitches.{name}.weight").copy_(solution[:-1].T)
        net.get_parameter(f"stitches.{name}.bias").copy_(solution[-1])
        if settings.rank is not None:
            net.get_parameter(f"stitches.{name}.up").zero_()


class _Features:
    """What the blocks of one anchor take and give: float64 matrices (positions, channels)."""

    def __init__(self, net: nas.Supernet, number: int) -> None:
        settings = net.space.value
        self._module = net.extract(net.space.arch({"route": str(number)}))
        self._axis = settings.axis
        inner = self._module.get_submodule(f"anchors.{number}")
        self._paths = [path for stage in expand(inner, settings.blocks[number], number) for path in stage]
        self._inner = inner
        self.entered: list[Tensor] = []
        self.left: list[Tensor] = []

    def run(self, inputs: Inputs) -> None:
        """Once; what a block takes is kept before it may change it."""
        for path in self._paths:
            block = self._inner.get_submodule(path)
            block.register_forward_pre_hook(lambda _, taken: self.entered.append(self._matrix(taken[0])))
            block.register_forward_hook(lambda _, __, gave: self.left.append(self._matrix(gave)))
        call(self._module, inputs)

    def _matrix(self, x: Tensor) -> Tensor:
        axis = (1 if x.dim() == 4 else -1) if self._axis is None else self._axis
        return x.movedim(axis, -1).flatten(0, -2).double().cpu()


@torch.no_grad()
def merged(net: nas.Supernet) -> nas.Supernet:
    """The supernet with whole stitches that computes what `net`, whose stitches are low-rank updates, does.

    Raises:
        SupernetError: its stitches are whole already.
    """
    settings = net.space.value
    if settings.rank is None:
        raise SupernetError("the stitches are whole already; merge a supernet whose space has a rank")
    value = net.space.value.clone()
    value.rebind(rank=None)
    options = {"largest": net.space.largest.choices, "smallest": net.space.smallest.choices}
    space_ = nas.Space(value, name=net.space.name, version=net.space.version, **options)
    whole = nas.Supernet(space_, layouts=dict(net._shared.union.cuts), example=net.example)
    state = net.state_dict()
    for name, tensor in whole.state_dict().items():
        tensor.copy_(state[name])
        prefix, _, leaf = name.rpartition(".")
        if prefix.startswith("stitches.") and leaf == "weight":
            tensor.add_(state[f"{prefix}.up"] @ state[f"{prefix}.down"] / settings.rank)
    return whole.to(net.device)
