"""Archs that are captured graphs: sizes as numbers in the source, any number of samples, training, travelling."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import cloudpickle
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import StudyError, SupernetError
from nas.study.take_home import Winner


class Literal(nn.Module):
    """32 is written into the forward, so that no attribute can make the class another size."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 48)
        self.norm = nn.BatchNorm1d(48)
        self.drop = nn.Dropout(0.5)
        self.cell = nn.GRUCell(48, 32)
        self.out = nn.Linear(32, 5)

    def forward(self, steps: Tensor) -> Tensor:
        hidden = steps.new_zeros(steps.shape[0], 32)
        for step in range(steps.shape[1]):
            hidden = self.cell(self.drop(self.norm(self.embed(steps[:, step])).relu()), hidden)
        return self.out(hidden)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Literal().eval()


@pytest.fixture(scope="module")
def space(model: nn.Module) -> nas.ElasticSpace:
    return nas.elastic(model, torch.randn(1, 4, 12))


def test_sizes_in_the_source_make_archs_graphs_and_the_report_says_where(space: nas.ElasticSpace) -> None:
    assert space.report.execution == "graph"
    assert "aten.new_zeros" in space.report.because
    assert {decision.size for decision in space.plan.decisions} == {32, 48}


def test_the_largest_is_the_model_for_any_number_of_samples(model: nn.Module, space: nas.ElasticSpace) -> None:
    net = nas.Supernet(space, weights=model, example=torch.randn(1, 4, 12)).eval()
    for count in (1, 2, 7):
        steps = torch.randn(count, 4, 12)
        torch.testing.assert_close(net(steps, space.largest), model(steps))


def test_an_extracted_arch_is_of_the_class_and_computes_what_the_supernet_does(
    model: nn.Module, space: nas.ElasticSpace
) -> None:
    net = nas.Supernet(space, weights=model, example=torch.randn(1, 4, 12)).eval()
    small, steps = net.extract(space.smallest), torch.randn(6, 4, 12)
    assert type(small) is Literal
    assert torch.equal(small(steps), net(steps, space.smallest))
    copied = copy.deepcopy(small)
    nn.init.zeros_(copied.out.weight)
    nn.init.zeros_(copied.out.bias)
    assert not copied(steps).any()  # it has tensors of its own
    assert small(steps).any()


def test_dropout_and_norms_follow_the_mode(model: nn.Module, space: nas.ElasticSpace) -> None:
    small, steps = nas.Supernet(space, weights=model).extract(space.smallest), torch.randn(6, 4, 12)
    small.train()
    before = small.norm.running_mean.clone()
    assert not torch.equal(small(steps), small(steps))
    assert not torch.equal(small.norm.running_mean, before)


def test_gradients_reach_the_supernet(model: nn.Module, space: nas.ElasticSpace) -> None:
    net = nas.Supernet(space, weights=model, example=torch.randn(1, 4, 12)).eval()
    steps = torch.randn(3, 4, 12)
    net.bind(space.smallest)(steps).sum().backward()
    bound = net.embed.weight.grad.clone()
    net.zero_grad()
    net(steps, space.smallest).sum().backward()
    torch.testing.assert_close(bound, net.embed.weight.grad)


def test_a_space_travels_without_its_graph(model: nn.Module, space: nas.ElasticSpace, tmp_path: Path) -> None:
    there = pickle.loads(cloudpickle.dumps(space))
    assert there.fingerprint == space.fingerprint
    here = nas.Supernet(space, weights=model)
    here.save(tmp_path)
    other = nas.Supernet.load(tmp_path, there)
    steps = torch.randn(2, 4, 12)
    assert torch.equal(here.eval()(steps, space.smallest), other.eval()(steps, there.smallest))


def test_inputs_of_another_form_are_refused(model: nn.Module, space: nas.ElasticSpace) -> None:
    small = nas.Supernet(space, weights=model).extract(space.smallest)
    with pytest.raises(SupernetError, match="only the number of samples may differ"):
        small(torch.randn(2, 5, 12))
    with pytest.raises(SupernetError, match="2 inputs were given"):
        small(torch.randn(2, 4, 12), torch.randn(1))


def test_free_mode_makes_graphs_of_any_model() -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
    space = nas.elastic(model, torch.randn(2, 4), mode="free")
    assert space.report.execution == "graph"
    rows = torch.randn(5, 4)
    torch.testing.assert_close(nas.Supernet(space, weights=model).extract(space.largest)(rows), model(rows))


def test_a_graph_is_not_written_with_a_load_py(model: nn.Module, space: nas.ElasticSpace, tmp_path: Path) -> None:
    small = nas.Supernet(space, weights=model).extract(space.smallest)
    with pytest.raises(StudyError, match=r"cannot be written with a load.py: .* writes it as pt2"):
        Winner("graph", 0, space.smallest, small, {}, {}, torch.randn(3, 4, 12), None).write(tmp_path / "winner")


def test_a_graph_is_exported_as_any_network(model: nn.Module, space: nas.ElasticSpace) -> None:
    small = nas.Supernet(space, weights=model).extract(space.smallest)
    steps = torch.randn(3, 4, 12)
    program = torch.export.export(small, (steps,))
    torch.testing.assert_close(program.module()(steps), small(steps))
