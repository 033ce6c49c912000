"""Models as graphs of operators whose arguments are known to follow from attributes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.convert.capture import Capture, capture


class Attention(nn.Module):
    """As many write it: heads from an attribute, widths from the input."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2)
        return self.out(mixed.reshape(batch, tokens, width))


def arguments_of(captured: Capture, operator: str) -> list[dict[Any, Any]]:
    return [
        captured.tracked.get(node, {})
        for node in captured.graph.nodes
        if node.op == "call_function" and str(node.target).startswith(f"aten.{operator}.")
    ]


def module_of(captured: Capture, operator: str) -> list[str]:
    return [path for node, path in captured.paths.items() if str(node.target).startswith(f"aten.{operator}.")]


def test_the_graph_computes_what_the_model_computes() -> None:
    model, x = Attention().eval(), torch.randn(2, 5, 12)
    captured = capture(model, x)
    assert torch.equal(captured(x), model(x))
    zeros = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    assert not captured(x, zeros).any()


def test_arguments_follow_from_attributes_and_lengths() -> None:
    captured = capture(Attention(), torch.randn(2, 5, 12))
    x = next(source.node for source in captured.sources if source.kind == "input")
    split, merge = arguments_of(captured, "reshape")
    heads = ("attr", "", ("heads",))
    assert split == {
        ("shape", 0): ("dim", x, 0),
        ("shape", 1): ("dim", x, 1),
        ("shape", 3): heads,
        ("shape", 4): ("//", ("dim", x, 2), heads),
    }
    assert merge == {("shape", axis): ("dim", x, axis) for axis in range(3)}
    assert arguments_of(captured, "mul") == [{("other",): ("attr", "", ("scale",))}]
    assert module_of(captured, "linear") == ["qkv", "out"]


