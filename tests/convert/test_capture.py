"""Models as graphs of operators whose arguments are known to follow from attributes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.convert import observing
from nas.convert.capture import Capture, capture
from nas.errors import SpaceError


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


@pytest.mark.parametrize("region", [torch.no_grad, functools.partial(torch.autocast, "cuda", enabled=False)])
@pytest.mark.parametrize("nested", [False, True])
def test_a_region_is_given_a_tensor_for_its_shape_alone(region: Any, nested: bool) -> None:
    """As positions are, of all tokens but the first."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def positions(self, x: Tensor) -> Tensor:
            with region():
                return torch.arange(x.shape[1], dtype=x.dtype)

        def outer(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.positions(x[:, 1:]) + x.shape[0]

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            positions = self.outer(x) if nested else self.positions(x[:, 1:])
            return self.last(x[:, 1:] * positions[None, :, None])

    model, x = Positions().eval(), torch.randn(2, 5, 4)
    captured = capture(model, (x,))
    torch.testing.assert_close(captured((x,), dict(model.named_parameters())), model(x))
    for node in captured.graph.nodes:
        assert all(node in operand.users for operand in node.all_input_nodes)


def test_dead_operators_are_left_out() -> None:
    class Dead(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x[:, 0].exp()
            return x + 1

    captured = capture(Dead(), torch.randn(2, 3))
    assert [node.name for node in captured.paths] == ["add"]


def test_dead_operators_on_parameters_of_their_own_are_kept_since_the_class_runs_them() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.skip, self.next = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            y = self.skip(x)
            x = x + self.next(x)  # for a block that does not follow
            return y

    captured = capture(Residual(), torch.randn(2, 3))
    assert module_of(captured, "linear") == ["first", "skip", "next"]
    assert captured.unused == ("next.weight", "next.bias")


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_what_hooks_compute_from_parameters_is_computed_in_the_graph() -> None:
    model, x = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4))), torch.randn(2, 3)
    expected = model(x)
    captured = capture(model, x)
    assert {name for source in captured.sources for name in source.names} >= {"0.weight_g", "0.weight_v"}
    assert torch.equal(captured(x), expected)


def test_casting_regions_keep_their_types() -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = self.linear(x)
                with torch.no_grad():
                    z = y * 2
            return y + z

    model, x = Casting(), torch.randn(2, 4)
    assert torch.equal(capture(model, x)(x), model(x))


# -- what is kept outside parameters and buffers


class Table(nn.Module):
    """Attention bias read from a table of parameters, remembered as libraries do, in `self.cache`."""

    def __init__(self, how: str = "dict") -> None:
        super().__init__()
        self.how = how
        self.table = nn.Parameter(torch.randn(3, 5))
        self.cache: Any = {} if how == "dict" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "dict":
            if "bias" not in self.cache:
                self.cache["bias"] = self.table.t().contiguous()
            return x + self.cache["bias"]
        if self.cache is None:
            self.cache = self.table.t().contiguous()
        return x + self.cache


@pytest.mark.parametrize("how", ["dict", "attribute"])
def test_what_was_computed_from_parameters_is_computed_again(how: str) -> None:
    model, x = nn.Sequential(Table(how)), torch.randn(5, 3)
    with torch.no_grad():
        expected = model(x)
    captured = capture(model, x)
    assert captured.caches == (("0", "cache"),)
    assert [source.kind for source in captured.sources] == ["parameter", "input"]
    assert torch.equal(captured(x), expected)
    assert torch.equal(captured(x, {"0.table": torch.zeros(3, 5)}), x)
    held: Any = model[0]
    assert len(held.cache) > 0  # the model's own is left to it


def test_tensors_in_attributes_are_tables_where_the_model_needs_them() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.arange(3.0)

        def forward(self, x: Tensor) -> Tensor:
            return x if self.scale is None else x * self.scale

    model, x = Scaled(), torch.randn(2, 3)
    captured = capture(model, x)
    assert captured.caches == ()
    assert [source.names for source in captured.sources if source.kind == "table"] == [("scale",)]
    assert torch.equal(captured(x), model(x))


def test_a_tensor_computed_from_parameters_once_is_refused() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))
            self.normed = self.weight / self.weight.norm()

        def forward(self, x: Tensor) -> Tensor:
            return x * self.normed * self.weight

    with pytest.raises(SpaceError, match="'normed', which was computed from parameters"):
        capture(Frozen(), torch.randn(2, 3))


@functools.lru_cache
def positions(length: int) -> Tensor:
    return torch.arange(length).float()


def decorated(function: Any) -> Any:
    remembering = functools.lru_cache(function)

    @functools.wraps(function)
    def wrapper(length: int) -> Tensor:
        return remembering(length)

    return wrapper


inner_positions = decorated(positions.__wrapped__)


@pytest.mark.parametrize("name", ["positions", "inner_positions"])
def test_functions_that_remember_tensors_forget_those_without_values(name: str) -> None:
    remember = globals()[name]

    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.length = 4

        def forward(self, x: Tensor) -> Tensor:
            return x + globals()[name](self.length)

    model, x = Remembering(), torch.randn(2, 4)
    assert torch.equal(capture(model, x)(x), model(x))
    assert globals()[name] is remember
    assert type(remember(4)) is Tensor
    assert torch.equal(capture(model, x)(x), model(x))


