"""Factors of layers from data: beside the best approximation of the outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import SupernetError


class Net(nn.Module):
    """Features of very different sizes go into `wide`, and an image into `one`."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.wide, self.head = nn.Conv2d(16, 24, 1, stride=2), nn.Linear(24, 40), nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.wide(self.one(x).movedim(1, -1)))).mean((1, 2))  # type: ignore[no-any-return]


def images(seed: int, count: int = 8) -> Tensor:
    x = torch.randn(count, 16, 6, 6, generator=torch.Generator().manual_seed(seed))
    return x * torch.logspace(-1, 1, 16).view(-1, 1, 1)


def made() -> tuple[Net, nas.Supernet]:
    torch.manual_seed(0)
    model = Net().eval()
    space = nas.elastic(model, images(0, 2), rank=(2, 3), depth=False)
    return model, nas.Supernet(space, example=images(0, 2), weights=model)


def layers(net: nas.Supernet, name: str, rank: int) -> nn.Sequential:
    arch = net.space.arch({**net.space.largest.choices, f"{name}.rank": rank})
    found = net.extract(arch).get_submodule(name)
    assert isinstance(found, nn.Sequential)
    return found


@torch.no_grad()
def test_outputs_on_data_are_approximated_as_well_as_any_matrix_of_the_rank_can():
    model, net = made()
    batches = [images(1), images(2)]
    before = {name: layers(net, name, 3) for name in ("one", "wide")}
    errors = nas.factorize(net, batches=batches)
    inputs = {"one": torch.cat(batches), "wide": model.one(torch.cat(batches)).movedim(1, -1)}
    dims = {"one": 1, "wide": -1}
    for name, x in inputs.items():
        layer, dim = model.get_submodule(name), dims[name]
        wanted = layer(x).movedim(dim, -1).flatten(0, -2) - layer.bias
        given = layers(net, name, 3)(x).movedim(dim, -1).flatten(0, -2) - layer.bias
        error = (wanted - given).double().square().sum()
        least = torch.linalg.svdvals(wanted.double())[3:].square().sum()
        assert torch.allclose(error, least, rtol=1e-3)
        plain = before[name](x).movedim(dim, -1).flatten(0, -2) - layer.bias
        assert error < 0.9 * (wanted - plain).square().sum()
        rank = max(c for d in net.space.decisions if d.name == f"{name}.rank" for c in d.candidates[:-1])
        whole = torch.linalg.svdvals(wanted.double()).square()
        assert errors[name] == pytest.approx(float(whole[rank:].sum() / whole.sum()), rel=1e-2)


@torch.no_grad()
def test_without_data_the_weights_as_they_are_now_are_approximated():
    _, net = made()
    dict(net.named_parameters())["wide.weight"].normal_()
    errors = nas.factorize(net)
    values = torch.linalg.svdvals(net.get_parameter("wide.weight")).square()
    rank = net.get_parameter("wide.down.weight").shape[0]
    assert errors["wide"] == pytest.approx(float(values[rank:].sum() / values.sum()), rel=1e-3)


def test_the_largest_network_stays_the_model_and_a_binding_sees_new_factors():
    model, net = made()
    net.eval()
    arch = net.space.arch({**net.space.largest.choices, "wide.rank": 3})
    bound, before = net.bind(arch), net(images(3), arch)
    nas.factorize(net, batches=[images(1)])
    assert torch.equal(net(images(3), net.space.largest), model(images(3)))
    assert not torch.allclose(bound(images(3)), before)


def test_several_passes_give_what_one_does(monkeypatch):
    _, net = made()
    once = nas.factorize(net, batches=[images(1), images(2)])
    monkeypatch.setattr("nas.supernet.moments.MOST", 1)
    assert nas.factorize(net, batches=iter([images(1), images(2)])) == once


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"batches": []}, "got no batch"),
        ({"batches": images(0)}, "is no collection of batches"),
        ({"batches": [torch.randn(2, 5)]}, "batch 0 of the calibration does not fit the model"),
        ({"batches": [torch.full((2, 16, 6, 6), torch.nan)]}, "activations of a layer are not finite"),
        ({"batches": [images(0)], "task": nas.digits(batch=8)}, "give either batches=, inputs of the model, or task="),
        ({"task": nas.digits(batch=8)}, "batch 0 of the calibration does not fit the model"),
    ],
)
def test_data_that_do_not_fit_are_a_sentence(data, said):
    with pytest.raises(SupernetError, match=said):
        nas.factorize(made()[1], **data)


def test_a_space_without_ranks_has_nothing_to_factorize():
    model, _ = made()
    net = nas.Supernet(nas.elastic(model, images(0)), example=images(0), weights=model)
    with pytest.raises(SupernetError, match="no layer of space 'Net' may be two factors"):
        nas.factorize(net)
