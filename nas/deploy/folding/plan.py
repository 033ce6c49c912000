"""What of a model can be merged: found in the graph of what it computes, not by names or classes of its modules.

Three kinds of merge: a module that scales and shifts channels goes into the layer before it, or into all the layers that read it;
and two layers with nothing between them become one.  What the graph does not show to be so stays, with the reason.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, fx, nn

from nas.convert.capture import Capture
from nas.deploy.folding.affine import Affine, affine_of, constants_of, name_of, simplify, writes
from nas.deploy.folding.layers import (
    LAYERS,
    TRANSPOSED,
    Layer,
    Undo,
    Unmerged,
    input_scaled,
    joined,
    output_scaled,
    product,
    set_weights,
    undo_all,
)
from nas.deploy.folding.views import VIEWS, axes_of, followed, placed

_CALLS = {
    "linear": 0,
    **{f"{name}{axes}d": axes for name in ("conv", "conv_transpose") for axes in (1, 2, 3)},
}
"""Operators of layers: name -> axes over which the kernel moves."""


@dataclass(frozen=True)
class Merge:
    """A module that goes, and where it goes to.

    Attributes:
        gone: path of the module, in whose place is `nn.Identity` then, or what it calls after it has scaled.
        into: paths of the layers that get other weights.
        apply: does it; gives what undoes it.

    Raises:
        Unmerged: by `apply`, which has changed nothing then.
    """

    gone: str
    into: tuple[str, ...]
    apply: Callable[[], Undo] = field(compare=False)

    @property
    def touched(self) -> frozenset[str]:
        """All modules that it changes."""
        return frozenset((self.gone, *self.into))


@dataclass(frozen=True)
class Plan:
    """Merges that do not touch each other's modules, and why other modules stay."""

    merges: tuple[Merge, ...]
    left: Mapping[str, str]


@torch.no_grad()
def plan(model: nn.Module, found: Capture, refused: Collection[Merge]) -> Plan:
    """What can be merged in one go.

    Args:
        model: in eval mode.
        found: its graph, which is simplified in place.
        refused: merges that are not to be tried again.
    """
    return _Planner(model, found).plan(refused)


@dataclass(frozen=True, eq=False)
class _Part:
    """A module that scales and shifts: its nodes are between these two.

    Attributes:
        path: of the module.
        given: what it reads.
        result: the scaled and shifted.
        affine: how.
        rest: names of the children that it then calls, one after another; the last gives the module's output.
    """

    path: str
    given: fx.Node
    result: fx.Node
    affine: Affine
    rest: tuple[str, ...] = ()


_Scaled: TypeAlias = Callable[[Layer, Affine], tuple[Tensor, Tensor]]


