from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest
import torch

import nas
from nas.errors import TrainError
from nas.train import Attentive, BatchScore, Sandwich, subnet_metrics, train
from nas.train.attentive import Histogram
from tests.train.family import blobs, space, supernet


def cost(arch: nas.Arch) -> float:
    return float(arch.choices["width"] * (1 + arch.choices["depth"]))


def test_the_histogram_is_that_of_random_archs() -> None:
    ours = space()  # costs 8, 16, 16, 32, 32, 64: the middle ones are twice as frequent
    histogram = Histogram.of(ours, cost, 1.0, 3000)
    assert set(histogram.bins) == {8, 16, 32, 64}
    for place, share in ((8, 1 / 6), (16, 1 / 3), (32, 1 / 3), (64, 1 / 6)):
        assert histogram.bins[place] / 3000 == pytest.approx(share, abs=0.03)
    draw, drawn = random.Random(0), Counter[int]()
    for _ in range(1500):
        drawn[histogram.target(draw)] += 1
    assert drawn[16] / 1500 == pytest.approx(1 / 3, abs=0.05)
    for target in histogram.bins:
        assert all(cost(histogram.draw(ours, target, cost, draw)) == target for _ in range(50))


@pytest.mark.parametrize("best", [True, False])
def test_of_equal_cost_the_best_or_worst_is_trained(best: bool) -> None:
    ours = space()
    sampler = Attentive(lambda arch: arch.choices["depth"], cost, 1.0, best=best, k=12, n=1)
    found = Counter[tuple[int, int]]()
    for seed in range(200):
        archs = sampler.archs(ours, 0, random.Random(seed))
        assert archs == sampler.archs(ours, 0, random.Random(seed))
        assert archs[:2] == [ours.largest, ours.smallest]
        found.update((arch.choices["width"], arch.choices["depth"]) for arch in archs[2:])
    # Cost 16 is (16, 0) or (8, 1), cost 32 is (32, 0) or (16, 1).
    wanted, avoided = [(8, 1), (16, 1)], [(16, 0), (32, 0)]
    if not best:
        wanted, avoided = avoided, wanted
    assert min(found[pair] for pair in wanted) > 40
    assert max(found[pair] for pair in avoided) <= 2


def test_a_batch_score_ranks_by_loss_and_changes_nothing() -> None:
    net, task = supernet(), blobs(n=200)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    state, score = torch.get_rng_state(), BatchScore(net, task)
    values = [score(arch) for arch in net.space.enumerate()]
    assert values == [score(arch) for arch in net.space.enumerate()]
    assert len(set(values)) == len(values)
    assert net.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    batch = next(task.train_batches(0))
    arch = net.space.smallest
    net.eval()
    buffers = net.calibrate(arch, [batch.inputs])
    assert values[list(net.space.enumerate()).index(arch)] == pytest.approx(
        -task.loss(net(batch.inputs, arch, buffers), batch).item()
    )


def test_each_step_compares_by_its_own_batch() -> None:
    net, task = supernet(), blobs(n=200)
    arch, epoch = net.space.smallest, task.steps_per_epoch
    steps = [
        0,
        1,
        2,
        epoch - 1,
        epoch,
        epoch + 1,
        1,
        1,
        2 * epoch + 2,
    ]  # the training goes on, and is resumed elsewhere
    score = BatchScore(net, task)
    sampler = Attentive(score, cost, 1.0)
    found = []
    for step in steps:
        sampler.archs(net.space, step, random.Random(0))
        found.append(score(arch))
    batches = [next(itertools.islice(task.train_batches(step // epoch), step % epoch, None)) for step in steps]
    net.eval()
    for value, batch in zip(found, batches, strict=True):
        output = net(batch.inputs, arch, net.calibrate(arch, [batch.inputs]))
        assert value == pytest.approx(-task.loss(output, batch).item())
    assert len(set(found)) == len(set(steps))


def test_training_with_attention_teaches_all_archs_as_a_sandwich_does() -> None:
    """With equal archs a step; the largest and the smallest, which are in every step, well."""
    means = {}
    for name in ("sandwich", "best", "worst"):
        net, task = supernet(), blobs(n=200)
        attentive = Attentive(BatchScore(net, task), net.params, 200.0, best=name == "best", pool=50)
        train(net, task, sampler=Sandwich(2) if name == "sandwich" else attentive, steps=100, lr=1e-2, progress=False)
        found = {arch: subnet_metrics(net, arch, task, "test")["accuracy"] for arch in net.space.enumerate()}
        means[name] = sum(found.values()) / len(found)
        assert found[net.space.largest] > 0.95
        assert found[net.space.smallest] > 0.85
    assert min(means["best"], means["worst"]) > means["sandwich"] - 0.05


def test_every_arch_is_trained_and_each_cost_is_asked_once() -> None:
    ours, asked, trained = space(), Counter[nas.Arch](), Counter[nas.Arch]()

    def counting(arch: nas.Arch) -> float:
        asked.update([arch])
        return cost(arch)

    draw = random.Random(1)
    for best in (True, False):
        sampler = Attentive(lambda _: draw.random(), counting, 1.0, best=best, n=1)
        for seed in range(200):
            trained.update(sampler.archs(ours, seed, random.Random(seed)))
    assert set(asked.values()) == {2}  # one for each sampler
    # The largest and smallest 400 times; the four others share the draws of their two bins, 2/3 of all.
    assert trained[ours.largest] == trained[ours.smallest] == 400
    others = [count for arch, count in trained.items() if arch not in (ours.largest, ours.smallest)]
    assert len(others) == 4
    assert min(others) > 30


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 1}, "k=1; it is a whole number, 2 or more"),
        ({"n": 0}, "n=0"),
        ({"width": 0.0}, "width=0.0"),
        ({"score": 3}, "score=3; it is a function"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        Attentive(**{"score": cost, "cost": cost, "width": 1.0, **options})


def test_a_space_of_one_cost_is_refused() -> None:
    with pytest.raises(TrainError, match="all cost the same to within width=1000"):
        Attentive(cost, cost, 1000.0).archs(space(), 0, random.Random(0))
    with pytest.raises(TrainError, match="not a number"):
        Attentive(lambda _: float("nan"), cost, 1.0).archs(space(), 0, random.Random(0))
    assert Attentive(cost, cost, 1.0).describe() != Attentive(cost, cost, 1.0, best=False).describe()
