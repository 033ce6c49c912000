"""A plan is proved by three means, and what is wrong in it stays whole with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.convert import healthy
from nas.convert.emission import Length, Reference
from nas.convert.healthy import healthy_copy
from nas.convert.masking import masked
from nas.convert.plan import Number, Plan, Unit
from nas.convert.proofs import archs, distance, prove, without
from nas.errors import SpaceError
from tests.convert.nets import NETS, elastic, plan_of
from tests.convert.references import reference

CHOICES = {
    "conv": ({"c": (2, 4, 8), "h": (1, 3, 6)}, {}),
    "recurrent": ({"g": (2, 6), "h": (1, 3, 5)}, {"h_reverse": "h"}),
    "branches": ({"e": (3, 6), "a": (1, 2, 4), "b": (3, 10)}, {}),
    "norms": ({"g": (1, 2, 4)}, {}),  # the width is written into its class as a number
}


def _net(name: str) -> tuple[nn.Module, Plan, object, Reference]:
    module, plan, example = NETS[name]()
    plan = elastic(plan, *CHOICES[name])
    return module, plan, example, reference(name, module, plan, example)


@pytest.mark.parametrize("name", CHOICES)
def test_a_right_plan_passes_all_three(name: str) -> None:
    module, plan, example, graph = _net(name)
    found = prove(module, plan, example, graph)
    assert found.frozen == {}
    assert found.plan == plan
    assert [each.what.split()[0] for each in found.findings] == ["units", "narrower", "the"]
    assert max(each.worst for each in found.findings[:2]) < 1e-12
    assert found.findings[2].worst < 1e-6


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_narrower_graph_is_the_whole_one_with_zeros(name: str, share: float) -> None:
    module, plan, example = NETS[name]()
    graph = reference(name, module, plan, example)
    sizes = {atom: max(1, int(size * share)) for atom, size in plan.whole.items()} | {"hd": 4}
    patient = healthy_copy(module, example, samples=None)
    tensors = {
        key: one.detach() for key, one in patient.module.state_dict(keep_vars=True).items() if key in plan.tensors
    }
    ours, theirs = masked(graph, tensors, patient.example, sizes)
    assert distance(theirs, ours) < 1e-13


def test_a_gate_cut_as_plain_rows_is_found_by_the_zeros() -> None:
    """Renumbering cannot show it where nothing is held: here the graph cuts the first rows of two halves."""
    module, plan, example, graph = _net("recurrent")
    wrong = {**plan.tensors, "gated.weight": (("flat",), (4,)), "gated.bias": (("flat",),)}
    plan = elastic(plan_of({**plan.whole, "flat": 12}, wrong), {"flat": (4, 12)}, {"g": "flat"})
    plan = replace(plan, atoms={**plan.atoms, "g": replace(plan.atoms["flat"], size=6)})
    found = prove(module, plan, example, replace(graph, whole=plan.whole, tensors=plan.tensors))
    assert "flat" in found.frozen
    assert found.plan.decisions == ()


class Literal(nn.Module):
    """Its own width is written into it as a number, that of the layer behind is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.width = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2), 6

    def forward(self, x: Tensor) -> Tensor:
        found = self.a(x).tanh().reshape(-1, 8)
        return self.c(self.b(found).tanh().reshape(-1, self.width))


def _literal() -> tuple[nn.Module, Plan, Tensor, Reference]:
    tensors = {
        "a.weight": (("a",), (3,)),
        "a.bias": (("a",),),
        "b.weight": (("b",), ("a",)),
        "b.bias": (("b",),),
        "c.weight": ((2,), ("b",)),
    }
    plan = elastic(plan_of({"a": 8, "b": 6}, tensors), {"a": (4, 8), "b": (3, 6)})
    plan = replace(plan, numbers=(Number("", ("width",), ("b",)),))
    module, example = Literal(), torch.randn(2, 3)
    graph = reference("conv", module, plan, example)
    nodes = {node.name: node for node in graph.capture.graph.nodes}
    lengths = {nodes["reshape"]: {("shape", 1): Length(("a",))}, nodes["reshape_1"]: {("shape", 1): Length(("b",))}}
    return module, plan, example, replace(graph, lengths=lengths)


def test_what_the_class_cannot_do_stays_whole_and_the_rest_does_not() -> None:
    found = prove(*_literal())
    assert set(found.frozen) == {"a"}
    assert "the model fails (RuntimeError: mat1 and mat2" in found.frozen["a"]
    assert [one.name for one in found.plan.decisions] == ["b"]
    assert found.plan.atoms["a"].decision is None


def test_a_class_that_computes_something_else_is_found() -> None:
    module, plan, example, graph = _literal()

    class Off(Literal):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 if self.width == 6 else 1.01)

    module = Off()
    graph = replace(graph, capture=replace(graph.capture))
    found = prove(module, without(plan, ["a"]), example, graph)
    assert "cut, the output is off by 0.01 of its size (the resized class" in found.frozen["b"]