class _Planner:
    def __init__(self, model: nn.Module, found: Capture) -> None:
        self.model, self.found = model, found
        simplify(found.graph)
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.inside: dict[str, list[fx.Node]] = {}
        self.nodes = [node for node in found.graph.nodes if node.op == "call_function"]
        for node in self.nodes:
            path = found.paths.get(node, "")
            while path:
                self.inside.setdefault(path, []).append(node)
                path = path.rpartition(".")[0]
        values = {
            source.node: source.tensor
            for source in found.sources
            if source.kind in ("parameter", "buffer", "table") and not set(source.names) & set(found.written)
        }
        self.names = {source.node: source.names for source in found.sources if source.kind == "parameter"}
        self.constants = constants_of(found.graph, values)
        self.layers = {node: layer for node in self.nodes if (layer := self._layer(node)) is not None}

    def plan(self, refused: Collection[Merge]) -> Plan:
        merges: list[Merge] = []
        left: dict[str, str] = {}
        touched: set[str] = set()

        def consider(name: str, make: Callable[[], Merge], *, told: bool) -> None:
            try:
                merge = make()
            except Unmerged as reason:
                if told:
                    left[name] = str(reason)
                return
            if merge not in refused and not merge.touched & touched:
                touched.update(merge.touched)
                merges.append(merge)

        parts = list(self._parts())
        for part in parts:
            consider(part.path, lambda part=part: self._part_merge(part), told=self._is_norm(part))  # type: ignore[misc]
        for path, reason in self._other_norms(parts):
            left.setdefault(path, reason)
        for node, layer in self.layers.items():
            before = node.args[0]
            if isinstance(before, fx.Node) and before in self.layers:
                consider(layer.path, lambda n=node: self._pair_merge(n), told=True)  # type: ignore[misc]
        return Plan(tuple(merges), {path: reason for path, reason in left.items() if path not in touched})

    # -- what the graph consists of

    def _layer(self, node: fx.Node) -> Layer | None:
        """The layer whose own weight and bias the operator reads."""
        spatial = _CALLS.get(name_of(node))
        if spatial is None or len(node.args) < 2:
            return None
        weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
        path, _, last = next(iter(self._names(weight)), "").rpartition(".")
        module = self.modules.get(path)
        if not isinstance(module, LAYERS) or last != "weight" or not module.weight.is_floating_point():
            return None
        if (
            f"{path}.bias".lstrip(".") not in self._names(bias)
            if bias is not None
            else module._parameters.get("bias") is not None
        ):
            return None
        return Layer(path, module, spatial, isinstance(module, TRANSPOSED), _padded(node, module), _groups(module))

    def _names(self, node: object) -> tuple[str, ...]:
        """Of a parameter; none of anything else."""
        return self.names.get(node, ()) if isinstance(node, fx.Node) else ()

    def _inside(self, path: str) -> list[fx.Node]:
        return self.inside.get(path, [])

    def _parts(self) -> Iterator[_Part]:
        """The outermost modules that scale and shift, if only at first."""
        done: list[str] = []
        for path, module in self.model.named_modules():
            if not path or isinstance(module, nn.Identity) or any(path.startswith(f"{other}.") for other in done):
                continue
            ends = self._ends(path)
            if ends is None:
                continue
            given, result, nodes = ends
            affine = affine_of(nodes, given, result, self.constants)
            part = self._begun(path, given, result, nodes) if affine is None else _Part(path, given, result, affine)
            if part is not None:
                done.append(path)
                yield part

    def _begun(self, path: str, given: fx.Node, result: fx.Node, nodes: list[fx.Node]) -> _Part | None:
        """A module that scales and shifts itself, and lets its children do the rest: a norm with its activation."""
        own = [node for node in nodes if self.found.paths[node] == path]
        if not own:
            return None
        rest: list[str] = []
        at = own[-1]
        affine = affine_of(own, given, at, self.constants)
        while affine is not None and at is not result:
            below = {
                self.found.paths[user].removeprefix(f"{path}.").partition(".")[0] for user in at.users if user in nodes
            }
            ends = self._ends(f"{path}.{below.pop()}") if len(below) == 1 else None
            if ends is None or ends[0] is not at or not set(at.users) <= set(ends[2]):
                return None
            rest.append(self.found.paths[ends[2][0]].removeprefix(f"{path}.").partition(".")[0])
            at = ends[1]
        return None if affine is None or not rest else _Part(path, given, own[-1], affine, tuple(rest))

    def _ends(self, path: str) -> tuple[fx.Node, fx.Node, list[fx.Node]] | None:
        """The one node that a module reads, the one that others read of it, and its nodes; None if there are more."""
        called = self.found.calls.get(path)
        if called is None or called.times != 1 or called.extras is not None:
            return None
        nodes = self._inside(path)
        own = set(nodes)
        if any(node in self.layers for node in nodes):
            return None
        given = {each: None for node in nodes for each in node.all_input_nodes if each not in own}
        inputs = [each for each in given if each not in self.constants]
        results = [node for node in nodes if any(user not in own for user in node.users)]
        return (inputs[0], results[0], nodes) if len(inputs) == 1 and len(results) == 1 else None

    # -- merges

    def _part_merge(self, part: _Part) -> Merge:
        """Into the layer before it, or into those behind it."""
        if _has_hooks(self.modules[part.path]):
            raise Unmerged("it has hooks")
        before = self._layer_before(part.given)
        if before is None:
            if part.rest:
                raise Unmerged(f"it follows {self._reader(part.given)}, which is no layer, and does more than to scale")
            return self._into_behind(part)
        try:
            return self._into_before(part, *before)
        except Unmerged:
            if not part.rest:
                with suppress(Unmerged):
                    return self._into_behind(part)
            raise

    def _layer_before(self, node: fx.Node) -> tuple[fx.Node, list[fx.Node]] | None:
        """The layer whose output this is, and the views of it in between, in order."""
        views: list[fx.Node] = []
        while node not in self.layers:
            given = node.args[0] if name_of(node) in VIEWS else None
            if not isinstance(given, fx.Node):
                return None
            views.insert(0, node)
            node = given
        return node, views

    def _into_before(self, part: _Part, node: fx.Node, views: list[fx.Node]) -> Merge:
        layer, chain = self.layers[node], [node, *views]
        self._check_layer(node, layer)
        for each, readers in zip(chain, [*({view} for view in views), set(self._inside(part.path))], strict=True):
            other = [user for user in each.users if user not in readers]
            if other:
                raise Unmerged(f"the output of {layer.path!r} is read by {self._reader(other[0])} too")
        axes = axes_of(node)
        axis = axes - 1 - layer.spatial
        affine = placed(part.affine, followed(views, axis), axes, axis) if views else part.affine
        output_scaled(layer, affine)
        return Merge(part.path, (layer.path,), lambda: self._scale(part, {layer: (output_scaled, affine)}))

    def _into_behind(self, part: _Part) -> Merge:
        views: list[fx.Node] = []
        node = part.result
        while len(node.users) == 1 and name_of(next(iter(node.users))) in VIEWS:
            node = next(iter(node.users))
            views.append(node)
        others = [user for user in node.users if user not in self.layers or user.args[0] is not node]
        if others or not node.users:
            read = f"{self._reader(others[0])} reads it" if others else "nothing reads it"
            raise Unmerged(f"it follows {self._reader(part.given)}, and {read}: no layer takes it up")
        if any(writes(user) for user in part.given.users):
            raise Unmerged("what it reads is changed in place")
        how: dict[Layer, tuple[_Scaled, Affine]] = {}
        for user in node.users:
            layer, axes = self.layers[user], axes_of(node)
            axis = axes - 1 - layer.spatial
            first = next((at for at in range(axes_of(part.result)) if followed(views, at) == axis), None)
            affine = placed(part.affine, first, axes, axis) if views else part.affine
            self._check_layer(user, layer)
            input_scaled(layer, affine)
            how[layer] = (input_scaled, affine)
        return Merge(part.path, tuple(layer.path for layer in how), lambda: self._scale(part, how))

    def _pair_merge(self, node: fx.Node) -> Merge:
        """Two layers."""
        given = node.args[0]
        assert isinstance(given, fx.Node)
        first, second = self.layers[given], self.layers[node]
        self._check_layer(given, first)
        self._check_layer(node, second)
        other = [user for user in given.users if user is not node]
        if other:
            raise Unmerged(f"the output of {first.path!r} is read by {self._reader(other[0])} too")
        product(first, second)
        return Merge(second.path, (first.path,), lambda: self._join(first, second))

    def _check_layer(self, node: fx.Node, layer: Layer) -> None:
        if _has_hooks(layer.module):
            raise Unmerged(f"{layer.path!r} has hooks")
        for each in node.args[1:3]:
            if not isinstance(each, fx.Node):
                continue
            names = self._names(each)
            if len(names) != 1:
                raise Unmerged(f"{layer.path!r} shares its weights with {', '.join(map(repr, names[1:])) or 'others'}")
            if set(each.users) != {node}:
                raise Unmerged(f"the weights of {layer.path!r} are read more than once")

    def _scale(self, part: _Part, how: Mapping[Layer, tuple[_Scaled, Affine]]) -> Undo:
        undone: list[Undo] = []
        try:
            for layer, (scaled, affine) in how.items():
                weight, bias = scaled(layer, affine)
                like = layer.module.weight
                assert isinstance(like, Tensor)
                undone.append(set_weights(layer.module, weight, bias, like, always=False))
        except Unmerged:
            undo_all(undone)()
            raise
        parent = self.modules[part.path]
        rest = OrderedDict((name, parent.get_submodule(name)) for name in part.rest)
        undone.append(self._replace(part.path, nn.Sequential(rest) if rest else nn.Identity()))
        return undo_all(undone)

    def _join(self, first: Layer, second: Layer) -> Undo:
        weight, bias = product(first, second)
        try:
            module = joined(first, second)
        except ValueError:
            raise Unmerged(f"{first.path!r} and {second.path!r} do not make one layer of PyTorch") from None
        like = first.module.weight
        assert isinstance(like, Tensor)
        keeps_bias = any(layer.module._parameters["bias"] is not None for layer in (first, second))
        module._parameters["bias"] = None
        set_weights(module, weight, bias, like, always=keeps_bias)
        module.train(first.module.training)
        undone = [self._replace(first.path, module), self._replace(second.path, nn.Identity())]
        return undo_all(undone)

    def _replace(self, path: str, module: nn.Module) -> Undo:
        """Put `module` under every name that the one at `path` has."""
        old = self.modules[path]
        places = [
            (parent, key) for parent in self.model.modules() for key, child in parent._modules.items() if child is old
        ]
        module.train(old.training)
        for parent, key in places:
            parent._modules[key] = module

        def undo() -> None:
            for parent, key in places:
                parent._modules[key] = old

        return undo

    # -- words

    def _reader(self, node: fx.Node) -> str:
        if node.op == "output":
            return "the caller of the model"
        if node.op == "placeholder":
            return "the model's input"
        path = self.found.paths.get(node, "")
        return f"{name_of(node) or node.name!r}" + (f" in {path!r}" if path else "")

    def _is_norm(self, part: _Part) -> bool:
        return any(name_of(node) == "batch_norm" for node in self._inside(part.path))

    def _other_norms(self, parts: list[_Part]) -> Iterator[tuple[str, str]]:
        """BatchNorms that are in no such part, and why not."""
        known = {node for part in parts for node in self._inside(part.path)}
        for node in self.nodes:
            if name_of(node) != "batch_norm" or node in known:
                continue
            path = self.found.paths.get(node, "")
            module, called = self.modules.get(path), self.found.calls.get(path)
            if node.args[5]:
                yield path, "it normalises by the statistics of its batch"
            elif called is not None and called.times > 1:
                yield path, f"it is called {called.times} times"
            else:
                yield path, f"it is one of several operations of {type(module).__name__}.forward"


def _has_hooks(module: nn.Module) -> bool:
    return any(one._forward_hooks or one._forward_pre_hooks for one in module.modules())


def _groups(module: nn.Module) -> int:
    groups = getattr(module, "groups", 1)
    assert isinstance(groups, int)
    return groups


def _padded(node: fx.Node, module: nn.Module) -> bool:
    """Whether anything is put around the input: here, or by the module before it calls the operator."""
    given = node.args[4] if len(node.args) > 4 and "transpose" not in name_of(node) else 0
    for padding in (given, getattr(module, "padding", 0)):
        if padding != "valid" and (isinstance(padding, str) or any(_flat(padding))):
            return True
    return False


def _flat(padding: object) -> list[int]:
    return [int(each) for each in padding] if isinstance(padding, (list, tuple)) else [int(padding)]  # type: ignore[call-overload]
