"""What of a captured graph nothing needs, where operators may write into their arguments.

torch's own removal keeps every operator that writes, as `relu_` and `add_` do: what a unit that was left out had computed would
still be computed, from weights that are not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import getitem

import torch
from torch import fx

from nas.convert.refusing import arguments_of, written_by

_GIVEN = ("placeholder", "get_attr")


def remove_dead(graph: fx.Graph) -> None:
    """Remove, in place, operators whose results no output needs, and which write into nothing that is read later."""
    memory = _memory(graph)
    read = {
        memory[node] for node in graph.nodes if node.op in _GIVEN
    }  # what the caller has, or something live reads later
    for node in reversed(graph.nodes):
        written = {memory[one] for one in written_by(node)}
        always = not written and (node.op in (*_GIVEN, "output") or has_effect(node))
        if node.users or always or written & read:
            read |= {memory[one] for one in node.all_input_nodes}
        else:
            graph.erase_node(node)


def has_effect(node: fx.Node) -> bool:
    """Whether an operator does something besides its result; to draw random numbers, as attention and dropout may, is nothing."""
    operator = node.target
    if isinstance(operator, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in operator.tags:
        return operator._schema.is_mutable
    return node.is_impure()


def _memory(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Of each node the first one whose memory it may have.

    By what operators say of themselves: what was noted when the graph was captured is wrong once units are left out.
    """
    first: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        shared = {first[one] for one in _sharing(node)}
        first[node] = min(shared, default=node)
        if len(shared) > 1:  # a list of tensors: from here on they are one
            first |= {one: first[node] for one, its in first.items() if its in shared}
    return first


def _sharing(node: fx.Node) -> Iterator[fx.Node]:
    """Arguments whose memory the result may have."""
    if node.target is getitem and isinstance(node.args[0], fx.Node):
        yield node.args[0]
    elif "dropout" in str(node.target):  # gives its argument itself in eval mode, which its schema does not say
        yield from node.all_input_nodes
    elif _gives_arguments(node):
        yield from arguments_of(node, lambda argument: argument.alias_info is not None)


def _gives_arguments(node: fx.Node) -> bool:
    """Whether its operator says that results share memory with arguments."""
    operator = node.target
    return isinstance(operator, torch._ops.OpOverload) and any(
        one.alias_info is not None for one in operator._schema.returns
    )
