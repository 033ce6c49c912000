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

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import pyglove as pg
import torch
from torch import Tensor, nn

import nas
from nas.errors import SpaceError, SupernetError, suggest
from nas.supernet.inputs import Inputs, call, convert, some
from nas.supernet.layouts import Cut
from nas.supernet.skeleton import quiet
from searchspaces.stitching_guide import Guide, Guided, Span, guide
from searchspaces.stitching_parts import Alone, Given, Stitch, hang, made
from searchspaces.stitching_plan import Hop, Planner, SNNet, parse
from searchspaces.stitching_trunk import (
    Ref,
    Shape,
    Steps,
    Trunk,
    Unrecordable,
    Weaver,
    expand,
    probe,
    record,
    skips_over,
)

TRUNKS = 64
"""Recorded anchors kept."""

_trunks: OrderedDict[Any, tuple[Any, Trunk | Guide]] = OrderedDict()


def _trunk(
    anchor: Any, module: nn.Module, blocks: str, example: Given, number: int, *, guided: bool = False
) -> Trunk | Guide:
    """The trunk of `anchor`, of which `module` is one, recorded once; a guide where it cannot be, or is not to be."""
    same = id(anchor) if isinstance(anchor, Given) else f"{type(anchor).__module__}.{anchor!r}"
    key = same, blocks, id(example), number, guided
    if key not in _trunks:
        _trunks[key] = (anchor, example), _found(module, blocks, example.value, number, guided)
        # what an id is of is kept with it, so that it stays its own
        if len(_trunks) > TRUNKS:
            _trunks.popitem(last=False)
    return _trunks[key][1]


def _found(module: nn.Module, blocks: str, example: Inputs, number: int, guided: bool) -> Trunk | Guide:
    if not guided:
        try:
            return record(module, blocks, example, number)
        except Unrecordable:
            pass
    return guide(probe(module), expand(module, blocks, number), example, number)


def _trunks_of(
    anchors: Sequence[Any], modules: Mapping[int, nn.Module], blocks: Sequence[str], example: Given
) -> dict[int, Trunk | Guide]:
    """The trunks of some anchors: all recorded, or all guides."""
    found = {n: _trunk(anchors[n], module, blocks[n], example, n) for n, module in modules.items()}
    if all(isinstance(trunk, Trunk) for trunk in found.values()):
        return found
    return {n: _trunk(anchors[n], module, blocks[n], example, n, guided=True) for n, module in modules.items()}


@nas.model
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
    modules = {number: made(anchors[number], number) for number in dict.fromkeys(order)}
    if not hops:
        return Alone(order[0], modules[order[0]])
    trunks = _trunks_of(anchors, modules, blocks, example)
    sizes = _sizes(hops, trunks, stitches, axis)
    path = _path(hops, modules, trunks, stitches)
    for name, size in sizes.items():
        hang(path, f"stitches.{name}", "_modules", Stitch(*size, rank))
    return path


def _sizes(
    hops: Sequence[Hop], trunks: Mapping[int, Trunk | Guide], stitches: Mapping[str, str], axis: int | None
) -> dict[str, tuple[int, int, int]]:
    """Channels (in, out, axis) of the stitches of a path.

    Raises:
        SpaceError: a hop is not stitched, or joins what does not fit.
    """
    sizes: dict[str, tuple[int, int, int]] = {}
    for hop in hops:
        name = stitches.get(str(hop))
        if name is None:
            raise SpaceError(f"a route has the hop {str(hop)!r}, which the space does not stitch")
        left, entered = _ends(hop, trunks[hop.front], trunks[hop.end])
        where = (1 if len(left) == 4 else -1) if axis is None else axis
        _check_fit(hop, left, entered, where)
        sizes[name] = left[where], entered[where], where
    return sizes


def _spans(hops: Sequence[Hop], guides: Mapping[int, Guide]) -> list[Span]:
    """The legs of a path of anchors' own forwards.

    Raises:
        SpaceError: a block cannot be entered.
    """
    for hop in hops:
        if hop.enter in guides[hop.end].closed:
            raise skips_over(hop.end, guides[hop.end].blocks[hop.enter - 1])
    enters, leaves = [None, *(hop.enter for hop in hops)], [*(hop.leave for hop in hops), None]
    order = [hop.front for hop in hops] + [hops[-1].end]
    return [Span(*each) for each in zip(order, enters, leaves, strict=True)]


def _woven(hops: Sequence[Hop], trunks: Mapping[int, Trunk], stitches: Mapping[str, str]) -> tuple[Weaver, Any]:
    """The recorded steps of a path, and its output.

    Raises:
        SpaceError: a skip goes over a stitch.
    """
    weaver = Weaver(trunks[hops[0].front].names)
    leg = weaver.leg(hops[0].front, trunks[hops[0].front], None, None)
    for hop in hops:
        value: Ref = weaver.put("call_module", f"stitches.{stitches[str(hop)]}", (leg.block(hop.leave),), {})
        leg = weaver.leg(hop.end, trunks[hop.end], hop.enter, value)
    return weaver, leg.output()


