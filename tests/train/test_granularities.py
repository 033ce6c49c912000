"""Nested granularities: which are trained, what they are taught, and that they share a trunk."""

from __future__ import annotations

import json
import random
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import TrainError
from nas.train import (
    KL,
    AllGranularities,
    Batch,
    FixedList,
    Granular,
    InPlace,
    Labels,
    SoftSimilarities,
    SortedExits,
    Step,
    Training,
    TwoDimensional,
    Uniform,
    distillation,
    trunk,
)
from searchspaces import matryoshka, sentences
from tests.train.family import blobs
from tests.train.family import space as mlp_space
from tests.train.family import supernet as mlp_supernet

RNG = random.Random(0)
DIMS, DEPTHS = (2, 4, 8), (1, 2, 3)


def encoders(
    dims: tuple[int, ...] = DIMS, depths: tuple[int, ...] = DEPTHS, width: int = 8, **options: Any
) -> nas.Supernet:
    return matryoshka.supernet(matryoshka.space(dims=dims, depths=depths, width=width, head=8, **options))


def pairs(archs: list[nas.Arch]) -> list[tuple[int, int]]:
    return [(arch.choices["depth"], arch.choices["dim"]) for arch in archs]


# -- samplers


def test_all_granularities_are_every_combination_of_the_axes() -> None:
    space = encoders().space
    assert pairs(AllGranularities(("dim",)).archs(space, 0, RNG)) == [(3, 8), (3, 2), (3, 4)]
    both = pairs(AllGranularities(["depth", "dim"]).archs(space, 0, RNG))
    assert both[0] == (3, 8)
    assert sorted(both) == [(depth, dim) for depth in DEPTHS for dim in DIMS]


def test_elastic_granularities_share_what_was_drawn_for_the_step() -> None:
    space, drawn = encoders().space, set()
    for seed in range(20):
        archs = pairs(AllGranularities(("dim",), elastic=True).archs(space, 0, random.Random(seed)))
        assert sorted(dim for _, dim in archs) == [2, 4, 8]
        assert archs[0][1] == 8
        drawn |= {depths for depths in [tuple({depth for depth, _ in archs})] if len(depths) == 1}
    assert drawn == {(1,), (2,), (3,)}


def test_two_dimensional_takes_the_full_depth_and_one_other() -> None:
    space, others = encoders().space, set()
    for seed in range(20):
        archs = pairs(TwoDimensional().archs(space, 0, random.Random(seed)))
        assert archs[:3] == [(3, 8), (3, 2), (3, 4)]
        assert [dim for _, dim in archs[3:]] == [8, 2, 4]
        others |= {depth for depth, _ in archs[3:]}
    assert others == {1, 2}


def test_a_fixed_list_is_the_same_each_step_or_a_draw_from_it() -> None:
    space = encoders().space
    choices = [{"depth": 1, "dim": 2}, {"depth": 2, "dim": 4}, {"depth": 3}]
    assert pairs(FixedList(choices).archs(space, 0, RNG)) == [(1, 2), (2, 4), (3, 8)]
    drawn = [pairs(FixedList(choices, n=2).archs(space, 0, random.Random(seed))) for seed in range(30)]
    assert all(len(set(each)) == 2 for each in drawn)
    assert {pair for each in drawn for pair in each} == {(1, 2), (2, 4), (3, 8)}


