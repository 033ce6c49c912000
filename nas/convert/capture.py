"""A model as a graph of operators, with where their arguments came from.

`torch.export` runs a copy of the model once, on tensors without values.  The copy shares the parameters and buffers; the user's
module is left as it was.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._functorch import predispatch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from nas.convert.calls import Called, watch_calls
from nas.convert.copying import computed, forget, named_tables, named_tensors, tied
from nas.convert.dead import has_effect
from nas.convert.isolation import compiled, int_callers, isolated, keeping_sources
from nas.convert.lengths import Place, alive, origins
from nas.convert.observing import MARK, Arguments, Observer
from nas.convert.refusing import BY_VALUE, check_modules, check_parameters, check_sizes, refusal, written
from nas.convert.tracking import Expression, comparing, plain, replaced, track_attributes
from nas.errors import SpaceError, brief, glimpse, text_of
from nas.supernet.attributes import tensors as kept_tensors
from nas.supernet.inputs import Inputs, arguments, call, tensors_in
from nas.supernet.inputs import plain as plain_inputs
from nas.supernet.skeleton import memory

_KINDS = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
    InputKind.USER_INPUT: "input",
}
_STORES = frozenset(vars(nn.Module()))
_DELETED = object()
_REGIONS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
"""Higher-order operators that run a part of the graph under a setting, and how many arguments say which."""
for _name in ("_vmap_increment_nesting", "_vmap_decrement_nesting", "lazy_load_decompositions"):
    if hasattr(predispatch, _name):
        # Between them operators see one sample of torch.vmap: nothing reads what they return, and nothing runs without them.
        fx.node.has_side_effect(getattr(predispatch, _name))


@dataclass(frozen=True, eq=False)
class Source:
    """Where a placeholder of the graph has its value from.

    Attributes:
        node: the placeholder.
        kind: "parameter", "buffer", "table" (a tensor in an attribute of a module), "constant" (another tensor, or what is no
            tensor), or "input".
        names: all qualified names that the tensor has in the model (ties); the export's name of a constant or an input.
        tensor: the model's own tensor, or the example's.  Whatever the input is where it is no tensor.
    """

    node: fx.Node
    kind: str
    names: tuple[str, ...]
    tensor: Any


@dataclass(frozen=True, eq=False)
class Capture:
    """A model as a graph.

    Attributes:
        module: the graph, runnable; its placeholders are `sources` in order, nodes have `meta["val"]`.
        sources: of the placeholders.
        outputs: of the graph, flat: nodes, or numbers and None that the model returns.
        structure: how outputs make what the model returns.
        paths: of each operator, the path of the module in which it was called.
        tracked: of each node, its arguments that follow from attributes and lengths: path of the argument (`("size", 2)`) ->
            expression; see `nas.convert.tracking.Expression`, where axes are `("dim", node, axis)`.
        unused: names of parameters on which no output depends.
        written: names of buffers that the model writes into in evaluation mode.
        caches: path of a module and name of its attribute, where the model kept what it computes from parameters.  They were
            absent in the capture, and must be in a module of other parameters.
        attributes: value of each attribute that is tracked, by its expression.
        equal: expressions that the model compared, and found to be equal.
        unequal: likewise, and found to be different.
        order: of the inputs.
    """

    module: fx.GraphModule
    sources: tuple[Source, ...]
    outputs: tuple[Any, ...]
    structure: pytree.TreeSpec
    paths: Mapping[fx.Node, str]
    tracked: Mapping[fx.Node, Arguments]
    unused: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    caches: tuple[tuple[str, str], ...] = ()
    attributes: Mapping[tuple[Any, ...], int | float] = field(default_factory=dict)
    equal: tuple[tuple[Expression, Expression], ...] = ()
    unequal: tuple[tuple[Expression, Expression], ...] = ()
    calls: Mapping[str, Called] = field(default_factory=dict)
    order: pytree.TreeSpec | None = field(default=None, repr=False)

    @property
    def graph(self) -> fx.Graph:
        """Nodes in order."""
        return self.module.graph

    def __call__(self, inputs: Inputs, tensors: Mapping[str, Tensor] | None = None) -> Any:
        """What the graph gives, in the structure that the model returns.

        Args:
            inputs: in the form of the example.
            tensors: instead of the model's own parameters and buffers, by any of their names.
        """
        return pytree.tree_unflatten(list(self.module(*self.values(inputs, tensors))), self.structure)

    def values(self, inputs: Inputs, tensors: Mapping[str, Tensor] | None = None) -> list[Any]:
        """What the placeholders stand for in a call with these arguments."""
        given = iter(self._flat(inputs))
        values = []
        for source in self.sources:
            if source.kind == "input":
                values.append(next(given))
            else:
                other = [tensors[name] for name in source.names if name in tensors] if tensors else []
                values.append(other[0] if other else source.tensor)
        return values

    def _flat(self, inputs: Inputs) -> list[Any]:
        positional, keywords = arguments(inputs)
        if self.order is not None:
            names = self.order.children()[1].context
            keywords = {name: keywords[name] for name in names}
        return pytree.tree_leaves((positional, keywords))


def capture(model: nn.Module, example: Inputs) -> Capture:
    """The graph of `model` in evaluation mode, called with `example`.

    Parameters may be on the meta device: no value is read then.

    Raises:
        SpaceError: it cannot be captured, or not in a way that a supernet of it would be right.
    """
    check_modules(model)
    found = _attempt(model, example)
    for held in _held(model, found):
        found = _without(model, example, found, held)
    return found


def _attempt(model: nn.Module, example: Inputs, forgotten: Sequence[Attribute] = (), absent: Any = None) -> Capture:
    """One capture of a copy in which these attributes have been replaced or deleted."""
    callers = int_callers(model)
    with isolated(model):
        errors: dict[_Manner, Exception] = {}
        for manner in _MANNERS if callers else _MANNERS[1:]:
            if not manner.track and all(isinstance(error, BY_VALUE) for error in errors.values()):
                break  # which does not depend on what the numbers are
            try:
                with keeping_sources(callers if manner.ints else []):
                    return _observed(model, example, forgotten, absent, manner)
            except SpaceError:
                raise
            except Exception as error:
                errors[manner] = error
        _check_example(model, example)
        plainest = [error for manner, error in errors.items() if not manner.compiling][-1]
        raise refusal(plainest, model) from next(iter(errors.values()))


@dataclass(frozen=True)
class _Manner:
    """How a model is captured.

    Attributes:
        track: its numbers are tracked.
        compiling: it is told so if it asks (`torch.compiler.is_compiling()`).
        ints: `int` keeps, in the modules of the model's classes, where a number came from.
    """

    track: bool
    compiling: bool
    ints: bool = False


_MANNERS = (
    _Manner(True, False, ints=True),
    _Manner(True, False),
    _Manner(True, True),
    _Manner(False, False),
    _Manner(False, True),
)
"""Models take other ways where they are compiled, and not always right ones: how they are called otherwise is what counts.
But it may be the only way around a question that no graph answers.  Code that asks for `type(x) is int`, or means the
type of tensors by `int`, does not take what stands for them."""


def _observed(
    model: nn.Module, example: Inputs, forgotten: Sequence[Attribute], absent: Any, manner: _Manner
) -> Capture:
    copied, given = _copy(model), arguments(example)
    if any(tensor.is_meta for _, tensor in named_tensors(model)):
        copied, given = _with_shapes_only(model, given)
    for path, key in forgotten:
        _forget(copied.get_submodule(path), key, absent)
    observer = Observer()
    attributes = track_attributes(copied) if manner.track else {}
    calls = watch_calls(copied)
    program = _export(copied, *given, observer, compiling=manner.compiling)
    return replace(_captured(model, program, observer, given, attributes), calls=calls)


# -- the copy


def _copy(model: nn.Module, values: Mapping[int, Tensor] | None = None) -> nn.Module:
    """A copy in evaluation mode that shares tensors, and has none of the caches that the model filled.

    Args:
        model: left as it is.
        values: other tensors, by the `id` of those in whose place they are.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*kept_tensors(model), *computed(model))}
    memo.update((id(tensor), tensor) for _, tensor in named_tensors(model))
    memo.update(values or {})
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise SpaceError(
            f"the model cannot be copied (copy.deepcopy: {brief(error, 200)}); leave out of its modules what cannot, such as "
            "open files, locks and generators"
        ) from error
    forget(copied)
    return copied