def test_lengths_of_what_operators_give_are_tracked() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return y.view(y.size(0), y.size(-1) // 2, -1)

    captured = capture(Model(), torch.randn(2, 4))
    (view,) = arguments_of(captured, "view")
    linear = next(node for node in captured.graph.nodes if node.name == "linear")
    assert view[("size", 1)] == ("//", ("dim", linear, 1), 2)


def test_functions_of_torch_in_python_are_entered() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    captured = capture(model, (x, x, x))
    views = arguments_of(captured, "view")
    assert ("attr", "", ("num_heads",)) in [part for view in views for tree in view.values() for part in tree]
    assert torch.equal(captured((x, x, x))[0], model(x, x, x)[0])


@pytest.mark.parametrize(
    ("forward", "operator", "path", "expression"),
    [
        (lambda self, x: x.split(self.size, -1)[0], "split", ("split_size",), "size"),
        (lambda self, x: x.split([self.size, 12 - self.size], -1)[0], "split_with_sizes", ("split_sizes", 0), "size"),
        (lambda self, x: x.chunk(self.size, -1)[0], "chunk", ("chunks",), "size"),
        (lambda self, x: x[..., : self.size], "slice", ("end",), "size"),
        (lambda self, x: x[:, 1:, self.size :], "slice", ("start",), "size"),
        (lambda self, x: x.narrow(-1, 0, self.size), "narrow", ("length",), "size"),
        (lambda self, x: x.repeat(1, 1, self.size), "repeat", ("repeats", 2), "size"),
        (lambda self, x: x.repeat_interleave(self.size, -1), "repeat_interleave", ("repeats",), "size"),
        (lambda self, x: x.unflatten(-1, (self.size, -1)), "unflatten", ("sizes", 0), "size"),
        (lambda self, x: x[:, :1].expand(-1, self.size, -1), "expand", ("size", 1), "size"),
        (lambda self, x: x + torch.zeros(self.size, 1, 12)[:1], "zeros", ("size", 0), "size"),
        (lambda self, x: x + x.new_zeros((self.size, 1, 12))[:1], "new_zeros", ("size", 0), "size"),
        (lambda self, x: F.pad(x, (0, self.size)), "pad", ("pad", 1), "size"),
        (lambda self, x: F.group_norm(x, num_groups=self.size), "group_norm", ("num_groups",), "size"),
        (lambda self, x: F.layer_norm(x, (self.width,)), "layer_norm", ("normalized_shape", 0), "width"),
        (lambda self, x: F.conv1d(x, self.weight, groups=self.size), "conv1d", ("groups",), "size"),
        (lambda self, x: x + torch.arange(self.width), "arange", ("end",), "width"),
        (lambda self, x: x * self.size, "mul", ("other",), "size"),
    ],
)
def test_every_kind_of_argument_is_named_as_its_operator_does(
    forward: Any, operator: str, path: Any, expression: str
) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.size, self.width = 3, 12
            self.weight = nn.Parameter(torch.randn(6, 2, 1))

    Model.forward = forward
    x = torch.randn(2, 6, 12)
    model = Model()
    captured = capture(model, x)
    found = [tree for one in arguments_of(captured, operator) for key, tree in one.items() if key == path]
    assert found == [("attr", "", (expression,))]
    assert torch.equal(captured(x), model(x))


def test_the_model_is_left_as_it_was() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.cache = nn.Linear(4, 4), {"x": torch.ones(3)}
            self.calls = 2

        def train(self, mode: bool = True) -> Caching:
            self.cache = {}
            return super().train(mode)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return F.dropout(self.linear(x), training=self.training)

    model = Caching()
    model.linear.eval()
    cache, weight, state = model.cache, model.linear.weight, torch.get_rng_state()
    capture(model, torch.randn(2, 4, generator=torch.Generator().manual_seed(1)))
    assert [module.training for module in model.modules()] == [True, False]
    assert model.cache is cache
    assert model.linear.weight is weight
    assert "forward" not in vars(model)
    assert (model.calls, type(model.calls)) == (2, int)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mha.get_fastpath_enabled()


def test_sources_know_all_names_of_tied_parameters() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight
            self.unread = nn.Parameter(torch.zeros(3))
            self.register_buffer("shift", torch.ones(4))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embed(tokens) + self.shift)

    model = Tied()
    captured = capture(model, {"tokens": torch.tensor([[1, 2]])})
    by_kind = {source.kind: source for source in captured.sources if source.node.users}
    assert by_kind["parameter"].names == ("embed.weight", "head.weight")
    assert by_kind["parameter"].tensor is model.embed.weight
    assert by_kind["buffer"].names == ("shift",)
    assert captured.unused == ("unread",)


def test_inputs_come_in_every_form_of_the_project() -> None:
    class Two(nn.Module):
        def forward(self, first: Tensor, second: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
            return {"sum": first + scale * second}

    a, b = torch.randn(2, 3), torch.randn(2, 3)
    for inputs in ((a, b), {"second": b, "first": a}, {"first": a, "second": b, "scale": 2.0}, nas.Example((a, b))):
        captured = capture(Two(), inputs)
        given = inputs.inputs if isinstance(inputs, nas.Example) else inputs
        expected = Two()(**given) if isinstance(given, dict) else Two()(*given)
        assert torch.equal(captured(inputs)["sum"], expected["sum"])


def test_regions_without_gradients_are_part_of_the_graph() -> None:
    class Region(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.half = nn.Linear(4, 4), 2

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                y = self.linear(x).view(-1, self.half, 2)
            with torch.autocast("cpu", enabled=False):
                return y.float() * 2

    x = torch.randn(2, 4)
    captured = capture(Region(), x)
    assert arguments_of(captured, "view") == [{("size", 1): ("attr", "", ("half",))}]
    assert all(
        not isinstance(getattr(captured.module, str(node.target), None), nn.Module) for node in captured.graph.nodes
    )
    model = Region()
    assert captured(x, dict(model.named_parameters())).equal(model(x))


def test_dead_operators_are_left_out() -> None:
    class Dead(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x[:, 0].exp()
            return x + 1

    captured = capture(Dead(), torch.randn(2, 3))
    assert [node.name for node in captured.paths] == ["add"]
