"""Subnets are made of the units that they claim: known layers, declared sums, and what is refused by name.

The right value is always the same: the largest network, with everything zero that the subnet has not, computes what the
subnet does.
"""

from __future__ import annotations

import json

import pyglove as pg
import pytest
import torch
from torch import nn
from torch.nn import functional

import nas
from nas.errors import CheckpointError, LayoutError
from nas.supernet import Corner, Layout, comparing
from tests.supernet.zeroing import zeroed_apart

SEQUENCE = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Recurrent(nn.Module):
    def __init__(self, kind: str, width: int, **options) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(5, width, batch_first=True, **options)
        self.head = nn.Linear((options.get("proj_size") or width) * (1 + options.get("bidirectional", False)), 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Cell(nn.Module):
    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.cell = getattr(nn, kind)(5, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class OwnLSTM(nn.LSTM):
    """A subclass is still recurrent."""


class Subclassed(Recurrent):
    def __init__(self, width: int) -> None:
        super().__init__("LSTM", width)
        self.rnn = OwnLSTM(5, width, batch_first=True)


class Glu(nn.Module):
    def __init__(self, width: int, silu: bool = False) -> None:
        super().__init__()
        self.up = nn.Linear(5, 2 * width)
        self.silu = silu
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        gate, up = self.up(x).chunk(2, -1)
        return self.head(functional.silu(gate) * up if self.silu else gate * torch.sigmoid(up))


class Concatenated(nn.Module):
    def __init__(self, left: int, right: int, norm: bool = False) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, left), nn.Linear(5, right)
        self.norm = nn.LayerNorm(left + right) if norm else nn.Identity()
        self.head = nn.Linear(left + right, 3)

    def forward(self, x):
        return self.head(self.norm(torch.cat([self.left(x), self.right(x)], -1)))


class Attention(nn.Module):
    """Written by hand, of a fused projection; `heads` stay while the width changes, so that heads get smaller."""

    def __init__(self, width: int, heads: int = 2, fast: bool = False) -> None:
        super().__init__()
        self.heads, self.fast = heads, fast
        self.inputs = nn.Linear(5, width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.inputs(x)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.mix(x).chunk(3, -1))
        if self.fast:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.head(x + self.out(y.transpose(1, 2).flatten(2)))


class Grouped(nn.Module):
    """Grouped-query attention by hand: `queries` heads over `keys` heads of four numbers each."""

    def __init__(self, queries: int, keys: int) -> None:
        super().__init__()
        self.groups = queries // keys
        self.q, self.k, self.v = (nn.Linear(5, 4 * heads) for heads in (queries, keys, keys))
        self.out = nn.Linear(4 * queries, 3)

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = (part.repeat_interleave(self.groups, 1) for part in (k, v))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GroupedTogether(Grouped):
    """Twice as many queries as keys in every arch."""

    def __init__(self, keys: int) -> None:
        super().__init__(2 * keys, keys)


class PackedKv(nn.Module):
    """Keys and values from one projection."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(5, 4 * heads), nn.Linear(5, 8 * heads), nn.Linear(4 * heads, 3)

    def forward(self, x):
        q, k, v = (y.unflatten(-1, (-1, 4)).transpose(1, 2) for y in (self.q(x), *self.kv(x).chunk(2, -1)))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class PackedQkv(nn.Module):
    """Grouped-query attention of one projection: queries, keys, values, one after the other."""

    def __init__(self, queries: int, keys: int, fast: bool = False, name: str = "mix") -> None:
        super().__init__()
        self.name = name
        self.sizes, self.groups, self.fast = [4 * queries, 4 * keys, 4 * keys], queries // keys, fast
        self.add_module(name, nn.Linear(5, sum(self.sizes)))
        self.out = nn.Linear(4 * queries, 3)

    def forward(self, x):
        mixed = self.get_submodule(self.name)(x)
        q, k, v = (y.unflatten(-1, (-1, 4)).transpose(1, 2) for y in mixed.split(self.sizes, -1))
        k, v = (part.repeat_interleave(self.groups, 1) for part in (k, v))
        y = (
            functional.scaled_dot_product_attention(q, k, v)
            if self.fast
            else (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        )
        return self.out(y.transpose(1, 2).flatten(2))


class OwnGates(nn.Module):
    """An LSTM as people write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inputs, self.state, self.head = nn.Linear(5, 4 * width), nn.Linear(width, 4 * width), nn.Linear(width, 3)
        self.width = width

    def forward(self, x):
        hidden = cell = x.new_zeros(len(x), self.width)
        for step in x.unbind(1):
            i, f, g, o = (self.inputs(step) + self.state(hidden)).chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
        return self.head(hidden)


class Highway(nn.Module):
    """A gate and what it lets through from one projection, beside what goes around both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inputs, self.both, self.head = nn.Linear(5, width), nn.Linear(width, 2 * width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.inputs(x)
        through, gate = self.both(x).chunk(2, -1)
        return self.head(gate.sigmoid() * through.tanh() + (1 - gate.sigmoid()) * x)


class StateSpace(nn.Module):
    """The projections of a state-space block: z, x, B, C and dt in one layer, dt's rank and two states in another."""

    def __init__(self, inner: int, state: int = 3, head: int = 2) -> None:
        super().__init__()
        self.sizes = [inner, inner, state, state, inner // head]
        self.in_proj = nn.Linear(5, sum(self.sizes))
        self.conv = nn.Conv1d(inner, inner, 3, padding=1, groups=inner)
        self.decay = nn.Parameter(torch.randn(inner // head))
        self.out = nn.Linear(inner, 3)
        self.head = head

    def forward(self, u):
        z, x, b, c, dt = self.in_proj(u).split(self.sizes, -1)
        x = self.conv(x.transpose(1, 2)).transpose(1, 2).unflatten(-1, (-1, self.head))
        weight = torch.exp(functional.softplus(dt) * -self.decay.abs())  # (n, time, heads)
        y = torch.einsum("nths,nts->nth", torch.einsum("nthd,ntq->nthq", x * weight[..., None], b), c)
        return self.out((x * y[..., None]).flatten(2) * functional.silu(z))


class Shuffle(nn.Module):
    def forward(self, x):
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def resnext(width):
    return nn.Sequential(
        nn.Conv2d(3, width, 1),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, 2 * width, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 2, groups=4),
        nn.Conv2d(width, 5, 1),
    )


def depthwise(width):
    layers = (
        nn.Conv2d(width, 2 * width, 3, groups=width),
        nn.ConvTranspose2d(2 * width, 2 * width, 2, groups=2 * width),
    )
    return nn.Sequential(nn.Conv2d(3, width, 1), *layers, nn.Conv2d(2 * width, 5, 1))


def shuffled(width):
    return nn.Sequential(nn.Conv2d(3, width, 1), Shuffle(), nn.Conv2d(width, 5, 1))


def numbered(width, depth):
    """The trap: the last layer has another name at each depth."""
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(5, width), *layers, nn.Linear(width, 4))


class Named(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.body = numbered(width, depth)[:-1]
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.body(x))


def space(function, *arguments, **options) -> nas.Space:
    return nas.Space(nas.model(function)(*arguments, **options), name="axes")


def width(*candidates: int):
    return pg.oneof(list(candidates or (4, 8)))


def assert_right(net: nas.Supernet, inputs) -> None:
    for arch in net.space.covering():
        assert zeroed_apart(net, arch, inputs) < 1e-9, arch


# -- layers that are known by their type


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_layers_keep_the_first_units_of_each_gate(kind, layers):
    net = nas.Supernet(space(Recurrent, kind, width(), num_layers=layers), example=SEQUENCE)
    assert net.proof is not None
    assert net.proof.proven
    assert_right(net, SEQUENCE)


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_recurrent_cells_do_too(kind):
    assert_right(nas.Supernet(space(Cell, kind, width()), example=SEQUENCE), SEQUENCE)


def test_projections_of_an_lstm():
    assert_right(nas.Supernet(space(Recurrent, "LSTM", width(), proj_size=3), example=SEQUENCE), SEQUENCE)
    net = nas.Supernet(space(Recurrent, "LSTM", 10, proj_size=width(), num_layers=2), example=SEQUENCE)
    assert_right(net, SEQUENCE)


def test_subclasses_of_a_layer_are_known():
    assert_right(nas.Supernet(space(Subclassed, width()), example=SEQUENCE), SEQUENCE)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"num_layers": 2, "proj_size": 3}])