def test_a_graph_of_another_model_is_an_error_of_the_conversion() -> None:
    module, plan, example, graph = _net("conv")
    nodes = [node for node in graph.capture.graph.nodes if node.name == "relu"]
    nodes[0].target = torch.ops.aten.tanh.default
    graph.capture.module.recompile()
    with pytest.raises(SpaceError, match="the captured graph does not compute what the model does"):
        prove(module, plan, example, graph)


class Block(nn.Module):
    def __init__(self, shrink: int = 0) -> None:
        super().__init__()
        self.inner, self.shrink = nn.Linear(4, 4), shrink

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.inner(x))[:, : 4 - self.shrink]


def test_units_without_which_the_model_fails_are_kept() -> None:
    module, example = nn.Sequential(Block(), Block(1), nn.Linear(3, 2)), torch.randn(2, 4)
    plan = replace(plan_of({}, {}), units=(Unit("0"), Unit("1")))
    graph = reference("conv", module, plan, example)
    last = {path: node for node, path in graph.capture.paths.items()}
    entry = next(source.node for source in graph.capture.sources if source.kind == "input")
    units = {"0": (entry, last["0"]), "1": (last["0"], last["1"])}
    found = prove(module, plan, example, replace(graph, units=units))
    assert [unit.name for unit in found.plan.units] == ["0"]
    assert found.frozen["1"].startswith("left out, the model fails (RuntimeError: mat1 and mat2")


class Doubled(nn.Module):
    """Its residual is not what it is given: left out in the class it is, in the graph it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.inner(x)


class Crossed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Doubled(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x, x.tanh()))


def test_a_unit_whose_first_argument_is_not_its_residual_is_found() -> None:
    module, example = Crossed(), torch.randn(2, 4)
    plan = replace(plan_of({}, {}), units=(Unit("block"),))
    graph = reference("conv", module, plan, example)
    nodes = {node.name: node for node in graph.capture.graph.nodes}
    found = prove(module, plan, example, replace(graph, units={"block": (nodes["tanh"], nodes["add"])}))
    assert "left out, the output is off by" in found.frozen["block"]


def test_without_a_graph_only_the_coupling_is_proved_and_that_is_said() -> None:
    module, plan, example, _ = _net("conv")
    found = prove(module, plan, example)
    assert len(found.findings) == 1
    assert "cutting was not proved" in str(found)


def test_a_report_says_what_was_looked_at() -> None:
    text = str(prove(*_literal()))
    assert "units renumbered in the model itself: " in text
    assert "a stays whole: cut, the model fails" in text


def test_archs_are_half_the_smallest_and_random_ones() -> None:
    plan = elastic(NETS["conv"]()[1], *CHOICES["conv"])
    found = list(archs(plan))
    assert found[:2] == [{"c": 4, "h": 3}, {"c": 2, "h": 1}]
    assert len(found) > 2


def test_every_unit_is_left_out() -> None:
    plan = replace(elastic(NETS["conv"]()[1], *CHOICES["conv"]), units=tuple(map(Unit, "xyz")))
    found = list(archs(plan))
    assert [sorted(set("xyz") & arch.keys()) for arch in (*found[:2], found[-1])] == [
        ["x", "z"],
        ["y"],
        ["x", "y", "z"],
    ]


class Direction(nn.Module):
    """Weight normalisation, written out and torch's own: a row of zeros has no direction."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.g = nn.Parameter(torch.randn(16, 4)), nn.Parameter(torch.ones(16, 1))
        self.middle = nn.utils.parametrizations.weight_norm(nn.Linear(16, 12))
        self.last = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x @ (self.g * self.v / self.v.norm(dim=1, keepdim=True)).T)
        return self.last(torch.tanh(self.middle(x)))


def test_weights_that_are_divided_by_their_length_are_cut() -> None:
    plan = nas.elastic(Direction(), torch.randn(3, 4)).plan
    assert sorted(decision.size for decision in plan.decisions) == [12, 16]


class Chaotic(nn.Module):
    """Every layer makes rounding errors some times as large."""

    def __init__(self, layers: int = 10) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(layers))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(3.0 * layer(x))
        return self.head(x)  # type: ignore[no-any-return]


def test_what_single_precision_makes_of_a_large_model_is_looked_at_in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model above the limit is proved in single precision first, whose rounding errors look like those of a wrong plan."""
    monkeypatch.setattr(healthy, "DOUBLE", 0)
    torch.manual_seed(0)
    space = nas.elastic(Chaotic().eval(), torch.randn(2, 16), granule=4)
    assert len(space.decisions) == 10
    assert "proof failed" not in str(space.report)
