"""A grammar of networks: convolutional nets, mixers, transformers and what lies between them are its derivations.

Ericsson, Espinosa, Yang, Antoniou, Storkey, Cohen, McDonagh, Crowley 2024, "einspace: Searching for Neural Architectures from
Fundamental Operations".  A network is derived from one symbol:

- `sequence`: two networks, one after the other.
- `branch`: two networks beside each other, `repeat`: one network four times, with weights of its own each time; what comes in
  is cloned or its channels are cut in groups, what comes out is joined (added, concatenated, multiplied as matrices).
- `route`: a network between two rearrangements: axes that change places, patches out of an image and an image out of patches.
  Patches, a linear layer, and an image again are a convolution.
- `linear`, `function`: the ends.

What flows is an image (n, c, h, w) or a sequence (n, t, d).  The published grammar draws again where shapes do not fit, and has
no bound.  Here it is bounded by a depth, and *total*: an operation that does not fit, or goes beyond a limit, is the identity
(a join gives what it has so far), and the output is averaged over its positions and classified.  So every arch builds and runs.
Productions share the decisions of their children: a space of depth D has 7 + 2 N(D-1) decisions instead of a multiple for each
production.  `active_when` says which are alive.  Six kinds drawn uniformly end a derivation with probability 1/3, the
published .32.  `nas.Space.regrow` is the published mutation (`nas.RegularizedEvolution(regrow=1.0)`), `cnn` and `mixer` are
archs to begin with (`nas.Given`), and `nas.Once` finds the many derivations that compute the same.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyglove as pg
import torch
from torch import Tensor, nn

import nas
from nas.errors import SpaceError, suggest

ENDS = ("function", "linear")
PRODUCTIONS = (*ENDS, "sequence", "branch", "repeat", "route")
FUNCTIONS = ("identity", "norm", "leaky relu", "softmax", "position")
SPLITS = ("clone", "group")
JOINS = ("add", "concat", "matmul", "scaled matmul")
PATCHES = {"patches 3x3": (3, 1), "patches 3x3/2": (3, 2), "patches 2x2/2": (2, 2), "patches 4x4/4": (4, 4)}
"""Side and stride."""
BEFORE = ("identity", "swap", *PATCHES)
AFTER = ("identity", "swap", "image")
COPIES = 4
"""Networks of a `repeat`."""

Shape = tuple[int, ...]
"""Of one sample: (c, h, w) of an image, (t, d) of a sequence."""
Derivation = Mapping[str, Any]
"""What was chosen at a node, and the derivations of its children under `first` and `second`."""
_CHILDREN = {"sequence": ("first", "second"), "branch": ("first", "second"), "repeat": ("first",), "route": ("first",)}


# -- what a network is made of


class Limits(NamedTuple):
    """What goes beyond is the identity."""

    numbers: int
    """Of one sample's signal."""
    macs: int
    """Multiplications of one sample in the whole network."""
    operations: int
    """Ends, rearrangements and joins in the whole network."""


class Position(nn.Module):
    """A learnt number for every place."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(n, *shape) -> the same."""
        return x + self.weight


class Swap(nn.Module):
    """The first two axes of a sample change places."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, d) -> (n, d, t); (n, c, h, w) -> (n, h, c, w)."""
        return x.transpose(1, 2)