def test_both_directions_are_two_parts_of_whatever_reads_them(options):
    both = space(Recurrent, "LSTM", width(), bidirectional=True, **options)
    if "proj_size" not in options:  # otherwise the head's axis is not elastic
        with pytest.raises(LayoutError, match=r"head.weight.*Layout\('out \(parts in\)', parts=2\)"):
            nas.Supernet(both, example=SEQUENCE)
    net = nas.Supernet(both, example=SEQUENCE, layouts={"head.weight": Layout("out (directions in)", directions=2)})
    assert_right(net, SEQUENCE)


@pytest.mark.parametrize("function", [resnext, depthwise])
def test_convolutions_with_groups_keep_the_first_channels_of_each(function):
    net = nas.Supernet(space(function, width(8, 16)), example=IMAGES)
    assert net.proof is not None
    assert net.proof.proven
    assert_right(net, IMAGES)


# -- what is declared


def test_halves_of_a_gated_layer():
    fused = {"up.weight": Layout("(halves out) in", halves=2), "up.bias": Layout("(halves out)", halves=2)}
    for silu in (False, True):
        gated = space(Glu, width(), silu)
        with pytest.raises(LayoutError, match=r"'up.weight': nas.Layout\('\(parts out\) in', parts=2\)"):
            nas.Supernet(gated, example=SEQUENCE)
        assert_right(nas.Supernet(gated, example=SEQUENCE, layouts=fused), SEQUENCE)