@functools.lru_cache
def grouped(shape: tuple[int, ...], groups: int) -> tuple[int, ...]:
    return (*shape[:-1], groups, shape[-1] // groups)


def test_remembered_results_are_not_taken_for_those_of_other_numbers() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = 2, 2

        def forward(self, x: Tensor) -> Tensor:
            return x.view(grouped(x.shape, self.first)) + x.exp().view(grouped(x.shape, self.second))

    views = arguments_of(capture(Grouped(), torch.randn(3, 4)), "view")
    assert [view[("size", 1)] for view in views] == [("attr", "", ("first",)), ("attr", "", ("second",))]


# -- values that follow from numbers alone


def test_decisions_by_masks_of_a_given_length_are_followed() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            places = torch.arange(x.shape[1])
            if (places > 3).any():
                x = x * 2
            return x + int(places.max())

    x = torch.randn(2, 5)
    assert torch.equal(capture(Masked(), x)(x), Masked()(x))


def test_a_value_that_was_written_later_is_not_known() -> None:
    class Written(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flags = torch.zeros(3)
            flags[1] = 1
            return x * 2 if flags.any() else x

    with pytest.raises(SpaceError, match="decides by numbers"):
        capture(Written(), torch.randn(2, 5))


def test_transformers_of_torch_do_not_look_at_their_masks() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    inputs = {"src": torch.randn(2, 5, 8), "mask": nn.Transformer.generate_square_subsequent_mask(5)}
    captured = capture(model, inputs)
    torch.testing.assert_close(captured(inputs), model(**inputs))


# -- parameters without values


def test_parameters_on_the_meta_device_are_captured() -> None:
    with torch.device("meta"):
        model = nn.Sequential(Attention(), nn.BatchNorm1d(5))
    captured = capture(model, torch.randn(2, 5, 12))
    assert [source.names[0] for source in captured.sources][:2] == ["0.qkv.weight", "0.qkv.bias"]
    assert all(source.tensor.is_meta for source in captured.sources if source.kind in ("parameter", "buffer"))
    assert len(arguments_of(captured, "reshape")[0]) == 4
    assert [tuple(node.meta["val"].shape) for node in captured.outputs] == [(2, 5, 12)]
    assert capture(model, torch.randn(2, 5, 12, device="meta")).tracked


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.count = nn.Linear(4, 4), 3

    def forward(self, x: Tensor) -> Tensor:
        assert type(self.count) is int
        return x * self.count


def test_code_that_asks_for_plain_numbers_is_captured_without_them() -> None:
    assert not capture(Counting(), torch.randn(2, 4)).tracked


class Wary(nn.Module):
    """Takes another way where it is told that it is compiled; `asks` for a number of a tensor on the way without."""

    def __init__(self, *, asks: bool = False) -> None:
        super().__init__()
        self.layer, self.asks = nn.Linear(4, 4), asks

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return x.relu() if self.asks else x + None
        return x.relu() if not self.asks or bool((x < 0).any()) else x


def test_models_are_captured_as_they_run_and_as_compiled_ones_only_where_that_has_no_graph() -> None:
    x = torch.randn(2, 4)
    for model in (Wary(), Wary(asks=True)):
        assert torch.equal(capture(model, x)(x), model(x).relu())
    assert not torch.compiler.is_compiling()


@pytest.mark.parametrize(
    "shape_of",
    [
        lambda h: h[:, 0].shape,
        lambda h: h.unsqueeze(0)[0, :, 1].shape,
        lambda h: h.transpose(1, 2)[..., 0].shape,
        lambda h: h.permute(2, 0, 1).sum(2).float().shape[::-1],
        lambda h: (h * 2 + 1)[:, 1:].mean(1).shape,
    ],
)
def test_lengths_of_tensors_that_nothing_else_is_asked_for_are_tracked(shape_of: Callable[[Tensor], Any]) -> None:
    """As the first state of a recurrence: `zeros(hidden[:, 0].shape)`."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            state = torch.zeros(shape_of(hidden))
            return state + hidden[:, -1]

    model, x = Model(), torch.randn(2, 5, 4)
    captured = capture(model, x)
    (zeros,) = arguments_of(captured, "zeros")
    linear = next(node for node in captured.graph.nodes if node.name == "linear")
    assert zeros[("size", 1)] == ("dim", linear, 2)
    assert torch.equal(captured(x), model(x))


def test_settings_of_gradients_make_no_nodes() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                with torch.no_grad():
                    x = x * 2
            return x

    x = torch.randn(2)
    captured = capture(Model(), x)
    assert [str(node.target) for node in captured.graph.nodes if node.op == "call_function"] == ["aten.mul.Tensor"] * 3
    assert torch.is_grad_enabled()


def test_a_capture_of_many_operators_says_that_it_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observing, "OFTEN", 20)
    model = nn.Sequential(*(nn.ReLU() for _ in range(50)))
    capture(model, torch.randn(2))
    assert [record.getMessage() for record in caplog.records] == [
        f"the model called {count} operators so far; nas.elastic goes on" for count in (20, 40)
    ]
