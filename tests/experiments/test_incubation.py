"""What `experiments/incubation` counts, and how it cuts a vision transformer."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from nas.train import Hybrid
from searchspaces import vit
from tests.experiments.scripts import script

BATCH = torch.zeros(2, 3), torch.zeros(2).long()


@pytest.fixture(scope="module")
def run() -> ModuleType:
    return script("incubation/run.py")


@pytest.fixture
def bench(run: ModuleType, tmp_path: Path) -> Any:
    options = argparse.Namespace(
        smoke=True, width=8, depth=3, steps=1000, lr=1e-3, module_lr=None, tuning_lr=None, split="test"
    )
    return run.Bench(options, tmp_path, 0)


def layers() -> list[nn.Module]:
    return [nn.Linear(3, 5), nn.Linear(5, 7), nn.Linear(7, 4)]


def test_operations_of_training_the_whole(run: ModuleType) -> None:
    first, second, third = 3 * 5, 5 * 7, 7 * 4
    # Outputs and gradients of the weights of each, of the inputs of all but the first.
    assert run.operations(nn.Sequential(*layers()), BATCH) == 2 * (2 * first + 3 * second + 3 * third)


def test_operations_of_a_module_in_a_frozen_model(run: ModuleType) -> None:
    first, second, third = 3 * 5, 5 * 7, 7 * 4
    each = [run.operations(Hybrid(layers(), place, layers()[place]), BATCH) for place in range(3)]
    assert each == [
        2 * (2 * first + 2 * second + 2 * third),
        2 * (first + 2 * second + 2 * third),
        2 * (first + second + 2 * third),
    ]
    taught = run.operations(Hybrid(layers(), 2, layers()[2]), BATCH, nn.Sequential(*layers()))
    assert taught == each[2] + 2 * (first + second + third)


def test_operations_of_attention_count_both_gradients(run: ModuleType) -> None:
    attention = vit.Attention(8, heads=2, head=4)
    net = nn.Sequential(nn.Unflatten(1, (6, 8)), attention, nn.Flatten(1))
    weights, product = 6 * 8 * (3 * 8) + 6 * 8 * 8, 2 * 6 * 6 * 4  # each of 2 heads: tokens x tokens x features
    found = run.operations(net, (torch.zeros(1, 48), torch.zeros(1).long()))
    assert found == 3 * weights - 6 * 8 * (3 * 8) + 3 * 2 * product


def test_the_modules_are_the_vision_transformer(run: ModuleType, bench: Any) -> None:
    whole = nn.Sequential(*bench.network()).eval()
    torch.manual_seed(3)  # the seed 0 and the depth
    net = vit.ViT(
        width=8, heads=[2] * 12, hidden=[16] * 12, head=4, side=8, patch=2, channels=1, classes=10
    ).eval()  # fmt: skip
    images = bench.batch[0]
    with torch.no_grad():
        torch.testing.assert_close(whole(images), net(images))


def test_steps_fit_the_budget(run: ModuleType, bench: Any) -> None:
    spent = run.Spent(bench)
    nets = run.hybrids(bench.network(1), bench.network())
    each = sum(run.operations(net, bench.batch) for net in nets)
    assert spent.steps(10.5 * each, nets) == 10
    assert spent.operations == 10 * each
    assert spent.steps(0.0, nets[:1]) == 1


def test_published_epochs_of_each_phase_have_its_part_of_the_operations(run: ModuleType, bench: Any) -> None:
    """300, 100 and 100 epochs; the embedding and the classifier, which blocks do not count, are small at 12 blocks."""
    meta = run.operations(nn.Sequential(*bench.network(1)), bench.batch)
    modules = sum(run.operations(net, bench.batch) for net in run.hybrids(bench.network(1), bench.network()))
    tuning = run.operations(nn.Sequential(*bench.network()), bench.batch)
    spent = [300 * meta, 100 * modules, 100 * tuning]
    assert [one / sum(spent) for one in spent] == pytest.approx(run.PUBLISHED, abs=0.02)
    assert sum(spent) / (300 * tuning) == pytest.approx(run.WAYS["incubation, as long as published"].share, abs=0.03)
