"""Rules: of which atoms the axes of small models are made, and what stays whole for which reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.convert.analysis import Analysis, analyse
from nas.convert.axes import cause_of, norm, rigid
from nas.convert.capture import capture
from nas.convert.decisions import Names, choices, name_atoms
from nas.convert.permuting import permute
from nas.convert.plan import Plan


def names_of(model: nn.Module, *inputs: Tensor, **options: Any) -> tuple[Analysis, Names]:
    analysis = analyse(capture(model.eval(), inputs), **options)
    return analysis, name_atoms(analysis, [name for name, _ in model.named_parameters()])


class Called(nn.Module):
    """A module whose forward is a function of its parameters' holder."""

    def __init__(self, forward: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def reason(analysis: Analysis, tensor: str, dim: int) -> str:
    axis = norm(analysis.sources[tensor][dim])
    assert rigid(axis)
    cause = cause_of(axis)
    return "" if cause is None else cause.reason


def test_a_perceptron_has_its_hidden_width() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    analysis, names = names_of(model, torch.zeros(2, 6))
    assert names.decided == ["hidden"]
    assert names.tensors["0.weight"] == (("hidden",), (6,))
    assert names.tensors["2.weight"] == ((3,), ("hidden",))
    assert reason(analysis, "2.weight", 0) == "model output"
    assert reason(analysis, "0.weight", 1) == "model input"


def test_gates_of_recurrent_layers_are_whole_units() -> None:
    for layer, gates in ((nn.LSTM(5, 8, 2, bidirectional=True), 4), (nn.GRU(5, 8, 2, bidirectional=True), 3)):
        model = Called(lambda self, x: self.out(self.rnn(x)[0]), rnn=layer, out=nn.Linear(16, 2))
        _, names = names_of(model, torch.zeros(3, 2, 5))
        (hidden,) = names.decided
        assert names.tensors["rnn.weight_hh_l0"] == ((gates, hidden), (hidden,))
        assert names.tensors["rnn.weight_ih_l1"] == ((gates, hidden), (2, hidden))
        assert names.tensors["out.weight"] == ((2,), (2, hidden))


def test_concatenated_branches_are_two_widths() -> None:
    model = Called(
        lambda self, x: self.out(torch.cat([self.left(x), self.right(x)], -1)),
        left=nn.Linear(4, 8), right=nn.Linear(4, 16), out=nn.Linear(24, 2),
    )  # fmt: skip
    _, names = names_of(model, torch.zeros(1, 4))
    assert len(names.decided) == 2
    (total,) = names.tensors["out.weight"][1]
    assert [term[0] for term in total.terms] == names.decided  # type: ignore[union-attr]


def response(size: Tensor) -> Tensor:
    """Global response normalisation: each channel's length by their mean."""
    return size / (size.mean(1, keepdim=True) + 1e-6)


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        (lambda x: x.softmax(1), "softmax"),
        (lambda x: x - x.mean(1, keepdim=True) * 2, "mean"),
        (lambda x: x / x.norm(dim=(2,), keepdim=True).mean(1, keepdim=True), "mean"),  # global response normalisation
        (lambda x: x.abs().mean(1, keepdim=True) / (1 + x.abs()), "mean"),  # the mean by what it is of
        (lambda x: x.amax(1, keepdim=True) * x, "max"),
        (lambda x: x.sigmoid().sum(1, keepdim=True) * x, "reduction"),
        (lambda x: x.flip(1), "order"),
        (lambda x: x.cumsum(1), "order"),
        (lambda x: x + x.mean((1, 2), keepdim=True), "mean"),
    ],
)
def test_reductions_over_channels_keep_them_whole(reduce: Callable[[Tensor], Tensor], expected: str) -> None:
    model = Called(
        lambda self, x: self.out(reduce(self.conv(x))).mean(-1), conv=nn.Conv1d(3, 8, 3), out=nn.Conv1d(8, 2, 1)
    )
    analysis, _ = names_of(model, torch.zeros(1, 3, 9))
    assert reason(analysis, "conv.weight", 0) == expected
    assert reason(analysis, "out.weight", 1) == expected


