"""What a subnet's weights and its key-value cache take."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.compressing.cache import cache_bytes
from nas.errors import EvaluationError, MetricError
from searchspaces import sorted_lm

WIDTH, HEADS, LENGTH = 16, 4, 40
TOKENS = torch.arange(20)[None] % 11


class Attention(nn.Module):
    """Causal self-attention over the positions, in one of several forms."""

    def __init__(self, groups: int = HEADS, form: str = "plain", window: int | None = None) -> None:
        super().__init__()
        self.groups, self.form, self.window = groups, form, window
        size = WIDTH // HEADS
        self.q, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k, self.v = nn.Linear(WIDTH, groups * size), nn.Linear(WIDTH, groups * size)

    def forward(self, x: Tensor, shared: tuple[Tensor, Tensor] | None = None) -> Tensor:
        q, k, v = (part(x).unflatten(2, (-1, WIDTH // HEADS)).transpose(1, 2) for part in (self.q, self.k, self.v))
        if shared is not None:
            k, v = shared
        self.given = k, v
        if self.form == "repeated":
            k, v = (part.repeat_interleave(HEADS // self.groups, 1) for part in (k, v))
        length = x.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        if self.window is not None:
            mask = mask.triu(1 - self.window)
        if self.form == "written out":
            scores = (q @ k.mT).masked_fill(~mask, -torch.inf).softmax(-1)
            y = scores @ v
        elif self.window is not None:
            y = functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=self.form == "grouped")
        else:
            y = functional.scaled_dot_product_attention(
                q, k, v, is_causal=self.form != "both ways", enable_gqa=self.form == "grouped"
            )
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class Decoder(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.embedding, self.layers, self.head = nn.Embedding(11, WIDTH), nn.ModuleList(layers), nn.Linear(WIDTH, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + layer(x)
        found: Tensor = self.head(x)
        return found


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)[0]
        return found


class Sharing(Decoder):
    """Its second layer reads the keys and values of the first."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        first: Any = self.layers[0]
        x = x + first(x)
        found: Tensor = self.head(x + self.layers[1](x, first.given))
        return found


class Learned(Decoder):
    """Positions are learned, up to so many."""

    def __init__(self, most: int) -> None:
        super().__init__(Attention())
        self.positions = nn.Embedding(most, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) + self.positions(torch.arange(tokens.shape[1])).sum(-1)[:, None]


class Torchs(nn.Module):
    """Torch's own layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        found: Tensor = self.inner(x, mask, is_causal=True)
        return found


def bytes_of(heads: int, positions: int = LENGTH) -> int:
    """Keys and values of so many heads in float32."""
    return 2 * heads * (WIDTH // HEADS) * 4 * positions


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (Decoder(Attention()), bytes_of(HEADS)),
        (Decoder(Attention(), Attention(2, "grouped")), bytes_of(HEADS + 2)),
        (Decoder(Attention(1, "repeated")), bytes_of(1)),  # what attention is given is repeated: kept once
        (Decoder(Attention(window=7), Attention()), bytes_of(HEADS, 7) + bytes_of(HEADS)),
        (Decoder(Attention(window=10 * LENGTH)), bytes_of(HEADS)),
        (Sharing(Attention(), Attention()), bytes_of(HEADS)),
        (Decoder(Torchs()), bytes_of(HEADS)),
        (Learned(LENGTH), bytes_of(HEADS)),
        (Decoder(), 0),  # nothing depends on earlier positions
    ],
)
def test_a_cache_holds_each_different_head_as_long_as_it_is_seen(model: nn.Module, size: int) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert cache_bytes(model, TOKENS, LENGTH) == size
    assert cache_bytes(copy.deepcopy(model).double(), {"tokens": TOKENS}, LENGTH) == 2 * size
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_zeros_of_an_initialisation_hide_nothing() -> None:
    model = Decoder(Attention(), Recurrent())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with pytest.raises(EvaluationError, match="by more than scaled_dot_product_attention"):
        cache_bytes(model, TOKENS, LENGTH)
    assert cache_bytes(Decoder(_zero(Attention())), TOKENS, LENGTH) == bytes_of(HEADS)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Decoder(Attention(form="both ways")), "Decoder looks at later positions, as an encoder does"),
        (Decoder(Attention(form="written out")), "by more than scaled_dot_product_attention"),
        (Decoder(Attention(), Attention(form="written out")), "by more than scaled_dot_product_attention"),
        (Decoder(Attention(), Recurrent()), "by more than scaled_dot_product_attention"),
        (Decoder(Recurrent()), "a recurrence"),
        (Learned(LENGTH - 1), f"does not run on a sequence of {LENGTH} positions: index out of range"),
        (nn.Sequential(Decoder(Attention()), nn.Flatten()), "gives no output for each of 13 positions"),
    ],
)
def test_what_a_model_keeps_is_refused_where_it_is_not_known(model: nn.Module, said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        cache_bytes(model, TOKENS, LENGTH)


def test_inputs_without_positions_are_refused() -> None:
    with pytest.raises(EvaluationError, match="inputs are not"):
        cache_bytes(Decoder(Attention()), torch.zeros(4), LENGTH)
    with pytest.raises(EvaluationError, match="inputs are not"):
        cache_bytes(Decoder(Attention()), nas.Example(TOKENS, batch_axis=1), LENGTH)


@pytest.fixture(scope="module")
def decoder() -> nas.Supernet:
    """Of one to three blocks with one or two heads of keys and values."""
    space = sorted_lm.space(widths=(16,), depths=(1, 2, 3), kvs=(1, 2), head=8, vocabulary=32, context=64)
    return sorted_lm.supernet(space)


def test_memory_is_that_of_weights_and_of_the_cache_of_a_batch(decoder: nas.Supernet) -> None:
    memory = nas.Memory(decoder, batch=3, length=64)
    for arch in decoder.space.enumerate():
        found = memory(arch)
        cache = 3 * 64 * 2 * arch.choices["depth"] * arch.choices["kv"] * 8 * 4 / 2**20
        assert found["cache_mib"] == pytest.approx(cache)
        assert found["weights_mib"] == nas.Memory(decoder)(arch)["weights_mib"]
        assert found["memory_mib"] == pytest.approx(cache + found["weights_mib"])
    assert memory.describe() == {"name": "Memory", "batch": 3, "length": 64, "identity": {"inputs": "(64) int64"}}
    assert nas.Memory(decoder).describe() == {"name": "Memory"}


def test_a_cache_needs_batch_and_length_and_is_refused_before_a_study_begins(decoder: nas.Supernet) -> None:
    with pytest.raises(EvaluationError, match="batch=3 and length=None; a key-value cache needs both"):
        nas.Memory(decoder, batch=3)
    with pytest.raises(EvaluationError, match="does not run on a sequence of 65 positions"):
        nas.Memory(decoder, batch=1, length=65).check(decoder.space)


def test_budgets_may_be_on_the_cache(decoder: nas.Supernet) -> None:
    found = nas.profile(decoder, ["memory_mib <= 50%", "cache_mib <= 20%"], cache=(8, 64))
    assert found.original["memory_mib"] == found.original["weights_mib"] + found.original["cache_mib"]
    assert [verdict.met for verdict in found.verdicts] == [True, True]
    with pytest.raises(MetricError, match=r"needs cache=\(batch, length\)"):
        nas.profile(decoder, "memory_mib <= 50%")
    with pytest.raises(MetricError, match=r"cache\[1\]=0"):
        nas.profile(decoder, "memory_mib <= 50%", cache=(8, 0))


def _zero(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module
