"""What is left of a graph when units are left out, where operators write into their arguments."""

from __future__ import annotations

from collections.abc import Callable
from operator import getitem

import pytest
import torch
from torch import Tensor, fx, nn

import nas
from nas.convert.dead import remove_dead

aten = torch.ops.aten


def later_by_another_name(graph: fx.Graph, x: fx.Node) -> fx.Node:
    made = graph.call_function(aten.mul.Tensor, (x, 2.0))
    view = graph.call_function(aten.view.default, (made, [-1]))
    graph.call_function(aten.relu_.default, (made,))
    return view


def of_a_part(graph: fx.Graph, x: fx.Node) -> fx.Node:
    made = graph.call_function(aten.mul.Tensor, (x, 2.0))
    parts = graph.call_function(aten.split.Tensor, (made, 2))
    part = graph.call_function(getitem, (parts, 0))
    graph.call_function(aten.relu_.default, (part,))
    return made


def after_dropout(graph: fx.Graph, x: fx.Node) -> fx.Node:
    made = graph.call_function(aten.mul.Tensor, (x, 2.0))
    same = graph.call_function(aten.dropout.default, (made, 0.5, False))
    graph.call_function(aten.relu_.default, (same,))
    return made


def of_an_input(graph: fx.Graph, x: fx.Node) -> fx.Node:
    graph.call_function(aten.relu_.default, (x,))
    return graph.call_function(aten.ones_like.default, (x,))


@pytest.mark.parametrize("make", [later_by_another_name, of_a_part, after_dropout, of_an_input])
def test_what_is_read_later_stays_written(make: Callable[[fx.Graph, fx.Node], fx.Node]) -> None:
    graph = fx.Graph()
    graph.output(make(graph, graph.placeholder("x")))
    before = len(graph.nodes)
    inputs = torch.randn(4, 3)
    expected = fx.GraphModule({}, graph)(inputs.clone())
    remove_dead(graph)
    assert len(graph.nodes) == before
    assert torch.equal(fx.GraphModule({}, graph)(inputs.clone()), expected)


def test_what_is_read_before_alone_goes_with_all_it_was_computed_from() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    made = graph.call_function(aten.mul.Tensor, (x, 2.0))
    used = graph.call_function(aten.add.Tensor, (made, 1.0))
    graph.call_function(aten.relu_.default, (made,))
    other = graph.call_function(aten.mul.Tensor, (x, 3.0))
    graph.call_function(aten.relu_.default, (graph.call_function(aten.neg_.default, (other,)),))
    graph.output(used)
    remove_dead(graph)
    assert [node.name for node in graph.nodes] == ["x", "mul_tensor", "add_tensor", "output"]


class Split(nn.Module):
    """Blocks that take their input apart with a size in the source, and write in place: a graph, with depth."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, 8, 1)
        y = self.norm(self.one(first).relu_() + self.two(second).relu_())
        y += x
        return y.relu_()


def test_a_unit_that_writes_in_place_is_left_out_of_a_graph() -> None:
    torch.manual_seed(0)
    model, x = Split().eval(), torch.randn(2, 3, 8, 8)
    space = nas.elastic(model, x, mode="free", granule=4)
    kept = [name for name in space.largest.choices if name.endswith("keep")]
    assert len(kept) == 3
    net = nas.Supernet(space, example=x, weights=model).eval()
    for left in kept:
        arch = space.arch(space.largest.choices | {left: False})
        module = net.extract(arch).eval()
        plain = Split().eval()
        plain.load_state_dict(model.state_dict())
        place = kept.index(left)
        del plain.blocks[place]
        torch.testing.assert_close(module(x), plain(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(x, arch), module(x), rtol=1e-4, atol=1e-5)


class Attending(nn.Module):
    """Attention whose heads have a size in the source, so that archs are graphs; its residual connection is within."""

    def __init__(self) -> None:
        super().__init__()
        self.packed, self.out, self.drop = nn.Linear(16, 48), nn.Linear(16, 16), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.packed(x).view(batch, length, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.drop(self.out(mixed.transpose(1, 2).reshape(batch, length, 16)))


@pytest.mark.parametrize("training", [True, False])
def test_attention_and_dropout_of_a_unit_that_is_left_out_go_with_it(training: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 16), Attending(), Attending(), nn.Linear(16, 3)), torch.randn(2, 6, 5)
    space = nas.elastic(model.train(training), x)
    (left,) = [name for name in space.largest.choices if name.endswith("[1].keep")]
    choices = {name: one for name, one in space.largest.choices.items() if not name.startswith("model[1].heads")}
    arch = space.arch(choices | {left: False})
    found = nas.Supernet(space, example=x, weights=model).extract(arch).eval()
    plain = nn.Sequential(model[0], model[2], model[3]).eval()
    torch.testing.assert_close(found(x), plain(x), rtol=1e-4, atol=1e-5)
    assert nas.profile(space, "macs <= 50%", example=x).verdicts
