"""The published ways to low rank that `experiments/elastic_rank` compares with."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import nas
from nas.train import Features, FixedList, Hint, Labels, Training
from tests.experiments.scripts import script
from tests.train.family import blobs

RANKS = {"1": 4}


@pytest.fixture(scope="module")
def baselines() -> ModuleType:
    return script("elastic_rank/baselines.py")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()


@pytest.fixture(scope="module")
def space(model: nn.Module) -> nas.Space:
    return nas.elastic(model, torch.zeros(1, 1, 8, 8), width=(1.0, 1.0), rank=(4, 8), exclude=["3"], check=False)


@pytest.fixture
def net(space: nas.Space, model: nn.Module) -> nas.Supernet:
    return nas.Supernet(space, example=torch.zeros(1, 1, 8, 8), weights=model)


def optimizer(net: nas.Supernet, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=lr)


def test_truncation_is_the_best_matrix_of_the_rank_every_few_steps(baselines: ModuleType, net: nas.Supernet) -> None:
    weight = net.get_parameter("1.weight")
    before, others = weight.detach().clone(), net.get_parameter("3.weight").detach().clone()
    truncated = baselines.Truncated(RANKS, every=5, nuclear=0.0)
    truncated.begin(net, optimizer(net), 3)
    assert torch.equal(weight, before)
    truncated.begin(net, optimizer(net), 5)
    down, up = net.get_parameter("1.down.weight"), net.get_parameter("1.up.weight")
    assert torch.allclose(weight, up[:, :4] @ down[:4], atol=1e-5)  # which the supernet's factors are
    assert torch.equal(net.get_parameter("3.weight"), others)
    assert truncated.archs(net.space, 5, None) == [net.space.largest]


def test_the_nuclear_norm_takes_as_much_from_each_singular_value(baselines: ModuleType, net: nas.Supernet) -> None:
    weight = net.get_parameter("1.weight")
    before = torch.linalg.svdvals(weight.detach())
    baselines.Truncated(RANKS, every=2, nuclear=0.5).begin(net, optimizer(net), 4)
    after = torch.linalg.svdvals(weight.detach())
    assert torch.allclose(after[:4], before[:4] - 0.5 * 0.1 * 2, atol=1e-5)
    assert float(after[4:].max()) < 1e-5
    baselines.Truncated(RANKS, every=2, nuclear=1e3).begin(net, optimizer(net), 4)
    assert float(weight.detach().abs().max()) < 1e-5


def test_a_training_with_truncation_resumes_to_the_bit(
    baselines: ModuleType, space: nas.Space, model: nn.Module, tmp_path: Path
) -> None:
    def make(path: Path) -> Training:
        net = nas.Supernet(space, example=torch.zeros(1, 1, 8, 8), weights=model)
        sampler = baselines.Truncated(RANKS, every=3)
        return Training(net, blobs(), path=path, sampler=sampler, loss=Labels(), steps=8, checkpoint_every=1)

    whole = make(tmp_path / "whole").run(progress=False).supernet.state_dict()
    make(tmp_path / "parts").run(progress=False, until=4)
    parts = make(tmp_path / "parts").run(progress=False).supernet.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_factors_are_kept_near_by_their_largest_difference(
    baselines: ModuleType, net: nas.Supernet, model: nn.Module
) -> None:
    task = blobs()
    down, up = net.get_parameter("1.down.weight"), net.get_parameter("1.up.weight")
    arch = net.space.arch({**net.space.largest.choices, "model[1].rank": 4})
    batch = next(iter(task.train_batches(0)))
    step = nas.train.Step(0, task, net.space, [arch], arch)
    output = net(batch.inputs, arch)
    near = baselines.Near(net, model, RANKS, weight=3.0, margin=0.01)
    value = near(output, batch, step) - Labels()(output, batch, step)
    with torch.no_grad():
        errors = (up[:, :4] @ down[:4] - model.get_parameter("1.weight")).flatten().tolist()
    far = max(map(abs, errors))
    assert value.item() == pytest.approx(3.0 * (far - 0.01) ** 2, rel=1e-3)
    value.backward()
    assert down.grad is not None
    assert bool(down.grad[:4].abs().sum() > 0)
    assert not down.grad[4:].any()
    json.dumps(near.describe())


def test_pela_leaves_the_layers_alone_and_brings_features_nearer(
    baselines: ModuleType, net: nas.Supernet, model: nn.Module
) -> None:
    before = {name: one.detach().clone() for name, one in net.named_parameters()}
    features = Features(["1"], Hint("none"), weight=100.0, teacher=model)
    choice = {"model[1].rank": 4}
    images = next(iter(blobs().valid_batches())).inputs
    wanted = model[:2](images)

    def far() -> float:
        found = net.extract(net.space.arch({**net.space.largest.choices, **choice}))
        with torch.no_grad():
            return (found[:2](images) - wanted).norm().item()

    first = far()
    loss = baselines.Near(net, model, RANKS, features)
    Training(
        net, blobs(), sampler=FixedList([choice]), loss=loss, steps=30, lr=1e-2, weight_decay=0.0, seed=0
    ).run(progress=False)  # fmt: skip
    assert torch.equal(net.get_parameter("1.weight"), before["1.weight"])
    assert not torch.equal(net.get_parameter("1.down.weight"), before["1.down.weight"])
    assert far() < first