def _with_shapes_only(model: nn.Module, given: tuple[Any, ...]) -> tuple[nn.Module, tuple[Any, ...]]:
    """The copy, and inputs, with tensors that claim to be on the CPU in the place of those on the meta device."""
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())

    def shape_of(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor) or not tensor.is_meta:
            return tensor
        made = FakeTensor(mode, tensor.detach(), torch.device("cpu"))
        return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made

    values = {id(tensor): shape_of(tensor) for _, tensor in named_tensors(model)}
    return _copy(model, values), pytree.tree_map(shape_of, given)


# -- tensors outside parameters and buffers

Attribute = tuple[str, str]
"""Path of a module and name of its attribute."""


def _held(model: nn.Module, found: Capture) -> list[list[Attribute]]:
    """Attributes of modules from which the graph has floating-point constants; those of one name and class together."""
    constants = {
        memory(source.tensor)
        for source in found.sources
        if source.kind in ("table", "constant") and _has_numbers(source.tensor)
    }
    groups: dict[tuple[type, str], list[Attribute]] = {}
    for name, module in model.named_modules() if constants else ():
        for key, value in vars(module).items():
            if key not in _STORES and any(memory(tensor) in constants for tensor in _tensors_of(value)):
                groups.setdefault((type(module), key), []).append((name, key))
    return list(groups.values())