@pytest.mark.parametrize(
    "reduce",
    [
        lambda x: x.sum(1, keepdim=True) * x,
        lambda x: functional.normalize(x, dim=1),
        lambda x: x.amax((2,), keepdim=True) * x,
        lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6),
        lambda x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt(),
        lambda x: functional.adaptive_max_pool1d(x, 1) + functional.adaptive_avg_pool1d(x, 1),
        lambda x: functional.glu(torch.cat([x, x], 1), 1),
        lambda x: x * response(x.norm(dim=2, keepdim=True)) + x,
        lambda x: x / x.abs().mean(1, keepdim=True),
        lambda x: torch.divide(torch.multiply(x, x), 3),
        lambda x: torch.subtract(x, x[..., :1]).absolute(),
    ],
)
def test_what_zeros_do_not_change_leaves_channels_elastic(reduce: Callable[[Tensor], Tensor]) -> None:
    model = Called(
        lambda self, x: self.out(reduce(self.conv(x))).mean(-1), conv=nn.Conv1d(3, 8, 3), out=nn.Conv1d(8, 2, 1)
    )
    _, names = names_of(model, torch.zeros(1, 3, 9))
    assert len(names.decided) == 1
    assert names.tensors["conv.weight"][0] == tuple(names.decided)
    assert names.tensors["out.weight"][1] == tuple(names.decided)


def test_a_grouped_convolution_has_groups_and_channels_of_a_group() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 2, 1))
    _, names = names_of(model, torch.zeros(1, 3, 8, 8))
    groups, before, after = names.decided
    assert [names.kinds[each] for each in names.decided] == ["groups", "hidden", "hidden"]
    assert names.tensors["0.weight"][0] == (groups, before)
    assert names.tensors["1.weight"][:2] == ((groups, after), (before,))
    assert names.tensors["2.weight"][1] == (groups, after)


def test_groups_of_a_shuffle_are_those_of_the_convolution_before_it() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=4), nn.ChannelShuffle(4), nn.Conv2d(16, 2, 1)
    )
    space = nas.elastic(model, torch.zeros(1, 3, 8, 8))
    assert {decision.kind for decision in space.plan.decisions} >= {"groups"}
    assert space.report.execution == "class"


@pytest.mark.parametrize(("least", "expected"), [(0.25, (4, 4, 4)), (0.5, (6, 6, 6))])
def test_groups_and_their_channels_keep_the_least_share_together(least: float, expected: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, groups=8), nn.Conv2d(64, 2, 1))
    space = nas.elastic(model, torch.zeros(1, 3, 8, 8), width=(least, 1.0), check=False)
    assert tuple(min(decision.choices) for decision in space.plan.decisions) == expected
    assert space.build(space.smallest)[0].out_channels >= least * 64


def test_channels_of_a_group_that_is_a_head_stay() -> None:
    def attended(self: Any, x: Tensor) -> Tensor:
        query, key, value = (
            each(x).unflatten(1, (4, -1)).transpose(2, 3) for each in (self.query, self.key, self.value)
        )
        return self.out(functional.scaled_dot_product_attention(query, key, value).transpose(2, 3).flatten(1, 2))

    layers = {name: nn.Conv1d(32, 32, 1, groups=4) for name in ("query", "key", "value")}
    model = Called(
        lambda self, x: attended(self, self.first(x)), first=nn.Conv1d(5, 32, 1), **layers, out=nn.Conv1d(32, 2, 1)
    )
    _, names = names_of(model, torch.zeros(1, 5, 6))
    heads, width = names.decided
    assert names.tensors["first.weight"][0] == (heads, width)
    assert names.tensors["query.weight"][:2] == ((heads, names.tensors["query.weight"][0][1]), (width,))
    assert names.tensors["query.weight"][0][1] not in names.decided
    assert names.tensors["value.weight"][0][1] not in names.decided