@pytest.mark.parametrize("right", [4, 6, width(3, 6)])
@pytest.mark.parametrize("norm", [False, True])
def test_the_reader_of_a_concatenation(right, norm):
    concatenated = space(Concatenated, width(), right, norm)
    with pytest.raises(LayoutError, match=r"norm.weight" if norm else r"head.weight"):
        nas.Supernet(concatenated, example=SEQUENCE)
    one = Layout("(left + right)", left="left.bias", right="right.bias")
    layouts = {"head.weight": Layout("out (left + right)", left="left.bias"), **({"norm.*": one} if norm else {})}
    net = nas.Supernet(concatenated, example=SEQUENCE, layouts=layouts)
    if not norm:
        assert_right(net, SEQUENCE)
    assert net.proof is not None
    assert net.proof.proven


def test_a_fused_projection_is_noticed_where_heads_change_their_size():
    for fast in (False, True):
        attention = space(Attention, width(), 2, fast)
        with pytest.raises(LayoutError, match=r"'mix.weight': nas.Layout\('\(parts out\) in', parts=3\)"):
            nas.Supernet(attention, example=SEQUENCE)
        fused = {"mix.weight": Layout("(qkv out) in", qkv=3), "mix.bias": Layout("(qkv out)", qkv=3)}
        proof = nas.Supernet(attention, example=SEQUENCE, layouts=fused).proof
        assert proof is not None
        assert [verdict.state for verdict in proof.verdicts] == ["unproven"]  # smaller heads: no zeros make them equal
        assert "attention whose heads" in str(proof)
        heads = {
            "mix.weight": Layout("(qkv heads dim) in", qkv=3, heads=2),
            "mix.bias": Layout("(qkv heads dim)", qkv=3, heads=2),
        }
        heads["out.weight"] = Layout("out (heads dim)", heads=2)
        proof = nas.Supernet(attention, example=SEQUENCE, layouts=heads).proof
        assert proof is not None
        assert "attention whose heads" not in str(proof)  # each head is its own, only the scale differs


