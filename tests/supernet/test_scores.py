"""Importance scores against second, slow implementations; what they leave alone; and data that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import nas
from nas.errors import SupernetError
from nas.supernet import importances, order, ranking
from nas.supernet.scores import SCORES
from tests.conformance.supernet import fill_distinct
from tests.supernet import tangle
from tests.supernet.test_order import chain_net, tangle_net

torch.set_num_threads(1)

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = [torch.randn(n, 2, 4, 4, generator=GENERATOR) for n in (3, 5)]
SEQUENCES = [torch.randn(n, 3, 5, generator=GENERATOR) for n in (2, 4)]
BY_INPUTS = [name for name, score in SCORES.items() if score.needs == "inputs"]
BY_GRADIENTS = [name for name, score in SCORES.items() if score.needs == "gradients"]
BY_WEIGHTS = [name for name in BY_GRADIENTS if name != "group_fisher"]


def loss(network: Any, batch: Tensor) -> Tensor:
    return functional.softplus(network(batch)).sum() / len(batch)


def scored(net: nas.Supernet, **options: Any) -> dict[str, Tensor]:
    """By the name of the atom, or of the first place of an axis without one."""
    return {axis.atom or axis.places[0][0]: scores for axis, scores in importances(net, **options).items()}


# -- slow second implementations


def gradients(net: nas.Supernet, batch: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of the largest network, and their gradients."""
    model = net.extract(net.space.largest)
    loss(model, batch).backward()
    named = dict(model.named_parameters())
    return ({n: p.detach().double() for n, p in named.items()}, {n: p.grad.double() for n, p in named.items()})


