"""What of a model is before, between and behind its blocks, so that paths can begin in one model and end in another.

The model's own `forward` is recorded once with torch.fx, only as deep as the modules that hold blocks; blocks and all
other modules stay what they are.  A path is then the recorded steps that its output needs, with a stitch where the next
anchor's block would have had its input: whatever no path needs (a front's head, an end's patch embedding) is not there.
"""

from __future__ import annotations

import copy
import fnmatch
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from nas.errors import SpaceError, SupernetError, suggest
from nas.supernet.inputs import Inputs, arguments

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Ref:
    """The result of an earlier step, or an input of the model, by number."""

    number: int


@dataclass(frozen=True)
class Step:
    """One recorded operation: its result gets `number`."""

    number: int
    kind: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Steps(nn.Module):
    """A straight line of recorded operations over modules that hang below; nothing is decided when it runs."""

    def __init__(self, names: Sequence[str], steps: Sequence[Step], output: Any) -> None:
        super().__init__()
        self.names = tuple(names)
        self.steps = tuple(steps)
        self.output = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the forward of the first anchor."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        if len(args) > len(self.names) or set(given) != set(self.names):
            raise SupernetError(
                f"a stitched path takes {', '.join(self.names)}, as the example of its space has, and got {len(args)} inputs by "
                f"place and {sorted(kwargs)} by name; what the example leaves out is fixed at its default"
            )
        values: dict[int, Any] = {-1 - place: given[name] for place, name in enumerate(self.names)}
        for step in self.steps:
            arguments_, keywords = _filled(step.args, values), _filled(step.kwargs, values)
            if step.kind == "call_function":
                values[step.number] = step.target(*arguments_, **keywords)
            elif step.kind == "call_method":
                values[step.number] = getattr(arguments_[0], step.target)(*arguments_[1:], **keywords)
            else:
                found = attrgetter(step.target)(self)
                values[step.number] = found(*arguments_, **keywords) if step.kind == "call_module" else found
        return _filled(self.output, values)


def _filled(value: Any, values: dict[int, Any]) -> Any:
    """`value` with results in place of references, through what torch.fx nests arguments in."""
    if isinstance(value, Ref):
        return values[value.number]
    if isinstance(value, (tuple, list)):
        return type(value)(_filled(item, values) for item in value)
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(_filled(item, values) for item in (value.start, value.stop, value.step)))
    return value


@dataclass
class Trunk:
    """The recorded forward of an anchor.

    Attributes:
        graph: nodes in order.
        names: of the inputs that the example has.
        blocks: the nodes of the blocks, in the order in which they run.
        stages: number of blocks of each stage.
        enters: shape of what each block takes.
        leaves: shape of what each block gives.
        constants: tensors that forward itself makes, by the name that the recording gave them.
    """

    graph: fx.Graph
    names: list[str]
    blocks: list[fx.Node]
    stages: list[int]
    enters: list[Shape]
    leaves: list[Shape]
    constants: dict[str, Tensor] = field(default_factory=dict)


class Unrecordable(Exception):
    """A forward decides by values or shapes of its inputs."""