def test_fewer_query_heads_over_as_many_keys():
    grouped = space(Grouped, width(4, 8), 4)
    with pytest.raises(LayoutError, match=r"'q.weight'.*parts=4.*'out.weight'.*parts=4"):
        nas.Supernet(grouped, example=SEQUENCE)
    rows = {"kv": 4, "dim": 4}
    layouts = {
        "q.weight": Layout("(kv group dim) in", **rows),
        "q.bias": Layout("(kv group dim)", **rows),
        "out.weight": Layout("out (kv group dim)", **rows),
    }
    assert_right(nas.Supernet(grouped, example=SEQUENCE, layouts=layouts), SEQUENCE)


def test_fewer_keys_over_as_many_queries_have_no_zeros_that_prove_them():
    """The subnet's queries read other keys than the largest network's whatever is declared: said, not refused."""
    proof = nas.Supernet(space(Grouped, 8, width(2, 4)), example=SEQUENCE).proof
    assert proof is not None
    assert [verdict.state for verdict in proof.verdicts] == ["unproven"]


def test_as_many_query_heads_over_each_of_fewer_keys_are_proven():
    net = nas.Supernet(space(GroupedTogether, width(2, 4)), example=SEQUENCE)
    assert net.proof is not None
    assert net.proof.proven
    assert_right(net, SEQUENCE)


def test_keys_and_values_of_one_projection():
    packed = space(PackedKv, width(2, 4))
    with pytest.raises(LayoutError, match=r"heads=2 mix units.*'kv.weight': nas.Layout\('\(parts out\) in', parts=2\)"):
        nas.Supernet(packed, example=SEQUENCE)
    layouts = {"kv.weight": Layout("(kv heads) in", kv=2), "kv.bias": Layout("(kv heads)", kv=2)}
    assert_right(nas.Supernet(packed, example=SEQUENCE, layouts=layouts), SEQUENCE)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("heads", "given", "axis"),
    [
        ((width(4, 8), 4), "keys", "(kv group dim + kv dim + kv dim)"),
        ((8, width(2, 4)), "values", "(queries + kv dim + kv dim)"),
    ],
)
def test_a_projection_of_queries_keys_and_values_is_not_cut_across_its_parts(fast, heads, given, axis):
    """Other heads come together in either case, which excuses what comes out of attention, not what goes in."""
    packed = space(PackedQkv, *heads, fast)
    with pytest.raises(LayoutError, match=rf"=\d mix units: the {given} of an attention .*axis 0 of 'mix.weight'"):
        nas.Supernet(packed, example=SEQUENCE)
    sizes = {"dim": 4} | ({"kv": 4} if "group" in axis else {"queries": 32})
    layouts = {"mix.weight": Layout(f"{axis} in", **sizes), "mix.bias": Layout(axis, **sizes)}
    if "group" in axis:
        layouts["out.weight"] = Layout("out (kv group dim)", **sizes)
    proof = nas.Supernet(packed, example=SEQUENCE, layouts=layouts).proof
    assert proof is not None
    assert [verdict.state for verdict in proof.verdicts] == ["proven" if "group" in axis else "unproven"]


def test_a_name_that_promises_three_parts_is_not_believed():
    with pytest.raises(LayoutError, match=r"declare layouts=\{'qkv.weight'"):
        nas.Supernet(space(PackedQkv, width(4, 8), 4, True, "qkv"), example=SEQUENCE)


def test_gates_of_a_cell_written_by_hand():
    cell = space(OwnGates, width(4, 8))
    with pytest.raises(LayoutError, match=r"'inputs.weight': nas.Layout.*parts=4.*'state.weight': nas.Layout.*parts=4"):
        nas.Supernet(cell, example=SEQUENCE)
    layouts = {
        f"{name}.{leaf}": Layout("(gates out) in" if leaf == "weight" else "(gates out)", gates=4)
        for name in ("inputs", "state")
        for leaf in ("weight", "bias")
    }
    assert_right(nas.Supernet(cell, example=SEQUENCE, layouts=layouts), SEQUENCE)