def columns(name: str, tensor: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """What of each reader is whose: (atom, unit, numbers), written out by hand."""
    sizes = tangle.WHOLE
    if name == "proj.weight":
        heads = tensor.reshape(len(tensor), sizes["groups"], sizes["per"], tangle.DIM)
        yield from (("groups", unit, heads[:, unit]) for unit in range(sizes["groups"]))
        yield from (("per", unit, heads[:, :, unit]) for unit in range(sizes["per"]))
    elif name == "mix.weight":
        twice = tensor.reshape(len(tensor), 2, -1)
        yield from (("left", unit, twice[:, :, unit]) for unit in range(sizes["left"]))
        yield from (("right", unit, twice[:, :, sizes["left"] + unit]) for unit in range(sizes["right"]))
    elif name in ("3.weight", "5.weight"):
        atom = {"3.weight": "0.weight", "5.weight": "3.weight"}[name]
        yield from ((atom, unit, tensor[:, unit]) for unit in range(tensor.shape[1]))


ATOMS = {"chain": ("0.weight", "3.weight"), "tangle": ("groups", "per", "left", "right")}


def units_of(net: nas.Supernet, batch: Tensor, atom: str) -> list[tuple[Tensor, Tensor]]:
    """Weights and gradients of all that reads each unit."""
    weights, slopes = gradients(net, batch)
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for name in weights:
        for (whose, unit, weight), (_, _, slope) in zip(
            columns(name, weights[name]), columns(name, slopes[name]), strict=True
        ):
            if whose == atom:
                found.setdefault(unit, []).append((weight.flatten(), slope.flatten()))
    return [(torch.cat([w for w, _ in found[unit]]), torch.cat([g for _, g in found[unit]])) for unit in sorted(found)]


def slow(by: str, net: nas.Supernet, batches: list[Tensor], atom: str) -> Tensor:
    rows = []
    for batch in batches:
        pairs = units_of(net, batch, atom)
        if by == "taylor":
            rows.append([[float((w * g).sum()) ** 2 for w, g in pairs]])
        elif by == "fisher":
            rows.append([[float((w**2 * g**2).sum()) for w, g in pairs]])
        else:
            rows.append(
                [
                    [float(w.norm()) for w, _ in pairs],
                    [float(w.norm()) / len(w) for w, _ in pairs],
                    [float(functional.cosine_similarity(w, g, dim=0)) + 1 for w, g in pairs],
                    [abs(float(w @ g)) for w, g in pairs],
                    [float(w @ g) ** 2 / 2 for w, g in pairs],
                ]
            )
    means = torch.tensor(rows, dtype=torch.float64).mean(0)
    return means[0] if by != "hesso" else functional.normalize(means, dim=1).mean(0)


NETS = {"chain": (chain_net, IMAGES), "tangle": (tangle_net, SEQUENCES)}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("by", BY_WEIGHTS)
def test_scores_by_gradients_are_those_of_a_loop_over_units(by, kind):
    make, batches = NETS[kind]
    net = make()
    found = scored(net, by=by, batches=batches, loss=loss)
    for atom in ATOMS[kind]:
        torch.testing.assert_close(found[atom], slow(by, net, batches, atom), rtol=1e-4, atol=1e-12, msg=atom)


@pytest.mark.parametrize("by", ["taylor", "fisher"])
def test_units_without_readers_of_a_known_type_count_by_all_of_their_weights(by):
    net = tangle_net()
    place = [place for axis in order.axes(net) if axis.atom == "hidden" for place in axis.readers]
    weights, slopes = gradients(net, SEQUENCES[0])
    total = torch.zeros(tangle.WHOLE["hidden"], dtype=torch.float64)
    for name, dim in place:
        for share in ranking.shares(tangle.AXES, tangle.WHOLE, {"hidden": [(name, dim)]})[name]:
            for index, unit in enumerate(share.unit.tolist()):
                product = (weights[name] * slopes[name]).select(dim, index)
                if unit >= 0:
                    total[unit] += product.sum() if by == "taylor" else product.square().sum()
    expected = total.square() if by == "taylor" else total
    found = scored(net, by=by, batches=SEQUENCES[:1], loss=loss)["hidden"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-12)


class Attention(nn.Module):
    """Heads by hand, with a norm before, and a perceptron on the same norm's output."""

    def __init__(self, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.stem = nn.Linear(3, 8)
        self.norm = nn.LayerNorm(8)
        self.q, self.k, self.v = (nn.Linear(8, 4 * heads) for _ in range(3))
        self.out = nn.Linear(4 * heads, 8)
        self.up, self.down, self.head = nn.Linear(8, hidden), nn.Linear(hidden, 8), nn.Linear(8, 2)

    def mixed(self, read: Tensor) -> Tensor:
        n, length, _ = read.shape
        q, k, v = (each(read).view(n, length, self.heads, 4).transpose(1, 2) for each in (self.q, self.k, self.v))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        read = self.norm(x)
        return self.head(x + self.out(self.mixed(read)) + self.down(self.up(read).relu()))


@pytest.fixture(scope="module")
def attention() -> nas.Supernet:
    torch.manual_seed(0)
    model, example = Attention(4, 16).eval(), torch.zeros(2, 6, 3)
    return nas.Supernet(nas.elastic(model, example, build=nas.model(Attention)(4, 16)), example=example, weights=model)


TOKENS = [torch.randn(n, 6, 3, generator=GENERATOR) for n in (3, 1, 4)]


def test_activations_are_minitrons(attention):
    model = attention.extract(attention.space.largest)
    heads, neurons, stream = torch.zeros(4), torch.zeros(16), torch.zeros(8)
    ends = torch.zeros(8)
    with torch.no_grad():
        for sample in torch.cat(TOKENS).split(1):
            x = model.stem(sample)
            read = model.norm(x)
            mixed, up = model.mixed(read), model.up(read).relu()
            for head in range(4):
                heads[head] += mixed[0, :, 4 * head : 4 * head + 4].norm(dim=-1).mean() ** 2
            for neuron in range(16):
                neurons[neuron] += up[0, :, neuron].abs().mean() ** 2
            last = x + model.out(mixed) + model.down(up)
            for channel in range(8):  # query, key, value and perceptron read one tensor: once
                stream[channel] += read[0, :, channel].abs().mean() ** 2
                ends[channel] += last[0, :, channel].abs().mean() ** 2
    found = scored(attention, by="activations", batches=TOKENS)
    assert sorted(map(len, found.values())) == [4, 8, 16]
    by_length = {len(scores): scores for scores in found.values()}
    torch.testing.assert_close(by_length[4], heads.sqrt().double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(by_length[16], neurons.sqrt().double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(by_length[8], (stream.sqrt() + ends.sqrt()).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("sizes", [(8,), (3, 1, 4), (2, 2, 2, 2)])
def test_group_fisher_is_that_of_gates_of_each_sample_alone(attention, sizes):
    model = attention.extract(attention.space.largest).eval()
    found = scored(attention, by="group_fisher", batches=torch.cat(TOKENS).split(list(sizes)), loss=loss)
    totals = {4: torch.zeros(4), 16: torch.zeros(16), 8: torch.zeros(8)}
    for sample in torch.cat(TOKENS).split(1):
        gates = {length: torch.ones(length, requires_grad=True) for length in totals}
        x = model.stem(sample)
        read = model.norm(x) * gates[8]
        mixed = model.mixed(read) * gates[4].repeat_interleave(4)
        up = model.up(read).relu() * gates[16]
        output = model.head((x + model.out(mixed) + model.down(up)) * gates[8])
        functional.softplus(output).sum().backward()
        for length, gate in gates.items():
            totals[length] += gate.grad.square() / 8
    for scores in found.values():
        torch.testing.assert_close(scores, totals[len(scores)].double(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("keyword", [False, True])
def test_attention_of_torch_reads_its_three_inputs_once_each(keyword):
    class Heads(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.stem = nn.Linear(3, width)
            self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
            self.head = nn.Linear(width, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            given = {"query": x, "key": x, "value": x}
            mixed = self.attention(**given)[0] if keyword else self.attention(x, x, x)[0]
            return self.head(x + mixed)

    torch.manual_seed(0)
    model = Heads(32).eval()
    net = nas.Supernet(nas.elastic(model, TOKENS[0]), example=TOKENS[0], weights=model)
    total = torch.zeros(32)
    for sample in TOKENS[0].split(1):
        gate = torch.ones(32, requires_grad=True)
        x = model.stem(sample)
        read = x * gate
        output = model.head((x + model.attention(read, read, read)[0]) * gate)
        functional.softplus(output).sum().backward()
        total += gate.grad.square() / len(TOKENS[0])
    with pytest.warns(UserWarning, match="knows nothing of 'attention.heads'"):
        found = scored(net, by="group_fisher", batches=[TOKENS[0]], loss=loss)
    torch.testing.assert_close(found["width"], total.double(), rtol=1e-3, atol=1e-9)


def test_activations_are_those_along_the_axis_of_samples(attention):
    expected = scored(attention, by="activations", batches=TOKENS)
    again = scored(attention, by="activations", batches=[torch.cat(TOKENS)])
    split = scored(attention, by="activations", batches=torch.cat(TOKENS).split(1))
    for name, scores in expected.items():
        torch.testing.assert_close(again[name], scores, rtol=1e-5, atol=0)
        torch.testing.assert_close(split[name], scores, rtol=1e-5, atol=0)
    whole = [nas.Example(torch.cat(TOKENS), batch_axis=None)]  # one sample, all of it positions
    assert not torch.allclose(scored(attention, by="activations", batches=whole)[name], scores)


class Time(nn.Module):
    """Time first, as recurrent networks have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


def time_net(example: Any) -> nas.Supernet:
    net = nas.Supernet(nas.Space(nas.model(Time)(width=pg.oneof([3, 6])), name="time"), example=example)
    fill_distinct(net)
    return net


def test_the_example_says_which_axis_has_samples():
    steps = torch.randn(5, 3, 4, generator=GENERATOR)
    (expected,) = scored(time_net(torch.zeros(1, 5, 4)), by="activations", batches=[steps.transpose(0, 1)]).values()
    net = time_net(nas.Example(torch.zeros(5, 1, 4), batch_axis=1))
    (found,) = scored(net, by="activations", batches=[steps]).values()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    (other,) = scored(time_net(torch.zeros(1, 5, 4)), by="activations", batches=[steps]).values()
    assert not torch.allclose(other, expected)


class Folded(nn.Module):
    """Samples first outside; inside time first, or with several rows for each sample."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.up, self.down, self.how = nn.Linear(4, width), nn.Linear(width, 2), how

    def forward(self, x: Tensor) -> Tensor:
        inner = {"plain": x, "time": x.transpose(0, 1), "rows": x.flatten(0, 1)}[self.how]
        output: Tensor = self.down(self.up(inner).relu())
        return output.transpose(0, 1) if self.how == "time" else output.reshape(*x.shape[:2], 2)


@pytest.mark.parametrize("by", ["activations", "group_fisher"])
@pytest.mark.parametrize("how", ["time", "rows"])
def test_samples_are_found_inside_a_network(by, how):
    x = torch.randn(3, 6, 4, generator=GENERATOR)
    found = []
    for kind in ("plain", how):
        value = nas.model(Folded)(width=pg.oneof([3, 6]), how=kind)
        net = nas.Supernet(nas.Space(value, name="folded"), example=torch.zeros(1, 6, 4))
        fill_distinct(net)
        found += scored(net, by=by, batches=[x], **({"loss": loss} if by == "group_fisher" else {})).values()
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=0)


@pytest.mark.filterwarnings("ignore:importance by 'mean_activation' knows nothing of 'hidden'")
@pytest.mark.parametrize("piece", [1, 50])
@pytest.mark.parametrize("by", BY_INPUTS + BY_GRADIENTS)
def test_pieces_do_not_change_scores(monkeypatch, by, piece):
    net, given = tangle_net(), {"loss": loss} if by in BY_GRADIENTS else {}
    expected = scored(net, by=by, batches=SEQUENCES, **given)
    monkeypatch.setattr(ranking, "PIECE", piece)
    found = scored(net, by=by, batches=SEQUENCES, **given)
    for name, scores in expected.items():
        torch.testing.assert_close(found[name], scores, rtol=1e-9, atol=0)


def test_mean_activation_does_not_depend_on_how_equal_batches_are_split():
    net, images = chain_net(), torch.cat(IMAGES)
    parts = [scored(net, by="mean_activation", batches=images.split(size)) for size in (4, 8)]
    for name, scores in parts[0].items():
        torch.testing.assert_close(scores / 2, parts[1][name], rtol=1e-5, atol=0)


# -- properties


@pytest.mark.parametrize("by", ["mean_activation", "activations", "taylor", "fisher", "group_fisher"])
def test_a_dead_channel_scores_nothing_and_comes_last(by):
    net = chain_net()
    with torch.no_grad():
        for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
            net._shared.tensor(name)[2] = 0
    given = {"batches": IMAGES, **({"loss": loss} if by in BY_GRADIENTS else {})}
    scores = scored(net, by=by, **given)["0.weight"]
    assert scores[2] == 0
    assert (scores.topk(7).values > 0).all()
    found = {axis.places[0][0]: order_ for axis, order_ in nas.reorder(net, by=by, **given).items()}
    assert found["0.weight"][-1] == 2


@pytest.mark.parametrize("by", BY_GRADIENTS)
def test_the_supernet_is_left_as_it_is(by):
    net = tangle_net().train()
    parameters = dict(net.named_parameters())
    parameters["proj.weight"].requires_grad_(False)
    parameters["mix.weight"].grad = torch.ones_like(parameters["mix.weight"])
    state = {name: value.clone() for name, value in net.state_dict().items()}
    scales = nn.Parameter(torch.ones(3))
    found = scored(net, by=by, batches=SEQUENCES, loss=lambda network, x: (network(x) * scales).square().mean())
    assert net.training
    assert scales.grad is None
    assert [name for name, each in parameters.items() if each.grad is not None] == ["mix.weight"]
    assert (parameters["mix.weight"].grad == 1).all()
    assert not parameters["proj.weight"].requires_grad
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    parameters["proj.weight"].requires_grad_(True)
    thawed = scored(net, by=by, batches=SEQUENCES, loss=lambda network, x: network(x).square().mean())
    assert all(torch.equal(scores, found[name]) for name, scores in thawed.items())  # frozen weights count as others


@pytest.mark.filterwarnings("ignore:importance by 'mean_activation' knows nothing of 'hidden'")
@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("by", list(SCORES))
def test_reordering_changes_no_output(by, kind):
    make, batches = NETS[kind]
    net = make()
    largest, x = net.space.largest, batches[0]
    before = net.eval()(x, largest).detach()
    given = {} if by == "magnitude" else {"batches": batches}
    given |= {"loss": loss} if by in BY_GRADIENTS else {}
    scores = scored(net, by=by, **given)
    orders = nas.reorder(net, by=by, **given)
    torch.testing.assert_close(net(x, largest).detach(), before, rtol=1e-4, atol=1e-4)
    assert any(not torch.equal(each, each.sort().values) for each in orders.values())
    for axis, each in orders.items():
        assert torch.equal(each, scores[axis.atom or axis.places[0][0]].argsort(descending=True, stable=True))


def test_tied_weights_have_the_gradient_of_all_of_their_uses():
    class Tied(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.up = nn.Linear(4, width)
            self.first, self.second = nn.Linear(width, 3, bias=False), nn.Linear(width, 3, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.up(x)
            return self.first(hidden.relu()) + self.second(hidden.sigmoid()).square()

    value = nas.model(Tied)(width=pg.oneof([3, 6]))
    net = nas.Supernet(nas.Space(value, name="tied"), example=torch.zeros(1, 4))
    fill_distinct(net)
    x = torch.randn(5, 4, generator=GENERATOR)
    model = net.extract(net.space.largest)
    loss(model, x).backward()
    weight = model.first.weight
    assert weight.grad is not None
    expected = (weight * weight.grad).sum(0).square().detach().double()
    (found,) = scored(net, by="taylor", batches=[x], loss=loss).values()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_a_task_gives_batches_and_loss():
    net = chain_net()
    x = torch.randn(40, 2, 4, 4, generator=GENERATOR)

    def error(output: Tensor, targets: Tensor) -> Tensor:
        return (output.mean((2, 3)) - targets).square().mean()

    targets = x[:, :1, 0, 0] * torch.ones(3)
    task = nas.Task.of((x, targets), (x + 1, targets), loss=error, batch=8)
    batches = list(task.train_batches(0))
    assert len(batches) == 5
    given = scored(
        net, by="taylor", batches=batches, loss=lambda network, batch: task.loss(network(batch.inputs), batch)
    )
    for name, scores in scored(net, by=nas.Taylor(), task=task).items():
        assert torch.equal(scores, given[name])
    given = scored(net, by="activations", batches=list(task.calibration_inputs()))
    for name, scores in scored(net, by="activations", task=task).items():
        assert torch.equal(scores, given[name])


def test_a_loss_without_batches_is_of_the_network_alone():
    net = chain_net()
    alone = scored(net, by="taylor", loss=lambda network: loss(network, IMAGES[0]))
    expected = scored(net, by="taylor", loss=loss, batches=IMAGES[:1])
    assert all(torch.equal(scores, expected[name]) for name, scores in alone.items())


def test_readers_say_whose_gradients_and_inputs_count():
    class Two(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.up, self.left, self.right = nn.Linear(4, width), nn.Linear(width, 3), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.up(x)
            return self.left(hidden.relu()) + self.right(hidden.sigmoid())

    net = nas.Supernet(nas.Space(nas.model(Two)(width=pg.oneof([3, 6])), name="two"), example=torch.zeros(1, 4))
    fill_distinct(net)
    x = torch.randn(5, 4, generator=GENERATOR)
    (found,) = scored(net, by="activations", batches=[x], readers=["right.*"]).values()
    with torch.no_grad():
        hidden = net.extract(net.space.largest).up(x).sigmoid()
    torch.testing.assert_close(found, hidden.double().norm(dim=0), rtol=1e-5, atol=0)
    model = net.extract(net.space.largest)
    loss(model, x).backward()
    expected = (model.right.weight * model.right.weight.grad).sum(0).square().detach().double()
    (found,) = scored(net, by="taylor", batches=[x], loss=loss, readers=["right.*"]).values()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_a_score_of_ones_own():
    class Least(nas.Score):
        name, needs = "least", "weights"

        def measure(self, largest: Any, data: Any) -> dict[str, Tensor]:
            return {atom: torch.arange(size).double() for atom, size in largest.units.whole.items()}

    for found in nas.reorder(chain_net(), by=Least()).values():
        assert found.tolist() == list(range(len(found)))[::-1]


def test_absolute_changes_weigh_batches_less():
    net = chain_net()
    products = [torch.stack([(w * g).sum() for w, g in units_of(net, batch, "0.weight")]) for batch in IMAGES]
    found = scored(net, by=nas.Taylor(absolute=True), batches=IMAGES, loss=loss)["0.weight"]
    torch.testing.assert_close(found, torch.stack(products).abs().mean(0), rtol=1e-4, atol=0)


# -- data that do not fit


def nan_gradient(network: Any, batch: Tensor) -> Tensor:
    return (network(batch) * 0).abs().sqrt().sum()  # 0 with a slope of infinity times 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"by": "tailor"}, "by='tailor' is no importance score; did you mean 'taylor'; there are magnitude, "),
        (
            {"by": "magnitude", "batches": IMAGES},
            "'magnitude' looks at weights alone and takes no data; it got batches=",
        ),
        ({"by": "taylor"}, "'taylor' takes task=, or loss= .* it got no data"),
        ({"by": "taylor", "batches": IMAGES}, "'taylor' takes task=, or loss= .* it got batches="),
        ({"by": "activations"}, "'activations' takes either batches="),
        ({"by": "activations", "batches": IMAGES, "loss": loss}, "it got batches= and loss="),
        ({"loss": loss, "batches": IMAGES}, "loss= and task= need by="),
        (
            {"batches": IMAGES[0]},
            r"batches=a Tensor is no collection of batches; give a list of them, as batches=\[inputs\]",
        ),
        ({"batches": {"x": IMAGES[0]}}, "is no collection of batches"),
        ({"batches": 3}, "batches=3 is no collection of batches"),
        ({"batches": []}, "got no batch"),
        ({"batches": iter(())}, "got no batch"),
        ({"by": "activations", "batches": []}, "got no batch"),
        ({"by": "taylor", "batches": [], "loss": loss}, "got no batch"),
        (
            {"by": "activations", "batches": [*IMAGES, torch.zeros(2, 5, 4, 4)]},
            "batch 2 of the calibration does not fit",
        ),
        (
            {"by": "taylor", "batches": [torch.zeros(2, 5, 4, 4)], "loss": loss},
            "batch 0 of the calibration does not fit",
        ),
        ({"by": "activations", "batches": [[IMAGES[0]]]}, "inputs of type list are not understood"),
        ({"by": "activations", "batches": [IMAGES[0] * torch.nan]}, "batch 0 .* are not finite"),
        ({"by": "taylor", "batches": [IMAGES[0] * torch.nan], "loss": loss}, "batch 0 .* the loss is nan"),
        ({"by": "fisher", "batches": IMAGES, "loss": nan_gradient}, "batch 0 .* gradient of '.*' is not finite"),
        (
            {"by": "taylor", "batches": IMAGES, "loss": lambda n, x: n(x)},
            r"the loss is a tensor of shape \(3, 3, 4, 4\)",
        ),
        ({"by": "taylor", "batches": IMAGES, "loss": lambda n, x: 1.0}, "the loss is a float; give a scalar tensor"),
        (
            {"by": "taylor", "batches": IMAGES, "loss": lambda n, x: n(x).detach().sum()},
            "the loss depends on no weight that counts",
        ),
        (
            {"by": "taylor", "batches": IMAGES, "loss": lambda n: n.sum()},
            "does not fit the model or the loss .TypeError",
        ),
        ({"by": 3}, "by=3"),
        ({"by": nas.Taylor}, "make one, as Taylor"),
        ({"by": "taylor", "task": 3}, "task=3; it is a nas.Task"),
    ],
)
def test_what_does_not_fit_is_a_sentence(options, said):
    net = chain_net()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(SupernetError, match=said):
        nas.reorder(net, **options)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(each.grad is not None for each in net.parameters())


def test_weights_that_are_not_finite_are_a_sentence():
    net = chain_net()
    with torch.no_grad():
        net._shared.tensor("3.weight")[0, 0] = torch.nan
    with pytest.raises(SupernetError, match=r"'magnitude' is not finite along .* look for NaN in the weights"):
        importances(net)


def test_integers_have_no_gradient_and_the_weights_behind_them_do():
    class Words(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(7, width), nn.Linear(width, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.table(tokens).mean(1))

    example = torch.zeros(1, 5, dtype=torch.int64)
    net = nas.Supernet(nas.Space(nas.model(Words)(width=pg.oneof([3, 6])), name="words"), example=example)
    fill_distinct(net)
    tokens = torch.randint(7, (4, 5), generator=GENERATOR)
    model = net.extract(net.space.largest)
    loss(model, tokens).backward()
    expected = (model.head.weight * model.head.weight.grad).sum(0).square().detach().double()
    (found,) = scored(net, by="taylor", batches=[tokens], loss=loss).values()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


class Apart(nn.Module):
    """Two branches, of which a loss may see one, or a gradient."""

    def __init__(self, first: int, second: int, frozen: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, first), nn.ReLU(), nn.Linear(first, 2))
        self.second = nn.Sequential(nn.Linear(4, second), nn.ReLU(), nn.Linear(second, 2))
        self.frozen = frozen

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            first = self.first(x)
        return torch.cat([first, self.second(x)], -1)


def test_units_that_no_gradient_comes_to_count_by_their_magnitude_and_it_is_said():
    value = nas.model(Apart)(first=pg.oneof([3, 6]), second=pg.oneof([2, 5]), frozen=True)
    net = nas.Supernet(nas.Space(value, name="apart"), example=torch.zeros(1, 4))
    fill_distinct(net)
    x = torch.randn(5, 4, generator=GENERATOR)
    with pytest.warns(
        UserWarning, match="knows nothing of 'first.0.weight, dimension 0': no gradient .* count by their magnitude"
    ):
        found = scored(net, by="taylor", batches=[x], loss=loss)
    assert torch.equal(found["first.0.weight"], importances(net)[order.axes(net)[0]])


class Recomputing(nn.Module):
    """One that computes again in its backward what its forward does not keep."""

    def __init__(self, width: int, reentrant: bool) -> None:
        super().__init__()
        self.up, self.down, self.reentrant = nn.Linear(4, width), nn.Linear(width, 2), reentrant

    def hidden(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_(torch.is_grad_enabled())
        found: Tensor = checkpoint(self.hidden, x, use_reentrant=self.reentrant)
        return found


def test_gradients_in_pieces_are_refused_and_recomputed_ones_are_right():
    x = torch.randn(5, 4, generator=GENERATOR)
    nets = {}
    for reentrant in (False, True):
        value = nas.model(Recomputing)(width=pg.oneof([3, 6]), reentrant=reentrant)
        nets[reentrant] = nas.Supernet(nas.Space(value, name="recomputing"), example=torch.zeros(1, 4))
        fill_distinct(nets[reentrant])
    (found,) = scored(nets[False], by="fisher", batches=[x], loss=loss).values()
    model = nets[False].extract(nets[False].space.largest)
    loss(model, x).backward()
    expected = (model.down.weight * model.down.weight.grad).square().sum(0).detach().double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    with pytest.raises(SupernetError, match=r"batch 0 .* use_reentrant=True.*, which hides gradients"):
        scored(nets[True], by="fisher", batches=[x], loss=loss)


@pytest.mark.parametrize("by", ["activations", "taylor"])
def test_elastic_models_inside_an_ordinary_one_have_units_of_their_own(by):
    net = nas.Supernet(tangle.twice_space(), example=torch.zeros(2, 3, 5))
    fill_distinct(net)
    before = net.eval()(SEQUENCES[0], net.space.largest).detach()
    given = {"loss": loss} if by == "taylor" else {}
    scores = scored(net, by=by, batches=SEQUENCES, **given)
    assert set(scores) == {"first.left", "second.left", "second.hidden"}
    model = net.extract(net.space.largest)
    loss(model, SEQUENCES[0]).backward()
    weight, sizes = model.second.mix.weight, tangle.WHOLE
    if by == "taylor":
        expected = (weight * weight.grad).reshape(len(weight), 2, -1)[..., : sizes["left"]].sum((0, 1)).square()
        found = scored(net, by=by, batches=SEQUENCES[:1], **given)["second.left"]
        torch.testing.assert_close(found, expected.detach().double(), rtol=1e-3, atol=1e-9)
    nas.reorder(net, by=by, batches=SEQUENCES, **given)
    torch.testing.assert_close(net(SEQUENCES[0], net.space.largest).detach(), before, rtol=1e-4, atol=1e-4)


def test_a_gradient_is_dropped_before_the_next_exists():
    net, held = chain_net(), []
    score = nas.Fisher()
    original = type(score).moments

    class Watching(nas.Fisher):
        def moments(self, weight: Tensor, gradient: Tensor) -> Any:
            held.append(sum(each.grad is not None for each in network.parameters()))
            return original(self, weight, gradient)

    network: Any = None

    def watched(given: Any, batch: Tensor) -> Tensor:
        nonlocal network
        network = given.module
        return loss(given, batch)

    scored(net, by=Watching(), batches=IMAGES, loss=watched)
    assert held
    assert not any(held)
    assert not any(each.requires_grad for each in network.parameters())