def _guides(trunks: Mapping[int, Trunk | Guide]) -> dict[int, Guide]:
    return {number: each for number, each in trunks.items() if isinstance(each, Guide)}


def _recorded(trunks: Mapping[int, Trunk | Guide]) -> dict[int, Trunk]:
    return {number: each for number, each in trunks.items() if isinstance(each, Trunk)}


def _path(
    hops: Sequence[Hop],
    modules: Mapping[int, nn.Module],
    trunks: Mapping[int, Trunk | Guide],
    stitches: Mapping[str, str],
) -> nn.Module:
    """The path without its stitches; it takes `modules` apart."""
    if guides := _guides(trunks):
        return Guided(_spans(hops, guides), guides, modules, [stitches[str(hop)] for hop in hops])
    weaver, output = _woven(hops, _recorded(trunks), stitches)
    path = Steps(weaver.names, weaver.steps, output)
    for number, kind, target in weaver.used:
        _take(path, number, modules[number], (kind, target), _recorded(trunks)[number])
    return path


def _check(hop: str, trunks: Mapping[int, Trunk | Guide], stitches: Mapping[str, str], axis: int | None) -> None:
    """Refuse a hop that does not fit, before there is an arch with it."""
    hops = parse(hop)
    _sizes(hops, trunks, stitches, axis)
    if guides := _guides(trunks):
        _spans(hops, guides)
    else:
        _woven(hops, _recorded(trunks), stitches)


def _take(path: nn.Module, number: int, module: nn.Module, what: tuple[str, str], trunk: Trunk) -> None:
    """Hang a module or tensor of anchor `number` into `path`, under the name that it has in the supernet."""
    kind, target = what
    name = f"anchors.{number}.{target}"
    if kind == "call_module":
        hang(path, name, "_modules", module.get_submodule(target))
    elif target in trunk.constants:
        hang(path, name, "_buffers", trunk.constants[target].clone())
    else:
        prefix, _, leaf = target.rpartition(".")
        owner = module.get_submodule(prefix)
        hang(path, name, "_parameters" if leaf in owner._parameters else "_buffers", getattr(owner, leaf))


def _ends(hop: Hop, front: Trunk | Guide, end: Trunk | Guide) -> tuple[Shape, Shape]:
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
        return made(lambda: space_.build(space_.largest), number)
    return made(anchor, number)


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
    held = Given(convert(some(example, slice(1)), lambda tensor: tensor.detach().clone()))
    with quiet():
        trunks = _trunks_of(given, dict(enumerate(modules)), paths, held)
    for hop in planned.stitches:
        _check(hop, trunks, planned.stitches, axis)
    value = stitched(
        route=pg.oneof(planned.routes),
        anchors=given,
        blocks=paths,
        stitches=planned.stitches,
        example=held,
        axis=axis,
        rank=rank,
    )
    return _space(value, name, 1)


def _space(value: Any, name: str, version: int) -> nas.Space:
    """The space of a call of `stitched`: what an anchor decides is alive on the routes that go through it."""
    routes = {route: {leg.split(":")[0] for leg in route.split(">")} for route in value.sym_getattr("route").candidates}
    alive = {
        f"anchors[{number}]": ("route", [route for route, through in routes.items() if str(number) in through])
        for number, anchor in enumerate(value.anchors)
        if isinstance(anchor, pg.Functor) and not pg.is_deterministic(anchor)
    }
    largest, smallest = {"route": str(len(value.anchors) - 1)}, {"route": "0"}
    return nas.Space(value, name=name, version=version, active_when=alive, largest=largest, smallest=smallest)


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

    def _matrix(self, x: Any) -> Tensor:
        x = x[0] if isinstance(x, tuple) else x
        axis = (1 if x.dim() == 4 else -1) if self._axis is None else self._axis
        matrix: Tensor = x.movedim(axis, -1).flatten(0, -2).double().cpu()
        return matrix


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
    space_ = _space(value, net.space.name, net.space.version)
    whole = nas.Supernet(space_, layouts=dict(net._shared.union.cuts), example=net.example)
    state = net.state_dict()
    for name, tensor in whole.state_dict().items():
        tensor.copy_(state[name])
        prefix, _, leaf = name.rpartition(".")
        if prefix.startswith("stitches.") and leaf == "weight":
            tensor.add_(state[f"{prefix}.up"] @ state[f"{prefix}.down"] / settings.rank)
    return whole.to(net.device)