def test_halves_beside_what_goes_around_them():
    with pytest.raises(LayoutError, match=r"'both.weight': nas.Layout\('\(parts out\) in', parts=2\)"):
        nas.Supernet(space(Highway, width(4, 8)), example=SEQUENCE)


def test_projections_of_a_state_space_block():
    blocks = space(StateSpace, width(4, 8))
    with pytest.warns(UserWarning, match=r"archs with inner=4 mix units: layer 'out'.*axis 0 of 'in_proj.weight'"):
        nas.Supernet(blocks, example=SEQUENCE)
    parts = {"dim": 2, "b": 3, "c": 3}
    layouts = {
        "in_proj.weight": Layout("(heads dim + heads dim + b + c + heads) in", **parts),
        "in_proj.bias": Layout("(heads dim + heads dim + b + c + heads)", **parts),
    }
    net = nas.Supernet(blocks, example=SEQUENCE, layouts=layouts)
    assert_right(net, SEQUENCE)
    assert net.proof is not None
    assert net.proof.proven


def test_shuffled_channels_are_noticed():
    with pytest.raises(LayoutError, match=r"'0.weight': nas.Layout"):
        nas.Supernet(space(shuffled, width(8, 16)), example=IMAGES)


# -- layers whose role changes


def test_a_layer_that_is_last_in_one_arch_and_hidden_in_another_is_refused():
    trap = space(numbered, width(8, 16), pg.oneof([1, 2, 3]))
    with pytest.raises(LayoutError, match=r"depth=1, layer '3' gives the output.*'3.weight'.*head="):
        nas.Supernet(trap, example=SEQUENCE[:, 0])
    meant = nas.Supernet(trap, example=SEQUENCE[:, 0], layouts={"[0-9].*": Corner()})
    assert meant.proof is not None
    named = nas.Supernet(space(Named, width(8, 16), pg.oneof([1, 2, 3])), example=SEQUENCE[:, 0])
    assert named.proof is not None
    assert not any(verdict.state == "mixed" for verdict in named.proof.verdicts)


# -- when it is looked at, and what can be said about it


def test_a_supernet_without_an_example_looks_when_it_is_first_called():
    gated = space(Glu, width())
    for call in (lambda net, arch: net(SEQUENCE.float(), arch), lambda net, arch: net.bind(arch)(SEQUENCE.float())):
        net = nas.Supernet(gated)
        assert net.proof is None
        with pytest.raises(LayoutError, match="mix units"):
            call(net, gated.smallest)
    with pytest.raises(LayoutError, match="mix units"):
        nas.Supernet(gated).prove(SEQUENCE)
    with pytest.raises(nas.NasError, match="prove needs inputs"):
        nas.Supernet(gated).prove()


def test_a_corner_that_is_meant_is_declared():
    gated = space(Glu, width())
    net = nas.Supernet(gated, example=SEQUENCE, layouts={"up.*": Corner()})
    assert net.proof is not None
    assert not net.proof.proven
    assert "put together otherwise" in str(net.proof)


def test_a_declared_layout_is_tried_like_any_other():
    layouts = {"up.weight": Layout("(out halves) in", halves=2), "up.bias": Layout("(out halves)", halves=2)}
    with pytest.warns(UserWarning, match="mix units"):  # no usual layout ends it while that one is declared
        nas.Supernet(space(Glu, width()), example=SEQUENCE, layouts=layouts)


