"""Captured graphs of the small modules, with the arguments that follow from sizes as a conversion should find them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nas.convert.capture import capture
from nas.convert.emission import Length, Path, Reference
from nas.convert.plan import Plan
from nas.supernet.parts import Axis

LENGTHS: Mapping[str, Mapping[str, Mapping[Path, Axis]]] = {
    "conv": {},
    "attention": {
        "layer_norm": {("normalized_shape", 0): ("width",)},
        "view": {("size", 3): ("heads",)},
        "reshape": {("shape", 2): ("heads", "hd")},
    },
    "recurrent": {"zeros": {("size", 2): ("h",)}, "zeros_1": {("size", 2): ("h",)}},
    "branches": {},
    "norms": {
        "group_norm": {("num_groups",): ("g",)},
        "layer_norm": {("normalized_shape", 0): ("o",)},
        "reshape": {("shape", 1): ("o",)},
    },
}
"""Net -> node -> argument -> axis."""


def reference(name: str, module: nn.Module, plan: Plan, example: Any) -> Reference:
    """The graph of a net of `tests.convert.nets`."""
    captured = capture(module, example)
    nodes = {node.name: node for node in captured.graph.nodes}
    lengths = {
        nodes[node]: {path: Length(axis) for path, axis in arguments.items()}
        for node, arguments in LENGTHS[name].items()
    }
    return Reference(captured, plan.whole, plan.tensors, lengths)