def _has_numbers(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided


def _tensors_of(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if _has_numbers(leaf)]


def _without(model: nn.Module, example: Inputs, found: Capture, places: list[Attribute]) -> Capture:
    """A capture in which these attributes are computed, if the model does so where they are absent and gives the same.

    Such an attribute is a cache: it follows from parameters, and would stay what it is where they are cut.
    """
    for absent in (_DELETED, None):
        try:
            other = _attempt(model, example, [*found.caches, *places], absent)
        except SpaceError:
            continue
        if not any(place in places for group in _held(model, other) for place in group) and _same(
            found, other, example
        ):
            return dataclasses.replace(other, caches=(*found.caches, *places))
    path, key = places[0]
    if any(tensor.requires_grad for tensor in _tensors_of(vars(model.get_submodule(path))[key])):
        at = f"{path}.{key}".lstrip(".")
        raise SpaceError(
            f"the model keeps the tensor {at!r}, which was computed from parameters, in an attribute; compute it when the model "
            "is called, or drop it in train() and eval()"
        )
    return found


def _same(one: Capture, other: Capture, example: Inputs) -> bool:
    if any(isinstance(source.tensor, Tensor) and source.tensor.is_meta for source in one.sources):
        return False
    with torch.no_grad(), _seeded():
        first = tensors_in(one(example))
    with torch.no_grad(), _seeded():
        second = tensors_in(other(example))
    return len(first) == len(second) and all(
        map(partial(torch.allclose, rtol=1e-4, atol=1e-5, equal_nan=True), first, second)
    )


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _forget(module: nn.Module, key: str, absent: Any) -> None:
    value = vars(module)[key]
    if isinstance(value, (dict, list)):
        vars(module)[key] = type(value)()
    elif absent is _DELETED:
        del vars(module)[key]
    else:
        vars(module)[key] = absent


# -- the export


def _export(
    model: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any], observer: Observer, *, compiling: bool
) -> Any:
    forward = model.forward

    @functools.wraps(forward)
    def observed(*args: Any, **kwargs: Any) -> Any:
        before = dict(model.named_parameters(remove_duplicate=False))
        with observer, comparing() as observer.compared, compiled(compiling):
            given = forward(*args, **kwargs)
        check_parameters(before, dict(model.named_parameters(remove_duplicate=False)))
        return _returned(given)

    model.forward = observed  # of the copy
    return torch.export.export(model, positional, keywords or None, strict=False)