@pytest.mark.parametrize(("kernel", "padding", "decided"), [(1, 0, 1), (1, "same", 1), (1, 1, 0), (3, 0, 0)])
def test_channels_pass_a_convolution_over_tokens_whose_kernel_is_one_wide(
    kernel: int, padding: Any, decided: int
) -> None:
    """Channels are where a convolution has its places: a gate over tokens (gMLP: Liu et al. 2021)."""
    model = Called(
        lambda self, x: self.out(self.tokens(self.first(x))),
        first=nn.Linear(5, 16),
        tokens=nn.Conv1d(6, 6, kernel, padding=padding),
        out=nn.Linear({(1, 1): 18, (3, 0): 14}.get((kernel, padding), 16), 2),
    )
    _, names = names_of(model, torch.zeros(1, 6, 5))
    assert len(names.decided) == decided


class Neighbours(nn.Module):
    """A gate that a convolution along the channels computes (Wang et al. 2020, "ECA-Net")."""

    def __init__(self, kernel: int = 3, *, gate: str = "relu", joined: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 16), nn.Linear(5, 8)
        self.along = nn.Conv1d(1, 1, kernel, padding="same", bias=False)
        self.out = nn.Linear(24 if joined else 16, 2)
        self.gate, self.joined = gate, joined

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.first(x), self.second(x)], -1) if self.joined else self.first(x)
        x = getattr(torch, self.gate)(x)
        return self.out(x * self.along(x.unsqueeze(1)).squeeze(1).sigmoid())


def test_channels_that_a_convolution_goes_along_keep_their_order() -> None:
    analysis, names = names_of(Neighbours(), torch.zeros(3, 5))
    assert names.decided == ["hidden"]
    assert names.ordered == {"hidden"}
    assert names.tensors["out.weight"] == ((2,), ("hidden",))
    assert reason(analysis, "along.weight", 2) == "kernel"


@pytest.mark.parametrize(
    ("model", "expected", "soft"),
    [
        (Neighbours(joined=True), "order", False),  # the last of the first term is in the middle
        (Neighbours(gate="sigmoid"), "kernel", False),  # not zero where a channel is not there
        (Neighbours(kernel=4), "kernel", False),
        (Neighbours(), "kernel", True),  # nothing is proved by zeros
    ],
)
def test_channels_that_a_convolution_goes_along_stay_where_the_rest_is_not_zeros(
    model: nn.Module, expected: str, soft: bool
) -> None:
    analysis, names = names_of(model, torch.zeros(3, 5), soft=soft)
    assert names.decided == []
    assert names.ordered == set()
    assert reason(analysis, "out.weight", 1) == expected


@pytest.mark.parametrize(
    ("before", "along", "ordered"),
    [
        ((1, 1), nn.Conv1d(1, 1, 3, bias=False), True),
        ((2, 0), nn.Conv1d(1, 1, 3, bias=False), True),
        ((4, 0), nn.Conv1d(1, 1, 3, dilation=2, bias=False), True),
        ((1, 0), nn.AvgPool1d(2, 1), True),
        ((1, 1), nn.MaxPool1d(3, 1), False),
        ((0, 0), nn.AvgPool1d(3, 1, padding=1), False),  # of its own zeros an average may not count any
        ((2, 1), nn.Conv1d(1, 1, 3, bias=False), False),  # one longer
    ],
)
def test_neighbours_with_zeros_around_them_are_seen_where_zeros_were_put(
    before: tuple[int, int], along: nn.Module, ordered: bool
) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        found = self.along(functional.pad(x.unsqueeze(1), before)).squeeze(1)
        return self.out(found) if found.shape != x.shape else self.out(x / (1 + found))

    model = Called(forward, first=nn.Linear(5, 16), along=along, out=nn.Linear(17 if before == (2, 1) else 16, 2))
    _, names = names_of(model, torch.zeros(3, 5))
    assert names.ordered == ({"hidden"} if ordered else set())
    assert len(names.decided) == ordered