def test_the_random_state_is_left_alone_and_the_answer_is_the_same():
    before = torch.get_rng_state()
    first, second = (nas.Supernet(space(Recurrent, "LSTM", width()), example=SEQUENCE).proof for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == second


def test_a_proof_is_a_report():
    net = nas.Supernet(space(Concatenated, 8, 4), example=SEQUENCE)
    assert str(net.proof) == "no parameter is cut"
    net = nas.Supernet(space(Recurrent, "GRU", width()), example=SEQUENCE)
    assert str(net.prove()) == "width=4: proven"


def test_more_archs_than_are_looked_at_are_said():
    many = space(Named, width(*range(4, 40)), 1)
    proof = nas.Supernet(many, example=SEQUENCE[:, 0]).proof
    assert proof is not None
    assert str(proof).endswith("19 more archs: unproven\n  not looked at; Supernet.prove() looks at more")


class Picky(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(5, width)

    def forward(self, x):
        y = self.layer(x)
        if y.abs().max() > 1e-3:
            raise ValueError("too large")
        return y


def test_a_model_that_does_not_run_on_random_numbers_is_said_and_not_refused():
    proof = nas.Supernet(space(Picky, width()), example=SEQUENCE).proof
    assert proof is not None
    assert "does not run on random numbers (ValueError: too large)" in str(proof)


# -- the cut is one everywhere


def test_a_training_under_other_cuts_is_not_resumed(tmp_path):
    task = nas.Classification(
        train=(SEQUENCE.float(), torch.tensor([0, 1])), valid=(SEQUENCE.float(), torch.tensor([0, 1])), batch=2
    )
    recurrent = space(Recurrent, "LSTM", width())
    old = nas.Supernet(recurrent, layouts={"rnn.*": Corner()})  # as a version that did not know gates had it
    settings = {"path": tmp_path / "run", "steps": 4}
    nas.Training(old, task, **settings).run(progress=False, until=2)
    with pytest.raises(CheckpointError, match=r"'rnn.weight_ih_l0' by Corner\(\), not by Layout"):
        nas.Training(nas.Supernet(recurrent), task, **settings).run(progress=False)
    nas.Training(nas.Supernet(recurrent, layouts={"rnn.*": Corner()}), task, **settings).run(progress=False)


def test_channels_are_renumbered_only_where_they_are_no_parts_of_an_axis():
    layouts = {"head.weight": Layout("out (left + right)", left="left.bias")}
    net = nas.Supernet(space(Concatenated, width(), width(3, 6)), example=SEQUENCE, layouts=layouts).double().eval()
    before = net(SEQUENCE, net.space.largest)
    nas.reorder(net)
    torch.testing.assert_close(net(SEQUENCE, net.space.largest), before)
    assert_right(net, SEQUENCE)


def test_a_supernet_that_was_not_checked_says_so_in_its_checkpoint(tmp_path):
    gated = space(Glu, width())
    with pytest.raises(LayoutError):
        nas.Supernet(gated, example=SEQUENCE)
    net = nas.Supernet(gated, example=SEQUENCE, check=False)
    net(SEQUENCE.float(), net.space.largest)  # not looked at when it is called, either
    assert net.proof is None
    net.save(tmp_path / "net")
    assert json.loads((tmp_path / "net" / "supernet.json").read_text())["checked"] is False
    assert not nas.Supernet.load(tmp_path / "net", gated).is_checked
    right = nas.Supernet(space(Recurrent, "LSTM", width()), example=SEQUENCE)
    right.save(tmp_path / "right")
    assert json.loads((tmp_path / "right" / "supernet.json").read_text())["checked"] is True


class Cycled(nn.Module):
    """A layer that is called in a loop, each time on what a norm without weights makes of all before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Linear(5, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.first(x)
        for _ in range(20):
            x = x + self.again(x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt())
        return self.head(x)


def test_derivatives_are_taken_of_so_much_and_the_rest_is_said(monkeypatch):
    taken = []
    gradients = comparing._gradients
    monkeypatch.setattr(comparing, "_gradients", lambda *given: taken.append(0) or gradients(*given))
    whole = nas.Supernet(space(Cycled, width()), example=SEQUENCE[:, 0]).proof
    assert "not looked at" not in str(whole)
    before = len(taken)
    monkeypatch.setattr(comparing, "VISITS", 500)
    part = nas.Supernet(space(Cycled, width()), example=SEQUENCE[:, 0]).proof
    assert len(taken) - before < before / 3
    assert "not looked at, since the network calls so many layers: again" in str(part)
    assert all(verdict.state == "unproven" for verdict in part.verdicts)