def _returned(given: Any) -> Any:
    """What a model returns, of tensors and plain values only."""
    values = pytree.tree_map(plain, given)
    known = (Tensor, int, float, bool, str, type(None))
    if not all(isinstance(leaf, known) for leaf in pytree.tree_leaves(values)):
        values = tuple(tensors_in(given))  # an object that torch cannot take apart
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(values)):
        raise SpaceError(
            f"the model returns no tensor, but {glimpse(given)}; give a module whose forward returns its output"
        )
    return values


def _check_example(model: nn.Module, example: Inputs) -> None:
    """Whether the model runs on the example at all: what fails then is no matter of the capture."""
    if any(tensor.is_meta for _, tensor in named_tensors(model)):
        return
    try:
        call(_copy(model), plain_inputs(example))
    except Exception as error:
        several = "; the example is several inputs, one input that is a list would be ([…],)" * isinstance(
            example, tuple
        )
        raise SpaceError(f"the model cannot be called with the example: {text_of(error)}{several}") from error


# -- the graph


def _captured(
    model: nn.Module,
    program: Any,
    observer: Observer,
    given: tuple[Any, ...],
    attributes: Mapping[tuple[Any, ...], int | float],
) -> Capture:
    module = program.graph_module
    graph = module.graph
    _inline(module)
    for node in list(graph.nodes):
        if node.op == "call_function" and _base(node).startswith("_assert_"):
            graph.erase_node(node)
    check_sizes(graph)
    sources = _sources(model, program, graph, given)
    numbers = {(node.meta.get("custom") or {}).get(MARK): node for node in graph.nodes}
    read, lengths = _drop_dead(graph, sources)
    module.recompile()
    output = next(iter(reversed(graph.nodes)))
    places = _Places(numbers, set(graph.nodes), lengths)
    return Capture(
        module,
        sources,
        tuple(output.args[0]),
        program.call_spec.out_spec,
        {node: _path(node) for node in graph.nodes if node.op == "call_function"},
        {
            numbers[number]: {path: _named(expression, places) for path, expression in found.items()}
            for number, found in observer.found.items()
            if numbers.get(number) in places.left
        },
        unused=_unused(sources, read),
        written=written(graph, {source.node: (source.kind, source.names[0]) for source in sources}),
        attributes=attributes,
        equal=_compared(observer, places, True),
        unequal=_compared(observer, places, False),
        order=program.call_spec.in_spec,
    )


def _restore_users(graph: fx.Graph) -> None:
    """`torch.export` forgets that a node is used where a region of `no_grad` or `autocast` was given it for its shape alone."""
    for node in graph.nodes:
        for operand in node.all_input_nodes:
            operand.users.setdefault(node)


class _Places(NamedTuple):
    """Nodes by the numbers that are written on them, which of them are left, and where the lengths of others are from."""

    numbers: Mapping[int | None, fx.Node]
    left: Collection[fx.Node]
    lengths: Mapping[Place, Place]


def _drop_dead(graph: fx.Graph, sources: Sequence[Source]) -> tuple[set[fx.Node], dict[Place, Place]]:
    """Drop what has no effect, but keep what reads parameters that nothing else reads.

    The class computes it all the same, so that it must be right: the last block of a network may make a residual for a next.

    Returns:
        What is read by the rest, and where lengths of what is dropped are from.
    """
    live: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in live or (node.op != "placeholder" and has_effect(node)):  # the output is, too
            live.update((node, *node.all_input_nodes))
    unused = _unused(sources, live)
    alone = {source.node for source in sources if source.names[0] in unused}
    for node in graph.nodes:
        if node not in live and any(each in alone for each in node.all_input_nodes):
            alone.add(node)
    lengths = origins(node for node in graph.nodes if node not in live and node not in alone)
    graph.eliminate_dead_code(lambda node: node in alone or has_effect(node))
    return live, lengths


