"""Sorted exits: which ones a step trains, what they cost, what they learn."""

from __future__ import annotations

import random

import pytest
import torch

from nas.errors import TrainError
from nas.train import Labels, Training, trunk
from nas.train.exits import ExitMean, SortedExits
from nas.train.fitting import distillation
from nas.train.losses import Step
from nas.train.task import Batch
from nas.train.text import BytePairs, LanguageModelling
from searchspaces import sorted_lm, vit

torch.set_num_threads(1)


def space():
    return sorted_lm.space(widths=(8, 16), depths=(1, 2, 4), kvs=(1,), ratios=(1,), head=4, vocabulary=257, context=16)


def task(seed=0):
    tokens = torch.arange(2000) * torch.arange(2000) % 251
    return LanguageModelling(tokens, tokens[:200], None, BytePairs(()), context=16, batch=4, seed=seed)


def depths(archs):
    return [arch.choices["depth"] for arch in archs]


def test_the_exits_of_a_step_come_deepest_first():
    rng = random.Random(0)
    assert depths(SortedExits().archs(space(), 0, rng)) == [4, 2, 1]
    assert depths(SortedExits(exits=(1,)).archs(space(), 0, rng)) == [4, 1]
    assert depths(SortedExits(exits=(1, 4)).archs(space(), 0, rng)) == [4, 1]
    drawn = {tuple(depths(SortedExits(n=1).archs(space(), 0, rng))) for _ in range(20)}
    assert drawn == {(4, 2), (4, 1)}


def test_elastic_draws_the_rest_for_all_exits_of_a_step():
    rng, widths = random.Random(0), set()
    for _ in range(20):
        archs = SortedExits(elastic=True).archs(space(), 0, rng)
        assert depths(archs) == [4, 2, 1]
        assert len({arch.choices["width"] for arch in archs}) == 1
        widths.add(archs[0].choices["width"])
    assert widths == {8, 16}
    assert {arch.choices["width"] for arch in SortedExits().archs(space(), 0, rng)} == {16}


def test_decisions_of_the_blocks_beyond_an_exit_are_dropped():
    archs = SortedExits().archs(vit.space(depths=(1, 3)), 0, random.Random(0))
    assert depths(archs) == [3, 1]
    assert "heads[2]" not in archs[1].choices
    assert all(archs[0].choices[name] == value for name, value in archs[1].choices.items() if name != "depth")


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (SortedExits(exits=(9,)), "exit 9 is deeper than the model .*1, 2, 4"),
        (SortedExits(exits=(3,)), "exit 3 is not one of the depths"),
        (SortedExits(decision="dept"), "did you mean 'depth'"),
    ],
)
def test_exits_that_are_not_there_are_refused(sampler, message):
    with pytest.raises(TrainError, match=message):
        sampler.archs(space(), 0, random.Random(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SortedExits(exits=()),
        lambda: SortedExits(n=0),
        lambda: ExitMean(distill=1.5),
        lambda: ExitMean(distill=0.5, temperature=0.0),
        lambda: ExitMean(temperature=2.0),
    ],
)
def test_options_are_checked(make):
    with pytest.raises(TrainError):
        make()


def test_a_step_of_all_exits_runs_each_block_once(monkeypatch):
    supernet, calls = sorted_lm.supernet(space()), []
    forward = sorted_lm.Block.forward

    def counted(self, *args):
        calls.append(args[2])
        return forward(self, *args)

    monkeypatch.setattr(sorted_lm.Block, "forward", counted)
    archs = SortedExits().archs(supernet.space, 0, random.Random(0))
    (group,) = trunk.groups(supernet, archs)
    assert len(list(trunk.outputs(supernet, group, next(task().train_batches(0)).inputs))) == 3
    assert calls == [0, 1, 2, 3]


def test_gradients_are_the_mean_of_the_models_alone():
    supernet = sorted_lm.supernet(space(), seed=1).eval()
    batch, archs = next(task().train_batches(0)), SortedExits().archs(supernet.space, 0, random.Random(0))
    step = Step(0, task(), supernet.space, archs, archs[0])
    supernet.zero_grad(set_to_none=True)
    total = torch.zeros(())
    for step.arch, output in trunk.outputs(supernet, archs, batch.inputs):
        total = total + ExitMean()(output, batch, step)
    total.backward()
    together = {name: parameter.grad.clone() for name, parameter in supernet.named_parameters()}
    supernet.zero_grad(set_to_none=True)
    alone = sum(task().loss(supernet(batch.inputs, arch), batch) for arch in archs) / 3
    alone.backward()
    torch.testing.assert_close(total, alone)
    for name, parameter in supernet.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_distillation_follows_the_formula():
    torch.manual_seed(0)
    archs = SortedExits().archs(space(), 0, random.Random(0))
    step = Step(0, task(), space(), archs, archs[0])
    batch = Batch(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[1, 2, 3], [4, 5, 6]]))
    deep, shallow = torch.randn(2, 3, 257), torch.randn(2, 3, 257, requires_grad=True)
    loss = ExitMean(distill=0.25, temperature=2.0)
    torch.testing.assert_close(loss(deep, batch, step), task().loss(deep, batch) / 3)
    step.arch = archs[1]
    expected = 0.75 * task().loss(shallow, batch) + 0.25 * distillation(shallow, deep, 2.0)
    torch.testing.assert_close(loss(shallow, batch, step), expected / 3)


def test_sorted_training_teaches_every_exit():
    data, supernet = task(), sorted_lm.supernet(space())
    options = {"sampler": SortedExits(), "loss": ExitMean(), "steps": 60, "lr": 2e-2}
    Training(supernet, data, **options).run(progress=False)
    for arch in SortedExits().archs(supernet.space, 0, random.Random(0)):
        assert data.evaluate(lambda inputs, arch=arch: supernet(inputs, arch))["loss"] < 5.3  # chance is 5.5
    Training(sorted_lm.supernet(space()), data, sampler=SortedExits(), loss=Labels(), steps=2).run(progress=False)