class Patches(nn.Module):
    """An image as the sequence of its patches."""

    def __init__(self, side: int, stride: int) -> None:
        super().__init__()
        self.unfold = nn.Unfold(side, padding=side // 2 if side % 2 else 0, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, h' w', c side²)."""
        y: Tensor = self.unfold(x).transpose(1, 2)
        return y


class Image(nn.Module):
    """A sequence of a square number of patches as an image."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, s², d) -> (n, d, s, s)."""
        side = math.isqrt(x.shape[1])
        return x.transpose(1, 2).reshape(len(x), -1, side, side)


class Branches(nn.Module):
    """Networks beside each other; their outputs are joined from the left."""

    def __init__(self, parts: Sequence[nn.Module], joins: Sequence[Callable[[Tensor, Tensor], Tensor]], groups: int):
        super().__init__()
        self.parts, self.joins, self.groups = nn.ModuleList(parts), joins, groups

    def forward(self, x: Tensor) -> Tensor:
        """A signal -> a signal."""
        given = x.chunk(self.groups, _channels(x.ndim - 1)) if self.groups > 1 else [x] * len(self.parts)
        y: Tensor = self.parts[0](given[0])
        for part, join, one in zip(self.parts[1:], self.joins, given[1:], strict=False):
            y = join(y, part(one))
        return y


class Network(nn.Module):
    """A derivation, the average over its positions, and the classifier."""

    def __init__(self, body: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, side, side) -> (n, classes)."""
        x = self.body(images)
        y: Tensor = self.head(x.mean((2, 3)) if x.ndim == 4 else x.mean(1))
        return y


def _channels(dimensions: int) -> int:
    """The axis of the channels of a batch, by the number of a sample's dimensions."""
    return 1 if dimensions == 3 else 2


def _width(shape: Shape) -> int:
    return shape[0] if len(shape) == 3 else shape[1]


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def _scaled(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / math.sqrt(a.shape[-1])


_JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"add": torch.add, "matmul": _matmul, "scaled matmul": _scaled}


# -- from a derivation to a network


@dataclass
class _Builder:
    """Builds a derivation from the left, and counts what it has used of the limits."""

    limits: Limits
    macs: int = 0
    operations: int = 0

    def build(self, node: Derivation, shape: Shape) -> tuple[nn.Module, Shape]:
        """The module of a node, and the shape of what it gives."""
        match node["kind"]:
            case "linear":
                return self._linear(node["width"], shape)
            case "function":
                return self._function(node["function"], shape)
            case "sequence":
                first, shape = self.build(node["first"], shape)
                second, shape = self.build(node["second"], shape)
                return nn.Sequential(first, second), shape
            case "route":
                return self._route(node, shape)
        both = [node["first"], node["second"]] if node["kind"] == "branch" else [node["first"]] * COPIES
        return self._branches(both, node["split"], node["join"], shape)

    def _fits(self, shape: Shape, macs: int = 0) -> bool:
        """Whether one more operation, which gives `shape`, is within the limits; if so it is counted."""
        allowed = self.limits
        within = math.prod(shape) <= allowed.numbers and self.macs + macs <= allowed.macs
        if not within or self.operations >= allowed.operations:
            return False
        self.macs, self.operations = self.macs + macs, self.operations + 1
        return True

    def _linear(self, width: int, shape: Shape) -> tuple[nn.Module, Shape]:
        image, inputs = len(shape) == 3, _width(shape)
        after = (width, *shape[1:]) if image else (shape[0], width)
        if not self._fits(after, inputs * math.prod(after)):
            return nn.Identity(), shape
        return (nn.Conv2d(inputs, width, 1) if image else nn.Linear(inputs, width)), after

    def _function(self, name: str, shape: Shape) -> tuple[nn.Module, Shape]:
        if name == "identity" or not self._fits(shape):
            return nn.Identity(), shape
        match name:
            case "norm":
                return (nn.BatchNorm2d(shape[0]) if len(shape) == 3 else nn.LayerNorm(shape[1])), shape
            case "leaky relu":
                return nn.LeakyReLU(), shape
            case "softmax":
                return nn.Softmax(_channels(len(shape))), shape
        return Position(shape), shape

    def _route(self, node: Derivation, shape: Shape) -> tuple[nn.Module, Shape]:
        before, shape = self._rearranged(node["before"], shape)
        inner, shape = self.build(node["first"], shape)
        after, shape = self._rearranged(node["after"], shape)
        return nn.Sequential(before, inner, after), shape

    def _rearranged(self, how: str, shape: Shape) -> tuple[nn.Module, Shape]:
        module: nn.Module = nn.Identity()
        after = shape
        if how == "swap":
            module, after = Swap(), (shape[1], shape[0], *shape[2:])
        elif how == "image" and len(shape) == 2 and (side := math.isqrt(shape[0])) ** 2 == shape[0]:
            module, after = Image(), (shape[1], side, side)
        elif how in PATCHES and len(shape) == 3 and min(shape[1:]) >= PATCHES[how][0]:
            side, stride = PATCHES[how]
            padding = 2 * (side // 2) if side % 2 else 0
            height, width = ((one + padding - side) // stride + 1 for one in shape[1:])
            module, after = Patches(side, stride), (height * width, shape[0] * side * side)
        if isinstance(module, nn.Identity) or not self._fits(after):
            return nn.Identity(), shape
        return module, after

    def _branches(self, nodes: Sequence[Derivation], split: str, join: str, shape: Shape) -> tuple[nn.Module, Shape]:
        groups = len(nodes) if split == "group" and _width(shape) % len(nodes) == 0 else 1
        width = _width(shape) // groups
        given = (width, *shape[1:]) if len(shape) == 3 else (shape[0], width)
        first, shape = self.build(nodes[0], given)
        parts, joins = [first], []
        for node in nodes[1:]:
            spent = self.macs, self.operations
            part, other = self.build(node, given)
            joined = _joined(join, shape, other)
            if joined is None or not self._fits(joined[0], joined[1]):
                self.macs, self.operations = spent
                break  # what follows is of the same shape, or there is nothing left to spend
            shape = joined[0]
            parts.append(part)
            joins.append(_JOINS[join] if join in _JOINS else _concatenation(len(shape)))
        return Branches(parts, joins, groups), shape


def _concatenation(dimensions: int) -> Callable[[Tensor, Tensor], Tensor]:
    return functools.partial(_concatenated, _channels(dimensions))


def _concatenated(axis: int, a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], axis)


def _joined(join: str, a: Shape, b: Shape) -> tuple[Shape, int] | None:
    """Shape and multiplications of a join; None where the shapes do not fit."""
    if len(a) != len(b):
        return None
    match join:
        case "add":
            return (a, 0) if a == b else None
        case "concat" if len(a) == 3:
            return ((a[0] + b[0], *a[1:]), 0) if a[1:] == b[1:] else None
        case "concat":
            return ((a[0], a[1] + b[1]), 0) if a[0] == b[0] else None
    if a[-1] != b[-2] or a[:-2] != b[:-2]:
        return None
    after = (*a[:-1], b[-1])
    return after, math.prod(after) * a[-1]


@nas.model
def network(
    *,
    tree: Any,
    side: int = 8,
    channels: int = 1,
    classes: int = 10,
    numbers: int = 32_768,
    macs: int = 2_000_000,
    operations: int = 200,
) -> nn.Module:
    """The network of a derivation.

    Args:
        tree: a node: its `kind`, what that needs, and its children under `first` and `second`.
        side: of the images.
        channels: of the images.
        classes: to tell apart.
        numbers: the largest signal of one sample; what would make a larger one is the identity.
        macs: multiplications of one sample; layers beyond are the identity.
        operations: of the network; those beyond are the identity.
    """
    body, shape = _Builder(Limits(numbers, macs, operations)).build(tree, (channels, side, side))
    return Network(body, _width(shape), classes)


# -- the space


def space(
    *,
    depth: int = 5,
    productions: Sequence[str] = PRODUCTIONS,
    widths: Sequence[int] = (16, 32, 64),
    functions: Sequence[str] = FUNCTIONS,
    splits: Sequence[str] = SPLITS,
    joins: Sequence[str] = JOINS,
    before: Sequence[str] = BEFORE,
    after: Sequence[str] = AFTER,
    **settings: int,
) -> nas.Space:
    """All derivations of at most `depth` productions in a row; 313 decisions at depth 5.

    Args:
        depth: productions from the root to an end.
        productions: of `PRODUCTIONS`, which a node chooses from.
        widths: outputs of linear layers.
        functions: of `FUNCTIONS`.
        splits: of `SPLITS`: what the networks of a branch are given.
        joins: of `JOINS`.
        before: of `BEFORE`: rearrangements that begin a route.
        after: of `AFTER`: those that end it.
        settings: others of `network`: side, channels, classes, numbers, macs, operations.

    Raises:
        SpaceError: the grammar can build nothing, since no production ends or one has nothing to choose from; or a word is none
            of its own.
    """
    options = {"function": functions, "width": widths, "split": splits, "join": joins, "before": before, "after": after}
    _check(depth, productions, options)
    conditions: dict[str, tuple[str, list[str]]] = {}
    tree = _node("tree", depth, list(productions), options, conditions)
    return nas.Space(network(tree=tree, **settings), name="einspace", active_when=conditions)


_NEEDS = {
    "function": ("function",),
    "linear": ("width",),
    "branch": ("split", "join"),
    "repeat": ("split", "join"),
    "route": ("before", "after"),
}
_WORDS = {"function": FUNCTIONS, "split": SPLITS, "join": JOINS, "before": BEFORE, "after": AFTER}


def _node(
    path: str,
    depth: int,
    productions: Sequence[str],
    options: Mapping[str, Sequence[Any]],
    conditions: dict[str, tuple[str, list[str]]],
) -> pg.Dict:
    kinds = [one for one in productions if depth or one in ENDS]
    node: dict[str, Any] = {"kind": pg.oneof(kinds)}
    for what, some in options.items():
        if users := [kind for kind in kinds if what in _NEEDS.get(kind, ())]:
            node[what] = pg.oneof(list(some))
            conditions[f"{path}.{what}"] = (f"{path}.kind", users)
    for child in ("first", "second"):
        if users := [kind for kind in kinds if child in _CHILDREN.get(kind, ())]:
            node[child] = _node(f"{path}.{child}", depth - 1, productions, options, conditions)
            conditions[f"{path}.{child}.kind"] = (f"{path}.kind", users)
    return pg.Dict(node)


def _check(depth: int, productions: Sequence[str], options: Mapping[str, Sequence[Any]]) -> None:
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise SpaceError(f"einspace was given depth={depth!r}; it is a whole number, 0 or more")
    for what, some, words in (
        ("production", productions, PRODUCTIONS),
        *((what, options[what], words) for what, words in _WORDS.items()),
    ):
        for one in some:
            if one not in words:
                raise SpaceError(
                    f"einspace has no {what} {one!r}; there are {', '.join(words)}{suggest(str(one), words)}"
                )
    for width in options["width"]:
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise SpaceError(f"einspace was given the width {width!r}; it is a whole number, 1 or more")
    if not any(one in ENDS for one in productions):
        raise SpaceError(
            f"a grammar of {', '.join(productions) or 'no productions'} can build nothing, since no derivation ends; "
            f"add {' or '.join(map(repr, ENDS))} to productions"
        )
    for production in productions:
        for what in _NEEDS.get(production, ()):
            if not options[what]:
                raise SpaceError(
                    f"a grammar with {production!r} can build nothing of it without a {what}; "
                    f"give one, or leave {production!r} out"
                )


# -- archs that are written by hand


def linear(width: int) -> Derivation:
    """A linear layer; of an image, a convolution of 1×1."""
    return {"kind": "linear", "width": width}


def function(name: str) -> Derivation:
    """One of `FUNCTIONS`."""
    return {"kind": "function", "function": name}


def sequence(*parts: Derivation) -> Derivation:
    """Networks one after the other, bracketed so that the derivation is shallow.

    Raises:
        SpaceError: there is none.
    """
    if not parts:
        raise SpaceError("a sequence of no parts is no derivation; give one or more")
    row = list(parts)
    while len(row) > 1:
        depths = [max(depth_of(a), depth_of(b)) for a, b in itertools.pairwise(row)]
        at = depths.index(min(depths))
        row[at : at + 2] = [{"kind": "sequence", "first": row[at], "second": row[at + 1]}]
    return row[0]


def branch(first: Derivation, second: Derivation, join: str = "add", split: str = "clone") -> Derivation:
    """Two networks beside each other."""
    return {"kind": "branch", "split": split, "join": join, "first": first, "second": second}


def repeat(part: Derivation, join: str = "add", split: str = "clone") -> Derivation:
    """One network four times, beside each other."""
    return {"kind": "repeat", "split": split, "join": join, "first": part}


def route(part: Derivation, before: str = "identity", after: str = "identity") -> Derivation:
    """A network between two rearrangements."""
    return {"kind": "route", "before": before, "after": after, "first": part}


def depth_of(derivation: Derivation) -> int:
    """Productions from its root to its farthest end."""
    children = _CHILDREN.get(derivation["kind"], ())
    return 1 + max(depth_of(derivation[child]) for child in children) if children else 0


def arch(space_: nas.Space, derivation: Derivation) -> nas.Arch:
    """A derivation as an arch of a space.

    Raises:
        SpaceError: the space has it not.
    """
    choices = dict(_choices(derivation, "tree"))
    lacking = next((name for name in choices if name not in space_.names), None)
    if lacking is not None:
        raise SpaceError(
            f"the derivation chooses {lacking!r}, which space {space_.name!r} has not; it is {depth_of(derivation)} productions "
            "deep: give space(depth=…) that, with all productions that it uses"
        )
    return space_.arch(choices)


def derivation(arch_: nas.Arch) -> Derivation:
    """What an arch derives: the inverse of `arch`."""
    root: dict[str, Any] = {}
    for name, value in arch_.choices.items():
        node, (_, *path, last) = root, name.split(".")
        for step in path:
            node = node.setdefault(step, {})
        node[last] = value
    return root


def shown(node: Derivation) -> str:
    """A derivation on one line: `a ; b` a sequence, `[a | b] add` a branch, `patches 3x3 < a > image` a route."""
    inner = [shown(node[child]) for child in _CHILDREN.get(node["kind"], ())]
    match node["kind"]:
        case "sequence":
            return " ; ".join(inner)
        case "branch" | "repeat":
            parts = " | ".join(inner) if node["kind"] == "branch" else f"{COPIES} times {inner[0]}"
            return f"{node['split']} [{parts}] {node['join']}"
        case "route":
            return f"{node['before']} < {inner[0]} > {node['after']}"
    return f"linear {node['width']}" if node["kind"] == "linear" else str(node["function"])


def _choices(node: Derivation, path: str) -> list[tuple[str, Any]]:
    own = [(f"{path}.{what}", value) for what, value in node.items() if what not in ("first", "second")]
    return own + [
        pair for child in _CHILDREN.get(node["kind"], ()) for pair in _choices(node[child], f"{path}.{child}")
    ]


def convolution(width: int, patches: str = "patches 3x3") -> Derivation:
    """Convolution, norm, leaky ReLU."""
    return sequence(route(linear(width), patches, "image"), function("norm"), function("leaky relu"))


def cnn(space_: nas.Space, widths: Sequence[int] = (16, 32, 32)) -> nas.Arch:
    """A small convolutional network: the second convolution has a stride of two."""
    strides = ("patches 3x3", "patches 3x3/2", *["patches 3x3"] * len(widths))
    return arch(space_, sequence(*(convolution(width, one) for width, one in zip(widths, strides, strict=False))))


def mixer(space_: nas.Space, width: int = 32, tokens: int = 16) -> nas.Arch:
    """One block of a mixer on patches of 2×2: a linear layer over tokens and two over channels, each beside the identity.

    Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP Architecture for Vision"; there tokens have a hidden layer, too.

    Args:
        space_: of images whose patches of 2×2 are `tokens`.
        width: of a token.
        tokens: of an image; one of the space's widths.
    """
    mixed = sequence(function("norm"), route(linear(tokens), "swap", "swap"))
    channels = sequence(function("norm"), linear(2 * width), function("leaky relu"), linear(width))
    keep = function("identity")
    return arch(space_, sequence(route(linear(width), "patches 2x2/2"), branch(mixed, keep), branch(channels, keep)))