def test_local_response_normalisation_leaves_channels_elastic() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.LocalResponseNorm(5), nn.Conv2d(16, 2, 1)
    ).eval()
    space = nas.elastic(model, torch.randn(2, 3, 8, 8))
    (hidden,) = space.plan.decisions
    assert (hidden.size, space.plan.ordered) == (16, (hidden.name,))
    assert space.report.execution == "class"
    assert {proof.what.split()[0] for proof in space.report.proofs} >= {"narrower", "the"}


def test_a_network_with_a_convolution_along_channels_is_proved_and_cut() -> None:
    model = Neighbours().eval()
    space = nas.elastic(model, torch.randn(3, 5))
    assert space.plan.ordered == ("hidden",)
    assert Plan.from_json(space.plan.to_json()) == space.plan
    assert space.report.execution == "class"
    assert "1 atoms along which a convolution goes keep their order" in str(space.report)
    x = torch.randn(3, 5)
    net = nas.Supernet(space, example=x, weights=model).eval()
    half = space.arch({"hidden": 8})
    weight = model.first.weight.clone()
    with torch.no_grad():
        torch.testing.assert_close(net(x, half), net.extract(half)(x))
        model.first.weight[8:] = 0
        model.first.bias[8:] = 0
        torch.testing.assert_close(net(x, half), model(x))
    nas.reorder(net)
    assert torch.equal(net.extract(space.largest).first.weight, weight)


def test_renumbering_channels_that_a_convolution_goes_along_would_be_seen() -> None:
    model, x = Neighbours().eval(), torch.randn(3, 5)
    plan = nas.elastic(model, x, check=False).plan
    assert permute(model, plan, x).frozen == {}
    assert list(permute(model, replace(plan, ordered=()), x).frozen) == ["hidden"]


def test_keys_of_attention_and_vocabularies_stay() -> None:
    model = Called(
        lambda self, x: self.out(functional.scaled_dot_product_attention(self.table(x), self.keys[None], self.keys[None])),
        table=nn.Embedding(11, 8), keys=torch.zeros(5, 8), out=nn.Linear(8, 2),
    )  # fmt: skip
    analysis, _ = names_of(model, torch.zeros(1, 3, dtype=torch.long))
    assert reason(analysis, "keys", 0) == "attention keys"
    assert reason(analysis, "table.weight", 0) == "vocabulary"


def test_parameters_without_effect_stay_whole() -> None:
    model = Called(
        lambda self, x: self.out(x + self.table[: x.shape[1]]),
        table=torch.zeros(20, 4),
        spare=nn.Linear(3, 3),
        out=nn.Linear(4, 2),
    )
    analysis, names = names_of(model, torch.zeros(1, 6, 4))
    assert names.decided == []
    assert reason(analysis, "table", 0) in ("unused", "model input")


def test_an_unknown_operation_keeps_everything_whole() -> None:
    @torch.library.custom_op("supernas_tests::odd", mutates_args=())
    def odd(x: Tensor) -> Tensor:
        return x.clone()

    @odd.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    model = Called(lambda self, x: self.out(odd(self.first(x))), first=nn.Linear(4, 8), out=nn.Linear(8, 2))
    analysis, names = names_of(model, torch.zeros(1, 4))
    assert names.decided == []
    assert list(analysis.unknown) == ["supernas_tests.odd"]
    assert reason(analysis, "first.weight", 0) == "unknown op"


def test_choices_rise_to_the_original_and_have_its_half() -> None:
    assert choices(64, "width", (0.25, 1.0), 8) == (16, 24, 32, 40, 48, 56, 64)
    assert choices(12, "heads", (0.25, 1.0), 8) == tuple(range(3, 13))
    assert choices(10, "hidden", (0.25, 1.0), 8) == tuple(range(3, 11))
    assert choices(1536, "hidden", (0.25, 1.0), 8) == tuple(range(384, 1537, 128))
    many = choices(4096, "hidden", (0.25, 1.0), 8)
    assert 2048 in many
    assert many[0] == 1024
    assert many[-1] == 4096
    assert len(many) <= 14
    assert choices(1, "width", (0.25, 1.0), 8) == (1,)