def _unused(sources: Sequence[Source], read: set[fx.Node]) -> tuple[str, ...]:
    """Parameters that are read under none of their names; of tied ones the first."""
    names = {source.names[0]: None for source in sources if source.kind == "parameter"}
    found = {source.names[0] for source in sources if source.node in read}
    return tuple(name for name in names if name not in found)


def _compared(observer: Observer, places: _Places, same: bool) -> tuple[tuple[Expression, Expression], ...]:
    return tuple(
        (_named(left, places), _named(right, places))
        for (left, right), equal in observer.compared.items()
        if equal is same
    )


def _named(expression: Expression, places: _Places) -> Expression:
    """With nodes in the place of their numbers, None where nothing is known of one."""

    def change(one: tuple[Any, ...]) -> Expression:
        if one[0] != "dim":
            return one
        node = places.numbers.get(one[1])
        found = None if node is None else alive((node, one[2]), places.lengths, places.left)
        return ("dim", *(found or (None, one[2])))

    return replaced(expression, change)


def _base(node: fx.Node) -> str:
    target = node.target
    return target._schema.name.partition("::")[2] if isinstance(target, torch._ops.OpOverload) else ""


def _path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    path, _ = list(stack.values())[-1]
    return str(path).partition("@")[0]


def _inline(module: fx.GraphModule, *, casting: bool = False) -> None:
    """Put the nodes of regions in their place.

    That of `torch.autocast` is entered and left by nodes of its own, unless it is off and `casting` is too, which says that
    another one is around it.
    """
    graph = module.graph
    _restore_users(graph)
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        if name not in _REGIONS:
            continue
        settings = node.args[: _REGIONS[name]]
        part = getattr(module, node.args[len(settings)].target)
        casts = name == "wrap_with_autocast" and (casting or settings[2])
        _inline(part, casting=bool(casts))
        given = node.args[len(settings) + 1 :]
        inner = dict(zip((n for n in part.graph.nodes if n.op == "placeholder"), given, strict=True))
        with graph.inserting_before(node):
            entered = graph.call_function(torch.amp.autocast_mode._enter_autocast, settings) if casts else None
            results: Any = graph.graph_copy(part.graph, inner)
            if entered is not None:
                graph.call_function(torch.amp.autocast_mode._exit_autocast, (entered,))
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)


def _sources(model: nn.Module, program: Any, graph: fx.Graph, given: tuple[Any, ...]) -> tuple[Source, ...]:
    own, first = dict(named_tensors(model)), tied(model)
    names: dict[str, tuple[str, ...]] = {}
    for name, one in first.items():
        names[one] = (*names.get(one, ()), name)
    tables = {memory(tensor): name for name, tensor in reversed([*named_tables(model)])}
    inputs = iter(pytree.tree_leaves(given))
    found = []
    placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    for spec in program.graph_signature.input_specs:
        kind = _KINDS.get(spec.kind, "constant")
        node = placeholders[spec.arg.name]
        if kind == "input":
            found.append(Source(node, kind, (node.name,), next(inputs)))
        elif spec.target in own and kind in ("parameter", "buffer"):
            found.append(Source(node, kind, names[first[spec.target]], own[spec.target]))
        else:
            constant = program.constants[spec.target]
            table = tables.get(memory(constant)) if _has_numbers(constant) else None
            found.append(
                Source(node, "constant", (spec.target,), constant)
                if table is None
                else Source(node, "table", names[first[table]], own[table])
            )
    return tuple(found)
