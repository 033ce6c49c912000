"""Recurrent layers: gates one after the other, both directions of the same size."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nas.convert.axes import Axis, fixed, joined, norm, prod_split, size_of
from nas.convert.rules.base import Call, Value, rule

_GATES = {"lstm": 4, "gru": 3}


def _gates(name: str) -> int:
    return next((count for kind, count in _GATES.items() if kind in name), 1)


@rule("lstm gru rnn_tanh rnn_relu")
def recurrent(call: Call) -> Any:
    """Of all layers and directions: the states are as wide in each of them."""
    weights = call.values("params")
    gates = _gates(call.name)
    layers, both = int(call["num_layers"]), bool(call["bidirectional"])
    directions = 2 if both else 1
    each = len(weights) // (layers * directions)
    biased = bool(call["has_biases"])
    value = call.value("input")
    source: Axis = value.axes[-1]
    clean = value.clean[-1]
    hidden = _hidden(call, weights[0].axes[0], gates)
    projected = each in (3, 5)
    state = weights[each - 1].axes[0] if projected else hidden
    for layer in range(layers):
        for direction in range(directions):
            group = weights[(layer * directions + direction) * each :][:each]
            call.unify(group[0].axes[1], source)
            call.contract(source, clean, group[0].clean[1])
            for matrix in group[: 4 if biased else 2]:
                call.unify(_hidden(call, matrix.axes[0], gates), hidden)
            call.unify(group[1].axes[1], state)
            if projected:
                call.unify(group[-1].axes[1], hidden)
                call.unify(group[-1].axes[0], state)
        source, clean = joined([state] * directions), True
    samples = value.axes[0 if call["batch_first"] else 1] if len(value.axes) > 2 else ()
    _states(call, hidden, state, samples)
    axes = (*map(norm, value.axes[:-1]), norm(source))
    output = Value(axes, (True,) * len(axes))
    finals = [
        Value((fixed(fake.shape[0]), *((norm(samples),) if fake.dim() > 2 else ()), norm(axis)), (True,) * fake.dim())
        for fake, axis in zip(call.fakes[1:], (state, hidden), strict=False)
    ]
    return [output, *finals]


def _hidden(call: Call, axis: Axis, gates: int) -> Axis:
    """Units of a state, of an axis that has them for each gate."""
    several, units = prod_split(axis, size_of(axis) // gates)
    call.freeze(several, "gates")
    return units


def _states(call: Call, hidden: Axis, state: Axis, samples: Axis) -> None:
    """Initial states."""
    given = call["hx"]
    nodes = given if isinstance(given, (list, tuple)) else [given]
    for node, axis in zip(nodes, (state, hidden), strict=False):
        value = call.value(node)
        call.unify(value.axes[-1], axis)
        call.freeze(value.axes[0], "layers")
        if len(value.axes) > 2:
            call.unify(value.axes[1], samples)


@rule("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell _thnn_fused_lstm_cell _thnn_fused_gru_cell")
def cell(call: Call) -> Any:
    """One step."""
    gates = _gates(call.name)
    value, rows, columns = call.value("input"), call.value("w_ih"), call.value("w_hh")
    hidden = _hidden(call, rows.axes[0], gates)
    call.unify(value.axes[-1], rows.axes[1])
    call.contract(value.axes[-1], value.clean[-1], rows.clean[1])
    call.unify(_hidden(call, columns.axes[0], gates), hidden)
    call.unify(columns.axes[1], hidden)
    for name in ("b_ih", "b_hh"):
        if call.has(name):
            call.unify(_hidden(call, call.value(name).axes[0], gates), hidden)
    given = call["hx"]
    for node in given if isinstance(given, (list, tuple)) else [given]:
        state = call.value(node)
        call.unify(state.axes[-1], hidden)
        for ours, theirs in zip(value.axes[:-1], state.axes[:-1], strict=True):
            call.unify(ours, theirs)
    axes = (*map(norm, value.axes[:-1]), norm(hidden))
    result = Value(axes, (True,) * len(axes))
    return result if isinstance(call.node.meta["val"], Tensor) else [result] * len(call.fakes)