class _Shallow(fx.Tracer):
    """Records down to the modules that hold blocks, and no deeper."""

    def __init__(self, blocks: Sequence[str]) -> None:
        super().__init__()
        self._blocks = blocks

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Is there no block below it?"""
        del m
        return not any(block.startswith(f"{module_qualified_name}.") for block in self._blocks)


def expand(module: nn.Module, pattern: str, anchor: int) -> list[list[str]]:
    """Paths of the blocks of each stage: `"blocks"` is one stage, `"stages.*"` a stage for each child of `stages`.

    Raises:
        SpaceError: there is no such container.
    """
    paths = [""]
    for part in pattern.split("."):
        children = [(path, name) for path in paths for name, _ in module.get_submodule(path).named_children()]
        paths = [f"{path}.{name}".lstrip(".") for path, name in children if fnmatch.fnmatchcase(name, part)]
    stages = [[f"{path}.{name}" for name, _ in module.get_submodule(path).named_children()] for path in paths]
    if not stages or not all(stages):
        there = {
            name: len(list(child.children()))
            for name, child in module.named_modules()
            if name and isinstance(child, (nn.Sequential, nn.ModuleList)) and len(child)
        }
        listed = ", ".join(f"{name!r} ({count})" for name, count in list(there.items())[:12]) or "none"
        raise SpaceError(
            f"anchor {anchor}, a {type(module).__name__}, has no blocks at {pattern!r}; containers there: {listed}"
            f"{suggest(pattern, there)}"
        )
    return stages


def record(module: nn.Module, pattern: str, example: Inputs, anchor: int) -> Trunk:
    """The trunk of `module`, which is left as it is.

    Raises:
        SpaceError: blocks are not there, or the forward runs them in another way than each once.
        Unrecordable: the forward cannot be recorded.
    """
    stages = expand(module, pattern, anchor)
    paths = [path for stage in stages for path in stage]
    before = set(vars(module)) | set(module._buffers)
    names, fixed = _inputs(module, example)
    try:
        graph = _Shallow(paths).trace(module, fixed)
    except Exception as error:
        raise Unrecordable from error
    finally:
        constants = {
            name: value
            for name, value in {**vars(module), **module._buffers}.items()
            if name not in before and isinstance(value, Tensor)
        }
        for name in constants:
            delattr(module, name)
    nodes = [node for node in graph.nodes if node.op == "call_module" and node.target in paths]
    if [node.target for node in nodes] != paths:
        raise SpaceError(
            f"the forward of anchor {anchor} runs its blocks {[str(node.target) for node in nodes]}, and stitching needs "
            f"each once in the order of {pattern!r}"
        )
    enters, leaves = _shapes(probe(module), paths, example, anchor)
    return Trunk(graph, names, nodes, [len(stage) for stage in stages], enters, leaves, constants)


def _inputs(module: nn.Module, example: Inputs) -> tuple[list[str], dict[str, Any]]:
    """Names of the inputs that `example` has, and the defaults of the others."""
    parameters = inspect.signature(module.forward).parameters
    positional, keywords = arguments(example)
    names = [*list(parameters)[: len(positional)], *keywords]
    fixed = {
        name: one.default for name, one in parameters.items() if name not in names and one.default is not one.empty
    }
    return names, fixed


def probe(module: nn.Module) -> nn.Module:
    """A copy that runs, for its shapes only: a skeleton has no weights, so all are zeros."""
    copied = copy.deepcopy(module).eval()
    for owner in copied.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None and parameter.is_meta:
                owner._parameters[name] = nn.Parameter(torch.zeros(parameter.shape, dtype=parameter.dtype), False)
    return copied


def _shapes(model: nn.Module, paths: Sequence[str], example: Inputs, anchor: int) -> tuple[list[Shape], list[Shape]]:
    """What blocks take and give, by running the model."""
    enters: dict[str, Shape] = {}
    leaves: dict[str, Shape] = {}

    def watch(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not inputs or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
                raise SpaceError(
                    f"block {path!r} of anchor {anchor} gives a {type(output).__name__}; a block that can be stitched takes "
                    "a tensor as its first argument and gives one"
                )
            enters[path], leaves[path] = tuple(inputs[0].shape), tuple(output.shape)

        return hook

    for path in paths:
        model.get_submodule(path).register_forward_hook(watch(path))
    positional, keywords = arguments(example)
    try:
        with torch.no_grad():
            model(*positional, **keywords)
    except SpaceError:
        raise
    except Exception as error:
        raise SpaceError(f"anchor {anchor}, a {type(model).__name__}, does not run on the example: {error}") from error
    return [enters[path] for path in paths], [leaves[path] for path in paths]


class Weaver:
    """Collects the steps of a path through several trunks."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.steps: list[Step] = []
        self.used: list[tuple[int, str, str]] = []  # (anchor, kind, target) of modules and tensors
        self._stems: dict[int, dict[fx.Node, Any]] = {}

    def leg(self, anchor: int, trunk: Trunk, enter: int | None, value: Any) -> Leg:
        """Goes on in `anchor`: from its inputs, or with `value` as what block `enter` takes."""
        stem = self._stems.setdefault(anchor, {})
        if not stem:
            # Anchors may call their inputs differently: what is first in one is first in the other.
            places = {name: place for place, name in enumerate(trunk.names)}
            inputs = [node for node in trunk.graph.nodes if node.op == "placeholder" and node.target in places]
            stem.update({node: Ref(-1 - places[str(node.target)]) for node in inputs})
        known: dict[fx.Node, Any] = {}
        if enter is not None:
            taken = trunk.blocks[enter].args[0]
            assert isinstance(taken, fx.Node)
            known[taken] = value
        return Leg(self, anchor, trunk, stem, known)

    def put(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ref:
        """One more step."""
        self.steps.append(Step(len(self.steps), kind, target, args, kwargs))
        return Ref(self.steps[-1].number)


class Leg:
    """The part of a path within one anchor."""

    def __init__(
        self, weaver: Weaver, anchor: int, trunk: Trunk, stem: dict[fx.Node, Any], known: dict[fx.Node, Any]
    ) -> None:
        self._weaver, self._anchor, self._trunk = weaver, anchor, trunk
        self._known = known  # at first what was stitched in
        self._stem = stem  # shared by all legs in this anchor: what does not depend on any block
        self._before = set(_until(trunk.graph, trunk.blocks[0]))
        entered = next((place for place, block in enumerate(trunk.blocks) if known and block.args[0] in known), 0)
        self._gone = set(trunk.blocks[:entered])

    def output(self) -> Any:
        """What the model gives."""
        last = next(node for node in reversed(self._trunk.graph.nodes) if node.op == "output")
        return self._mapped(last.args[0])

    def block(self, number: int) -> Any:
        """What block `number` gives."""
        return self._value(self._trunk.blocks[number])

    def _mapped(self, value: Any) -> Any:
        return fx.node.map_arg(value, self._value)

    def _value(self, node: fx.Node) -> Any:
        if node in self._known:
            return self._known[node]
        if node in self._stem:
            return self._stem[node]
        if node in self._gone:
            raise skips_over(self._anchor, str(node.target))
        args, kwargs = tuple(map(self._mapped, node.args)), {key: self._mapped(v) for key, v in node.kwargs.items()}
        target = node.target
        if node.op in ("call_module", "get_attr"):
            self._weaver.used.append((self._anchor, node.op, str(target)))
            target = f"anchors.{self._anchor}.{target}"
        found = self._weaver.put(node.op, target, args, kwargs)
        (self._stem if node in self._before else self._known)[node] = found
        return found


def skips_over(anchor: int, block: str) -> SpaceError:
    """What is wrong where an anchor is entered behind a block that is used again later."""
    return SpaceError(
        f"anchor {anchor} uses what its block {block!r} gives behind the stitch as well "
        "(a skip over blocks); stitch before that block or where nothing skips"
    )


def _until(graph: fx.Graph, end: fx.Node) -> Iterator[fx.Node]:
    for node in graph.nodes:
        if node is end:
            return
        yield node