def test_a_fixed_list_fills_in_what_an_entry_switches_on() -> None:
    space = nas.Space(pg.Dict(depth=pg.oneof([1, 2]), width=pg.oneof([4, 8])), active_when={"width": ("depth", {2})})
    archs = FixedList([{"depth": 1, "width": 4}, {"depth": 2}]).archs(space, 0, RNG)
    assert [arch.choices for arch in archs] == [{"depth": 1}, {"depth": 2, "width": 8}]


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (
            lambda s: FixedList([{"dim": 128}]).archs(s, 0, RNG),
            "dim=128 is not a granularity of space .*one of 2, 4, 8",
        ),
        (lambda s: FixedList([{"dims": 2}]).archs(s, 0, RNG), "'dims', which is no .* did you mean 'dim'"),
        (lambda s: AllGranularities(("deep",)).archs(s, 0, RNG), "AllGranularities is about 'deep'"),
        (lambda s: TwoDimensional(dim="x").archs(s, 0, RNG), "TwoDimensional is about 'x'"),
        (
            lambda s: TwoDimensional().archs(encoders(depths=(2,)).space, 0, RNG),
            "'depth' of space 'matryoshka' has one",
        ),
        (lambda s: AllGranularities("dim"), "axes='dim'; it is a list, each item a string"),
        (lambda s: AllGranularities(()), "needs the names of decisions"),
        (lambda s: FixedList([]), "FixedList has no archs"),
        (lambda s: FixedList([{"dim": 2}], n=2), r"FixedList\(n=2\) does not fit its 1 archs"),
        (lambda s: Granular(kl=-1.0), "Granular has kl=-1.0"),
        (lambda s: Granular(temperature=0.0), "temperature=0.0"),
        (lambda s: Granular(weights={2: -1.0}), "each is 0 or more"),
        (lambda s: Granular(temperature=2.0), r"Granular\(temperature=2.0\) has no effect with kl=0; give kl too"),
        (lambda s: Granular(axis="depth"), r"Granular\(axis='depth'\) has no effect without weights"),
        (lambda s: Granular(divergence=KL()), "has a divergence, which needs a positive kl"),
        (lambda s: Granular(kl=1.0, temperature=2.0, divergence=KL()), "has a temperature of its own"),
        (lambda s: Granular(weights="equal"), "weights='equal'"),
        (
            lambda s: Granular(axis="op", weights="proportional").archs(
                [], nas.Space(pg.Dict(op=pg.oneof(["conv", "pool"])), name="ops")
            ),
            "proportional to 'op' of space 'ops', which is one of conv, pool and no positive number",
        ),
        (
            lambda s: Granular(weights={2: 1.0, 128: 1.0}).archs([s.largest], s),
            "a weight for dim=128, which is no granularity of space 'matryoshka': dim is one of 2, 4, 8",
        ),
        (
            lambda s: Granular(weights={2: 1.0}, axis="dims").archs([s.largest], s),
            "Granular is about 'dims', which is no .* did you mean 'dim'",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(act: Any, sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        act(encoders().space)


def test_descriptions_read_back_and_tell_settings_apart() -> None:
    described = [
        part.describe()
        for part in (
            AllGranularities(("dim",)),
            AllGranularities(("dim",), elastic=True),
            FixedList([{"dim": 2}]),
            FixedList([{"dim": 2}], n=1),
            TwoDimensional(),
            Granular(),
            Granular(kl=1.0),
            Granular(weights={2: 0.5}),
            Granular(weights="proportional"),
            Granular(kl=1.0, divergence=KL()),
        )
    ]
    assert len({json.dumps(each) for each in described}) == len(described)


# -- losses


def a_step(net: nas.Supernet) -> tuple[Step, Batch]:
    task = blobs()
    return Step(0, task, net.space, [], net.space.largest), next(task.train_batches(0))


def test_granular_is_the_formula_and_its_target_is_detached() -> None:
    net = encoders()
    step, batch = a_step(net)
    full, part = (torch.randn(16, 10, requires_grad=True) for _ in range(2))
    loss = Granular(kl=0.7, temperature=2.0, weights={8: 2.0, 2: 3.0})
    assert loss(full, batch, step).item() == pytest.approx(2.0 * step.task.loss(full, batch).item())
    step.arch = net.space.smallest
    found = loss(part, batch, step)
    expected = 3.0 * (step.task.loss(part, batch) + 0.7 * distillation(part, full, 2.0))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    assert part.grad is not None
    assert full.grad is None


def test_weights_proportional_to_the_depth_are_the_multi_layer_loss() -> None:
    """ModularStarEncoder: a contrastive loss at each exit, weighted by its depth, against the sum written by hand."""
    net = sentences.supernet(
        sentences.space(dims=(8,), depths=(1, 2, 4), heads="separate", width=8, head=4, vocabulary=50)
    )
    texts = torch.randint(1, 50, (48, 16), generator=torch.Generator().manual_seed(0))
    task = nas.Embedding((texts[:16], texts[16:32]), (texts[32:40], texts[40:]), batch=8, temperature=0.2)
    batch, loss = next(task.train_batches(0)), Granular(axis="depth", weights="proportional")
    archs = loss.archs(SortedExits().archs(net.space, 0, RNG), net.space)
    assert pairs(archs) == [(4, 8), (2, 8), (1, 8)]
    (group,) = trunk.groups(net, archs)
    step, total = Step(0, task, net.space, archs, archs[0]), torch.zeros(())
    for step.arch, output in trunk.outputs(net, group, batch.inputs):
        total = total + loss(output, batch, step)
    total.backward()
    found, expected = gradients(net), torch.zeros(())
    for depth in (4, 2, 1):
        rows = net.bind(net.space.arch({"depth": depth, "dim": 8}))(batch.inputs)
        similar = nn.functional.normalize(rows)[0::2] @ nn.functional.normalize(rows)[1::2].T / 0.2
        own = similar.diagonal()
        both = (similar.logsumexp(0) - own).mean() + (similar.logsumexp(1) - own).mean()
        expected = expected + depth / 4 * both / 2
    torch.testing.assert_close(total, expected)
    expected.backward()
    for name, gradient in gradients(net).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_granularity_of_embeddings_learns_from_the_scores_of_the_full_model() -> None:
    net = sentences.supernet(sentences.space(dims=(2, 8), depths=(1, 2), width=8, head=4, vocabulary=50))
    texts = torch.randint(1, 50, (48, 16), generator=torch.Generator().manual_seed(0))
    task = nas.Embedding((texts[:16], texts[16:32]), (texts[32:40], texts[40:]), batch=8)
    loss = Granular(kl=0.5, divergence=SoftSimilarities(0.1))
    loss.check(task)
    with pytest.raises(TrainError, match="Granular compares outputs by KL"):
        Granular(kl=0.5, divergence=KL()).check(task)
    step, batch = Step(0, task, net.space, [], net.space.largest), next(task.train_batches(0))
    full, part = torch.randn(16, 8), torch.randn(16, 2)
    loss(full, batch, step)
    step.arch = net.space.smallest
    expected = task.loss(part, batch) + 0.5 * SoftSimilarities(0.1)(part, full)
    assert loss(part, batch, step).item() == pytest.approx(expected.item(), rel=1e-6)


def test_granular_without_options_is_the_labels() -> None:
    net = encoders()
    step, batch = a_step(net)
    scores = torch.randn(16, 10)
    assert torch.equal(Granular()(scores, batch, step), Labels()(scores, batch, step))
    small = [net.space.smallest]
    assert Granular().archs(small, net.space) == small
    assert Granular(kl=1.0).archs(small, net.space) == [net.space.largest, net.space.smallest]


def test_a_granularity_without_a_weight_is_refused() -> None:
    step, batch = a_step(encoders())
    with pytest.raises(TrainError, match="weights for .*'2'.* and none for dim=8"):
        Granular(weights={2: 1.0})(torch.randn(16, 10), batch, step)


# -- one trunk


def gradients(net: nas.Supernet) -> dict[str, torch.Tensor]:
    found = {name: one.grad.clone() for name, one in net.named_parameters() if one.grad is not None}
    net.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("heads", ["shared", "separate"])
@pytest.mark.parametrize("loss", [Labels(), InPlace(), Granular(kl=1.0)], ids=lambda one: type(one).__name__)
def test_one_trunk_gives_the_losses_and_gradients_of_separate_forwards(heads: Any, loss: Any) -> None:
    net = encoders(heads=heads)
    step, batch = a_step(net)
    archs = loss.archs(AllGranularities(("depth", "dim")).archs(net.space, 0, RNG), net.space)
    (group,) = trunk.groups(net, archs)
    assert group == archs
    total = torch.zeros(())
    for step.arch, output in trunk.outputs(net, group, batch.inputs):
        total = total + loss(output, batch, step)
    total.backward()
    together, alone = gradients(net), torch.zeros(())
    for step.arch in archs:
        one = loss(net.bind(step.arch)(batch.inputs), batch, step)
        one.backward()
        alone += one.detach()
    separate = gradients(net)
    torch.testing.assert_close(total.detach(), alone)
    assert together.keys() == separate.keys()
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, separate[name], rtol=1e-4, atol=1e-5)


def test_a_step_runs_each_block_once_and_no_more_blocks_than_its_archs_have(monkeypatch: Any) -> None:
    runs: list[int] = []
    forward = matryoshka.Block.forward
    monkeypatch.setattr(matryoshka.Block, "forward", lambda self, x: (runs.append(len(x)), forward(self, x))[1])

    def train(sampler: Any) -> None:
        runs.clear()
        Training(encoders(), blobs(), sampler=sampler, loss=Labels(), steps=1, validate_every=5).run(progress=False)

    train(AllGranularities(("depth", "dim")))
    assert [size for size in runs if size == 16] == [16] * 3  # the others are the validation at the end
    train(FixedList([{"depth": 2, "dim": 2}, {"depth": 1, "dim": 8}]))
    assert [size for size in runs if size == 16] == [16] * 2


def test_models_without_a_trunk_are_called_one_by_one() -> None:
    net = mlp_supernet()
    archs = [net.space.largest, net.space.smallest]
    assert trunk.groups(net, archs) == [[arch] for arch in archs]


class Elastic(nn.Module):
    """A width that the trunk depends on, and a prefix that it does not; the input is a pair."""

    granularities, extent = ("dim",), 1

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.dim, self.body, self.head = dim, nn.Linear(64, width), nn.Linear(dim, 10)

    def trunk(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.body(x.flatten(1)).relu() * scale

    def read(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(features[:, : self.dim])

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.read(self.trunk(x, scale))


@nas.model
def elastic(width: int, dim: int) -> nn.Module:
    return Elastic(width, dim)


def test_archs_whose_trunks_differ_do_not_share_one() -> None:
    space = nas.Space(elastic(width=pg.oneof([8, 16]), dim=pg.oneof([2, 4])), name="elastic")
    net = nas.Supernet(space)
    make = [{"width": 8, "dim": 2}, {"width": 16, "dim": 2}, {"width": 8, "dim": 4}, {"width": 16, "dim": 4}]
    archs = [space.arch(choices) for choices in make]
    groups = trunk.groups(net, archs)
    assert groups == [[archs[0], archs[2]], [archs[1], archs[3]]]
    inputs = {"x": torch.randn(3, 64), "scale": 0.5}
    for group in groups:
        for arch, output in trunk.outputs(net, group, inputs):
            torch.testing.assert_close(output, net(inputs, arch))


def test_nested_models_learn_at_every_granularity() -> None:
    net, task = encoders(dims=(8, 32), depths=(1, 2), width=32, heads="separate"), blobs(n=256)
    every = AllGranularities(("depth", "dim"))
    Training(net, task, sampler=every, loss=Granular(kl=0.5), steps=150, lr=1e-2, seed=1).run(progress=False)
    found = {arch.key: nas.train.subnet_metrics(net, arch, task)["accuracy"] for arch in net.space.enumerate()}
    assert len(found) == 4
    assert min(found.values()) > 0.7


def test_the_samplers_go_with_any_space_that_has_the_decisions() -> None:
    task, net = blobs(), mlp_supernet()
    archs = AllGranularities(("width", "depth")).archs(mlp_space(), 0, RNG)
    assert len(archs) == 6
    Training(net, task, sampler=TwoDimensional(dim="width"), loss=Granular(kl=1.0), steps=3).run(progress=False)
    Training(encoders(), task, sampler=Uniform(3), loss=InPlace(), steps=3).run(progress=False)