def test_the_larger_of_two_is_taken_element_by_element() -> None:
    model = Called(
        lambda self, x: self.out(torch.max(self.first(x), self.second(x))),
        first=nn.Linear(4, 16), second=nn.Linear(4, 16), out=nn.Linear(16, 2),
    )  # fmt: skip
    _, names = names_of(model, torch.zeros(1, 4))
    assert len(names.decided) == 1
    assert names.tensors["first.weight"][0] == names.tensors["second.weight"][0] == tuple(names.decided)


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x.type_as(torch.arange(7.0)[: x.shape[0]]),
        lambda x: functional.avg_pool2d(x[None], (2, 1))[0],
        lambda x: functional.max_pool2d(x[None], (3, 1), (1, 1), (1, 0))[0],
        lambda x: x * torch.ones_like(x, dtype=torch.int)[..., 0, None],
        lambda x: x.masked_fill((x > 0).__and__(x < 1), 0.0),
        lambda x: torch.negative(torch.multiply(x, torch.greater(x, 0))),
    ],
)
def test_a_narrower_network_is_the_whole_one_without_the_rest(between: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Called(lambda self, x: self.out(between(self.up(x))), up=nn.Linear(4, 16), out=nn.Linear(16, 2)).eval()
    x = torch.randn(6, 4)
    space = nas.elastic(model, x)
    (decision,) = space.plan.decisions
    narrow = nas.Supernet(space, weights=model).extract(space.arch({decision.name: 8}))
    with torch.no_grad():
        model.up.weight[8:], model.up.bias[8:] = 0, 0
        assert torch.allclose(narrow(x), model(x), atol=1e-6)


class Response(nn.Module):
    """Global response normalisation between two layers."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.up, self.down = nn.Conv1d(3, hidden, 3), nn.Conv1d(hidden, 2, 1)
        self.gain = nn.Parameter(torch.randn(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.down(x * response(x.norm(dim=2, keepdim=True)) * self.gain + x)  # type: ignore[no-any-return]


def expect_built_at_eight(kind: Callable[..., nn.Module]) -> None:
    """A network of the one decision at 8 is what the class builds at that size, with the first rows of the weights."""
    model, x = kind().eval(), torch.randn(2, 3, 9)
    space = nas.elastic(model, x)
    (decision,) = space.plan.decisions
    narrow = nas.Supernet(space, weights=model).extract(space.arch({decision.name: 8}))
    built = kind(8)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            parameter.copy_(model.get_parameter(name)[tuple(map(slice, parameter.shape))])
        assert torch.allclose(narrow(x), built(x), atol=1e-6)


def test_response_normalisation_of_a_narrower_network_has_its_own_mean() -> None:
    expect_built_at_eight(Response)


def test_an_index_of_what_is_not_the_same_everywhere_keeps_the_axis() -> None:
    def first(self: Any, x: Tensor) -> Tensor:
        x = self.up(x)
        ones = torch.ones_like(x)
        ones[..., 1:] = 2
        return self.out(x * ones[..., -1, None])  # type: ignore[no-any-return]

    analysis, _ = names_of(Called(first, up=nn.Linear(4, 16), out=nn.Linear(16, 2)), torch.zeros(1, 4))
    assert rigid(norm(analysis.sources["up.weight"][0]))


def test_heads_of_keys_and_of_values_are_shared_by_queries_each_for_themselves() -> None:
    """Four queries to two keys and four values: a head of queries has its own values, and half of its keys."""

    def attend(self: Any, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:2], -1, 4).transpose(1, 2) for layer in (self.queries, self.keys, self.values)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).reshape(*x.shape[:2], -1))  # type: ignore[no-any-return]

    layers = {"queries": nn.Linear(6, 16), "keys": nn.Linear(6, 8), "values": nn.Linear(6, 16), "out": nn.Linear(16, 2)}
    _, names = names_of(Called(attend, **layers), torch.zeros(1, 5, 6))
    heads, groups, unit = names.tensors["queries.weight"][0]
    assert names.tensors["values.weight"][0] == names.tensors["out.weight"][1] != ()
    assert names.tensors["values.weight"][0][:2] == (heads, groups)
    assert names.tensors["keys.weight"][0] == (heads, unit)
    assert {name for name in names.decided if name in (heads, groups)}


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_interpolation_to_the_same_length_leaves_an_axis_elastic(mode: str) -> None:
    def embed(self: Any, x: Tensor) -> Tensor:
        table = functional.interpolate(self.table[None, None], size=(x.shape[1], self.table.shape[1]), mode=mode)
        return self.out(self.up(x) + table[0])  # type: ignore[no-any-return]

    model = Called(embed, up=nn.Linear(3, 16), table=torch.randn(7, 16), out=nn.Linear(16, 2)).eval()
    x = torch.randn(2, 5, 3)
    analysis, names = names_of(model, x)
    (width,) = names.decided
    assert names.tensors["table"] == ((7,), (width,))
    assert reason(analysis, "table", 0) == "kernel"
    space = nas.elastic(model, x)
    narrow = nas.Supernet(space, weights=model).extract(space.arch({space.plan.decisions[0].name: 8}))
    with torch.no_grad():
        model.up.weight[8:], model.up.bias[8:], model.table[:, 8:] = 0, 0, 0
        assert torch.allclose(narrow(x), model(x), atol=1e-6)


class Sloped(nn.Module):
    """A bias for each place, the same for all channels, before a layer norm that is written out."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.up, self.places, self.down = nn.Conv1d(3, width, 1), nn.Parameter(torch.randn(9)), nn.Conv1d(width, 2, 1)
        self.gain, self.bias = nn.Parameter(torch.randn(width, 1)), nn.Parameter(torch.randn(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x) + self.places
        mean, spread = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        return self.down((x - mean) / (spread + 1e-5).sqrt() * self.gain + self.bias)  # type: ignore[no-any-return]


def test_a_norm_written_out_of_channels_that_all_got_a_bias_is_one_of_the_narrower_network() -> None:
    expect_built_at_eight(Sloped)


def test_a_mask_of_each_sample_that_is_repeated_for_each_head_leaves_heads_elastic() -> None:
    class Repeating(nn.Module):
        def __init__(self, heads: int = 4) -> None:
            super().__init__()
            self.heads = heads
            self.q, self.k, self.v, self.out = (nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 2))

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            batch, length, _ = x.shape
            q, k, v = (
                layer(x).view(batch, length, self.heads, -1).permute(2, 0, 1, 3).reshape(-1, length, 4)
                for layer in (self.q, self.k, self.v)
            )
            scores = q @ k.transpose(1, 2) + mask.repeat(self.heads, 1, 1)
            mixed = (scores.softmax(-1) @ v).view(self.heads, batch, length, 4)
            return self.out(mixed.permute(1, 2, 0, 3).reshape(batch, length, -1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, x, mask = Repeating().eval(), torch.randn(3, 5, 6), torch.randn(3, 5, 5)
    space = nas.elastic(model, (x, mask))
    (heads,) = space.plan.decisions
    assert (heads.kind, heads.choices) == ("heads", (1, 2, 3, 4))
    narrow = nas.Supernet(space, weights=model).extract(space.arch({heads.name: 2}))
    assert narrow.heads == 2
    with torch.no_grad():
        model.v.weight[8:], model.v.bias[8:] = 0, 0
        assert torch.allclose(narrow(x, mask), model(x, mask), atol=1e-6)
