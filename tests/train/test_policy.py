"""A policy beside the weights: gradients against enumeration, rewards against the formulas, exact resuming, several processes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import TrainError
from nas.supernet import Supernet
from nas.supernet.relaxation import one_hot
from nas.train import (
    AbsoluteReward,
    Classification,
    Flip,
    Labels,
    LinearReward,
    Loss,
    MaskGates,
    Mixture,
    Policy,
    ProductReward,
    Regression,
    ScoreFunction,
    Task,
    Training,
    Uniform,
    Widened,
    published,
)
from nas.train.learner import Learner
from nas.train.ranks import Group, Ranks
from searchspaces import conv, nasbench201
from tests.choosing.test_distribution import slope_of
from tests.train.family import blobs, mlp, supernet
from tests.train.ranks import Found, in_ranks


def test_rewards_are_the_published_ones() -> None:
    assert AbsoluteReward()(0.8, 1.5) == pytest.approx(0.8 - 0.1 * 0.5)
    assert AbsoluteReward(-2.0)(0.8, 0.5) == pytest.approx(0.8 - 2.0 * 0.5)
    assert ProductReward()(0.8, 1.5) == pytest.approx(0.8 * 1.5**-0.07)
    hard = ProductReward(exponent=-1.0, below=0.0)
    assert hard(0.8, 0.5) == pytest.approx(0.8)
    assert hard(0.8, 2.0) == pytest.approx(0.4)
    assert ProductReward()(-3.0, 1.0) == 0.0
    assert LinearReward(-0.2)(-1.5, 2.0) == pytest.approx(-1.5 - 0.4)
    with pytest.raises(TrainError, match=r"weight=0\.1, which rewards missing the target"):
        AbsoluteReward(0.1)
    with pytest.raises(TrainError, match="below=2, which rewards costs"):
        ProductReward(below=2.0)


def params(arch: nas.Arch) -> float:
    """Of the weights' sizes: 8 to 64."""
    return float(arch.choices["width"] * (1 + arch.choices["depth"]))


def training(
    path: Path | None = None, net: Supernet | None = None, task: Task | None = None, **options: Any
) -> Training:
    given = {"cost": params, "target": 32.0, "lr": 0.05, "batch": 8, **options}
    others = {name: given.pop(name) for name in ("loss", "seed", "steps") if name in given}
    return Training(
        net or supernet(), task or blobs(n=160), path=path, sampler=Uniform(1), checkpoint_every=4, validate_every=10,
        **{"steps": 20, "loss": Labels(), **others}, policy=Policy(**given),
    )  # fmt: skip


def equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def policy_of(training: Training) -> Policy:
    assert training.policy is not None
    return training.policy


def test_adam_goes_up_as_torchs_does() -> None:
    ours = training(betas=(0.5, 0.99), weight_decay=0.1, warmup=0.0, growth=1.0)
    learner = Learner(ours, Ranks(), {})
    theirs = torch.zeros(len(learner.distribution.values), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theirs], lr=0.05, betas=(0.5, 0.99), weight_decay=0.1, maximize=True)
    draw = np.random.default_rng(0)
    for _ in range(6):
        gradient = draw.normal(size=len(learner.distribution.values))
        theirs.grad = torch.from_numpy(gradient)
        optimizer.step()
        learner._ascend(gradient)
        learner.memory.steps += 1
        assert learner.distribution.values == pytest.approx(theirs.detach().numpy(), abs=1e-12)


@pytest.mark.parametrize("every", [1, 3, 20])
def test_the_rate_grows_exponentially_from_the_first_step_of_the_policy_to_its_last(every: int) -> None:
    ours = training(growth=100.0, warmup=0.1, every=every)
    learner = Learner(ours, Ranks(), {})
    count = len(range(2, 20, every))
    for number in range(count):
        before = learner.distribution.values
        learner._ascend(np.ones_like(before))
        rate = 0.05 * 100.0 ** (number / max(1, count - 1))
        assert learner.distribution.values - before == pytest.approx(np.full_like(before, rate))
        learner.memory.steps += 1


@nas.model
def _optional(kind: str, first: int = 4, second: int = 4) -> nn.Module:
    """Of kind "a", whose sizes are decided, or "b"."""
    return nas.sequential(
        nn.Flatten(), nn.Linear(64, first), nn.ReLU(), nn.Linear(first, second), head=nn.Linear(second, 10)
    )


@pytest.mark.parametrize("estimator", [ScoreFunction(4), Flip(2)])
def test_an_option_that_activates_decisions_is_rewarded_for_their_entropy(estimator: Any) -> None:
    """p(a) rises to where E[entropy] is the largest: H(kind) + p(a) 2 ln 3 is at 9 / 10."""
    sizes = {name: pg.oneof([2, 3, 4]) for name in ("first", "second")}
    space = nas.Space(_optional(pg.oneof(["a", "b"]), **sizes), active_when={name: ("kind", {"a"}) for name in sizes})
    net = Supernet(space, example=blobs(n=160).example)
    ours = training(
        net=net, cost=None, target=None, entropy=100.0, estimator=estimator, warmup=0.0, steps=60, quality="min loss"
    )
    ours.run(progress=False)
    a, b = policy_of(ours).logits["kind"]
    assert 0.8 < 1 / (1 + math.exp(b - a)) < 0.97


@pytest.mark.parametrize("until", [3, 12])
def test_resumed_equals_uninterrupted_to_the_bit(tmp_path: Path, until: int) -> None:
    """Weights, logits and history; in the warm-up and after it."""
    options: dict[str, Any] = {"every": 2, "batches": 2, "entropy": 0.01, "betas": (0.9, 0.99)}
    whole, kept = training(**options), training(tmp_path, **options)
    full = whole.run(progress=False)
    kept.run(progress=False, until=until)
    again = training(tmp_path, **options)
    result = again.run(progress=False)
    assert equal(full.supernet, result.supernet)
    assert policy_of(again).logits == policy_of(whole).logits
    assert any(any(logits) for logits in policy_of(again).logits.values())
    columns = [name for name in full.history if name != "seconds"]
    assert full.history[columns].equals(result.history[columns])
    assert {"policy_reward", "policy_quality", "policy_cost", "policy_entropy"} <= {*columns}


def test_a_finished_folder_gives_the_policy_back(tmp_path: Path) -> None:
    first = training(tmp_path)
    first.run(progress=False)
    for read in (lambda one: one.run(progress=False), lambda one: one.load()):
        again = training(tmp_path)
        with pytest.raises(TrainError, match="this policy was not trained"):
            _ = policy_of(again).logits
        read(again)
        assert policy_of(again).logits == policy_of(first).logits
        assert policy_of(again).archs(3) == policy_of(first).archs(3)
    with pytest.raises(TrainError, match="policy"):
        training(tmp_path, target=33.0).run(progress=False)


class Timed:
    """Measures other times at every call."""

    exclusive = True

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        self.calls += 1
        return {"latency_ms": params(arch) * (1 + 0.001 * self.calls)}

    def describe(self) -> dict[str, Any]:
        return {"name": "Timed"}


def test_times_are_measured_once_and_resumed_with(tmp_path: Path) -> None:
    timed = Timed()
    whole = training(cost=timed)
    whole.run(progress=False)
    assert timed.calls <= 6  # archs of the space
    training(tmp_path, cost=Timed()).run(progress=False, until=12)
    again = training(tmp_path, cost=Timed())
    again.run(progress=False)
    assert policy_of(again).logits == policy_of(whole).logits


def test_a_policy_that_is_not_followed_leaves_the_weights_alone() -> None:
    """Its forward passes change no statistic and draw no random number."""
    one, task = training(follow=0), blobs(n=160)
    with_policy = one.run(progress=False).supernet
    without = Training(
        supernet(), task.divided(0.2, 8)[0], sampler=Uniform(1), loss=Labels(), steps=20, validate_every=10
    )
    assert equal(with_policy, without.run(progress=False).supernet)


class Noted(Loss):
    """Notes which archs a step trains."""

    def __init__(self, seen: list[list[nas.Arch]]) -> None:
        self.seen = seen

    def __call__(self, output: Any, batch: Any, step: Any) -> Tensor:
        self.seen.append(list(step.archs))
        return Labels()(output, batch, step)


def test_after_the_warm_up_the_weights_follow_the_draws_of_the_policy() -> None:
    seen: list[list[nas.Arch]] = []
    ours = training(loss=Noted(seen), warmup=0.5, follow=1, lr=1e-9)
    ours.run(progress=False)
    learner = Learner(ours, Ranks(), {})  # its logits are all but those of the run
    assert seen[10:] == [learner.drawn(number)[:1] for number in range(10, 20)]


def test_it_finds_the_archs_of_its_target() -> None:
    ours = training(steps=150, task=blobs(n=400), lr=0.1, reward=AbsoluteReward(-1.0), target=16.0)
    ours.run(progress=False)
    policy = policy_of(ours)
    assert params(policy.likeliest) == 16.0
    likely = sum(np.exp(policy.learnt.log_p(a)) for a in ours.supernet.space.enumerate() if params(a) == 16.0)
    assert likely > 0.7
    archs = policy.archs(3)
    assert len({*archs}) == len(archs) == 3
    assert policy.archs(2, seed=1) == policy.archs(2, seed=1)


# -- gates -----------------------------------------------------------------------------------------------------------------


def gated(**options: Any) -> Training:
    """Kernels, ratios and depths of two stages, whose masks equal their subnets."""
    net = conv.supernet(conv.space(widths=((4,), (6,)), depths=(1, 2), kernels=(3, 5), ratios=(1, 2), stem=4))
    costs = {"cost": nas.Costs(net), "metric": "macs", "target": 20_000.0}
    return training(net=net, **{**costs, "estimator": MaskGates(1), "batch": 16, **options})


def test_gates_are_the_derivative_of_the_masked_loss() -> None:
    """Against central differences of the loss along the line from one mask to another, in float64; costs add what they add."""
    ours = gated(cost=None, metric=None, target=None, task=double(160))
    ours.supernet.double()
    learner = Learner(ours, Ranks(), {})
    assert_slopes(learner, felt=4)


def assert_slopes(learner: Learner, felt: int) -> None:
    """Against central differences of the loss along the line from one arch to another; at least `felt` of them count."""
    learner._batches = learner._next()
    learner.distribution.values = np.random.default_rng(0).normal(size=learner.distribution.values.shape)
    arch = learner.drawn(5)[0]
    ((loss, slopes),) = learner.linear([arch])
    relaxation = learner.relaxation
    assert relaxation is not None
    whole, here = relaxation.whole(arch), relaxation.sharp(arch)
    with torch.no_grad():
        assert loss == pytest.approx(-learner.rewards([arch])[0], abs=1e-6)  # the relaxed network is the subnet
        seen = 0
        for p, options, at in learner.distribution.active(arch):
            if p not in here:
                assert p not in slopes
                continue
            for option in options:
                there = one_hot(option, len(here[p]))

                def at_distance(far: float, p: int = p, there: Tensor = there) -> float:
                    return float(learner._loss(whole, {**here, p: here[p] * (1 - far) + there * far}))

                expected = (at_distance(1e-6) - at_distance(-1e-6)) / 2e-6
                assert slopes[p][option] - slopes[p][options[at]] == pytest.approx(expected, abs=1e-6)
                seen += abs(expected) > 1e-5
    assert seen >= felt


def cells(**options: Any) -> Training:
    """Cells of NAS-Bench-201, whose operations the model mixes itself."""
    space = nasbench201.space(width=4, cells=1, stages=1, channels=1)
    return training(
        net=nasbench201.supernet(space, side=8),
        **{"cost": None, "target": None, "estimator": MaskGates(1), "batch": 16, **options},
    )


def test_gates_of_operations_are_the_derivative_by_their_shares() -> None:
    ours = cells(task=double(160))
    ours.supernet.double()
    learner = Learner(ours, Ranks(), {})
    assert learner.relaxation is not None
    assert learner.relaxation.relaxed == list(range(6))
    assert_slopes(learner, felt=12)


@pytest.mark.parametrize("temperature", [None, (5.0, 0.1)])
def test_gates_resume_to_the_bit(tmp_path: Path, temperature: Any) -> None:
    options: dict[str, Any] = {"estimator": MaskGates(2, temperature), "steps": 8, "warmup": 0.0}
    whole = gated(**options)
    full = whole.run(progress=False)
    gated(path=tmp_path, **options).run(progress=False, until=3)
    again = gated(path=tmp_path, **options)
    assert equal(full.supernet, again.run(progress=False).supernet)
    assert policy_of(again).logits == policy_of(whole).logits
    assert any(any(logits) for logits in policy_of(again).logits.values())


def widened(**options: Any) -> Training:
    """Masks of one of the widths are no subnets; all else is."""
    net = conv.supernet(conv.space(widths=((4, 6), (6,)), depths=(1, 2), kernels=(3,), ratios=(1, 2), stem=4))
    return training(net=net, **{"cost": None, "target": None, "estimator": MaskGates(), "batch": 16, **options})


def test_decisions_whose_masks_are_no_subnets_get_another_estimator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said once, kept in the checkpoint, and the others have the gates that they had."""
    options: dict[str, Any] = {"steps": 8, "warmup": 0.0}
    whole = widened(**options)
    full = whole.run(progress=True)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "MaskGates" in line]
    assert said.startswith(
        "MaskGates: 6 decisions by gates, and 'widths[0]' by ScoreFunction, since of 'widths[0]' 4 computes"
    )
    widened(path=tmp_path, **options).run(progress=False, until=3)
    again = widened(path=tmp_path, **options)
    assert equal(full.supernet, again.run(progress=False).supernet)
    assert policy_of(again).logits == policy_of(whole).logits
    assert all(any(policy_of(again).logits[name]) for name in ("widths[0]", "ratios[0][0]", "depths[1]"))
    read = widened(path=tmp_path, **options)
    read.load()
    assert {*policy_of(read).ungated} == {"widths[0]"}
    assert not gated().run(progress=False).supernet.training
    ours = widened(task=double(160))
    ours.supernet.double()
    assert_slopes(Learner(ours, Ranks(), {}), felt=2)


def test_gates_of_all_decisions_can_be_demanded() -> None:
    sentence = (
        "needs the largest arch with masks to equal the subnets in every decision, and in 'widths.0.' it does not"
    )
    with pytest.raises(TrainError, match=sentence + r": 4 computes .* use nas\.Flip\(\) or nas\.ScoreFunction\(\)"):
        widened(estimator=MaskGates(exact=True)).run(progress=False)
    space = nas.Space(smooth(rate=pg.floatv(0.0, 0.5)), name="smooth")
    with pytest.raises(TrainError, match="subnets in a decision, and in 'rate' it does not: it is a number"):
        training(
            net=Supernet(space, example=torch.zeros(1, 1, 8, 8)), cost=None, target=None, estimator=MaskGates()
        ).run(progress=False)
    with pytest.raises(TrainError, match=r"others=Flip\(draws=1, flips=None\), which has no effect with exact=True"):
        MaskGates(exact=True, others=Flip(1))
    for others in (Flip(2), MaskGates(1)):
        with pytest.raises(
            TrainError, match=r"MaskGates has draws=1 and others=.*; give one without gates, of as many draws"
        ):
            MaskGates(1, others=others)


@nas.model
def smooth(rate: float) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LeakyReLU(rate), nn.Linear(8, 10))


def test_what_gates_cannot_do_is_refused() -> None:
    with pytest.raises(
        TrainError, match="MaskGates follows the loss's gradient, and Policy has quality='max accuracy'"
    ):
        gated(quality="max accuracy")
    with pytest.raises(TrainError, match=r"temperature=\(1\.0,\); give the first and the last"):
        MaskGates(1, (1.0,))


# -- mixtures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [gated, cells])
def test_a_mixture_has_the_gradient_of_its_loss_by_the_logits(make: Callable[..., Training]) -> None:
    """Against central differences, in float64."""
    ours = make(cost=None, metric=None, target=None, task=double(160), estimator=Mixture())
    ours.supernet.double()
    learner = Learner(ours, Ranks(), {})
    learner._batches = learner._next()
    learner.distribution.values = np.random.default_rng(0).normal(size=learner.distribution.values.shape)

    def reward() -> float:
        return -learner.mixture()[0]

    found = Mixture().gradient(learner, [], [])
    assert found == pytest.approx(slope_of(learner.distribution, reward), abs=1e-6)
    assert np.count_nonzero(np.abs(found) > 1e-5) > 5


def test_a_mixture_of_cells_is_the_sum_of_operations_by_their_probabilities() -> None:
    """DARTS' own: against a cell that is written out."""
    ours = cells(estimator=Mixture())
    learner = Learner(ours, Ranks(), {})
    learner.distribution.values = np.random.default_rng(0).normal(size=30)
    images = torch.randn(8, 1, 8, 8)
    net, nodes = ours.supernet, []
    net.eval()
    models = [net.bind(net.space.arch(dict.fromkeys(nasbench201.EDGES, op))).module for op in nasbench201.OPS]
    for model in models:
        model.train()
    with torch.no_grad():
        shares = {
            edge: torch.tensor(learner.distribution.probabilities(p, range(5)))
            for p, edge in enumerate(nasbench201.EDGES)
        }
        nodes.append(models[0].stem(images))
        for into in (1, 2, 3):
            parts = [
                share * model.stages[0][0].get_submodule(f"e{into}{source}")[op](nodes[source])
                for source in range(into)
                for share, op, model in zip(shares[f"e{into}{source}"].float(), nasbench201.OPS, models, strict=True)
            ]
            nodes.append(torch.stack(parts).sum(0))
        expected = models[0].head(models[0].norm(nodes[-1]).relu().mean((2, 3)))
    torch.testing.assert_close(learner.mixed(images).detach(), expected, rtol=1e-4, atol=1e-5)


def test_weights_are_trained_on_the_mixture() -> None:
    """Of one step with SGD: every operation of every edge has the gradient of the mixture's loss."""
    ours = cells(estimator=Mixture(), steps=1, warmup=0.0, lr=1e-9)
    before = {name: one.detach().clone() for name, one in ours.supernet.named_parameters()}
    ours.run(progress=False)
    moved = {name for name, one in ours.supernet.named_parameters() if not torch.equal(one, before[name])}
    assert moved == {*before}
    alone = cells(estimator=Mixture(), steps=1, warmup=0.0, follow=0)
    before = {name: one.detach().clone() for name, one in alone.supernet.named_parameters()}
    alone.run(progress=False)
    assert any(torch.equal(one, before[name]) for name, one in alone.supernet.named_parameters())


def test_a_mixture_resumes_to_the_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"estimator": Mixture(), "steps": 8, "warmup": 0.25, "entropy": 0.01}
    whole = cells(**options)
    full = whole.run(progress=False)
    cells(path=tmp_path, **options).run(progress=False, until=5)
    again = cells(path=tmp_path, **options)
    assert equal(full.supernet, again.run(progress=False).supernet)
    assert policy_of(again).logits == policy_of(whole).logits
    assert full.history["policy_quality"].iloc[-1] == pytest.approx(-full.history["policy_reward"].iloc[-1])
    assert policy_of(again).likeliest in {*policy_of(again).archs(20), policy_of(again).likeliest}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"cost": params, "target": 16.0},
            "Mixture follows the loss of a mixture, which has no cost, and Policy was given one",
        ),
        (
            {"loss": nas.InPlace()},
            r"Mixture trains the weights on a mixture of archs, and InPlace teaches each; give loss=nas\.Labels",
        ),
        ({"quality": "max accuracy"}, "Mixture follows the loss's gradient, and Policy has quality='max accuracy'"),
    ],
)
def test_what_a_mixture_cannot_do_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        cells(estimator=Mixture(), **options)


def test_a_mixture_needs_all_decisions() -> None:
    sentence = "Mixture needs the largest arch with masks to equal the subnets in every decision, and in 'widths.0.' it does not"
    with pytest.raises(TrainError, match=sentence):
        widened(estimator=Mixture()).run(progress=False)


# -- published settings ----------------------------------------------------------------------------------------------------


def published_settings(net: Supernet) -> dict[str, dict[str, Any]]:
    cost: Any = nas.Costs(net)
    return {
        "tunas": published.tunas(cost, 12_000.0, steps=12, metric="macs", batch=16),
        "enas": published.enas(every=4),
        "proxylessnas": published.proxylessnas(cost, 12_000.0, metric="macs"),
        "gdas": published.gdas(lr=0.1),
        "darts": published.darts(lr=0.1),
    }


@pytest.mark.parametrize("name", ["tunas", "enas", "proxylessnas", "gdas", "darts"])
def test_published_settings_train(name: str) -> None:
    net = conv.supernet(conv.space(widths=((4,),), depths=(1, 2), kernels=(3,), ratios=(1, 2), stem=4))
    options = published_settings(net)[name]
    Training(net, blobs(n=320), steps=12, validate_every=12, **options).run(progress=False)
    assert any(any(logits) for logits in options["policy"].logits.values())


def test_published_settings_are_their_authors() -> None:
    found = {name: options["policy"] for name, options in published_settings(supernet()).items()}
    assert found["tunas"].lr == pytest.approx(3e-4 * 16 / 256)
    assert (found["tunas"].growth, found["tunas"].batches, found["tunas"].warmup) == (10.0, 4, 0.25)
    assert (found["enas"].estimator.draws, found["enas"].entropy) == (20, 1e-4)
    assert (found["proxylessnas"].every, found["proxylessnas"].reward) == (5, LinearReward(-0.1))
    assert found["gdas"].estimator.temperature == (10.0, 0.1)
    assert found["gdas"].lr == 0.1  # given by name
    assert found["darts"].estimator == Mixture()
    assert (found["darts"].betas, found["darts"].weight_decay, found["darts"].share) == ((0.5, 0.999), 1e-3, 0.5)


def test_a_warm_up_of_the_largest_arch_fades() -> None:
    ours = supernet().space
    sampler = Widened(Uniform(1), 100)
    largest = [
        sum(sampler.archs(ours, step, random.Random(seed)) == [ours.largest] for seed in range(300)) / 300
        for step in (0, 50, 100, 500)
    ]
    assert largest[0] == 1.0
    assert largest[1] == pytest.approx(0.5 + 0.5 / 6, abs=0.1)
    assert largest[2] == pytest.approx(1 / 6, abs=0.08)
    assert largest[3] == largest[2]


# -- data ------------------------------------------------------------------------------------------------------------------


def rows(task: Task) -> set[bytes]:
    return {row.numpy().tobytes() for batch in task.train_batches(0) for row in batch.inputs}  # type: ignore[union-attr]


def test_the_policy_has_training_samples_of_its_own() -> None:
    task = blobs(n=160)
    weights, own = task.divided(0.25, 4)
    assert isinstance(weights, Classification)
    assert isinstance(own, Classification)
    assert (len(weights.train[0]), len(own.train[0]), own.batch) == (120, 40, 4)
    all_rows = {row.numpy().tobytes() for row in task.train[0]}
    kept, held = ({row.numpy().tobytes() for row in one.train[0]} for one in (weights, own))
    assert not kept & held
    assert kept | held == all_rows
    assert torch.equal(own.valid[0], task.valid[0])
    ours = training(task=task, share=0.25, batch=4)
    assert rows(ours.held_out) <= held
    assert rows(ours.data) <= kept
    assert ours.steps_per_epoch == 120 // 16


def test_arrays_and_data_sets_of_a_user_are_divided_and_their_scale_stays() -> None:
    x, y = torch.randn(50, 3), torch.randn(50) * 5 + 2
    data = torch.utils.data.TensorDataset(x, y)
    for given in ((x, y), data):
        task = Regression(given, (x[:5] + 1, y[:5]), batch=5)
        weights, own = task.divided(0.2)
        assert (weights.steps_per_epoch, own.steps_per_epoch) == (8, 2)
        assert not rows(weights) & rows(own)
        for part in (weights, own):
            assert isinstance(part, Regression)
            assert [one.tolist() for one in part.scale] == [one.tolist() for one in task.scale]
    loader = torch.utils.data.DataLoader(data, batch_size=5)
    with pytest.raises(TrainError, match=r"a Regression cannot hold out a part .* Policy\(task=…\)"):
        Regression(loader, (x[:5] + 1, y[:5]), standardise=False).divided(0.2)
    with pytest.raises(TrainError, match=r"share=0\.05 of 50 training samples leaves 48 for batches of 5, and 2"):
        task.divided(0.05)


def test_another_task_gives_the_batches() -> None:
    other = blobs(n=32, seed=9, batch=8)
    ours = Training(supernet(), blobs(n=64), policy=Policy(task=other), steps=8, sampler=Uniform(1), loss=Labels())
    assert ours.held_out is other
    assert ours.data is ours.task
    ours.run(progress=False)
    assert policy_of(ours).logits


# -- several processes -----------------------------------------------------------------------------------------------------


def still() -> Supernet:
    space = nas.Space(mlp(width=pg.oneof([8, 16, 32]), depth=pg.oneof([0, 1]), dropout=0.0), name="still")
    return Supernet(space, example=torch.zeros(1, 1, 8, 8).double()).double()


def double(n: int) -> Classification:
    task = blobs(n=n)
    parts = [(one[0].double(), one[1]) for one in (task.train, task.valid, task.test)]
    return Classification(*parts, batch=16)


def learnt(ranks: Ranks | None = None) -> Found:
    ours = training(net=still(), task=double(160), estimator=ScoreFunction(3), quality="min loss")
    ours.run(progress=False, ranks=ranks)
    values = torch.from_numpy(policy_of(ours).learnt.values)
    return {"policy": values, **ours.supernet.state_dict()}


def test_several_processes_learn_the_policy_of_one(tmp_path: Path) -> None:
    first, other = in_ranks(2, in_group, tmp_path)
    alone = learnt()
    assert alone["policy"].any()
    for name, value in alone.items():
        assert torch.equal(first[name], other[name]), name
        assert torch.allclose(first[name].double(), value.double(), rtol=1e-6, atol=1e-6), name


def in_group() -> Found:
    return learnt(Group())


def mixed(ranks: Ranks | None = None) -> Found:
    space = nasbench201.space(width=4, cells=1, stages=1, channels=1)
    net = nasbench201.supernet(space, side=8).double()
    ours = training(net=net, task=double(160), cost=None, target=None, estimator=Mixture(), steps=8)
    ours.run(progress=False, ranks=ranks)
    return {"policy": torch.from_numpy(policy_of(ours).learnt.values), **ours.supernet.state_dict()}


def mixed_in_group() -> Found:
    return mixed(Group())


def test_several_processes_learn_the_mixture_of_one(tmp_path: Path) -> None:
    """Normalised by the whole batch, forward and backward."""
    first, other = in_ranks(2, mixed_in_group, tmp_path)
    alone = mixed()
    assert alone["policy"].any()
    for name, value in alone.items():
        assert torch.equal(first[name], other[name]), name
        assert torch.allclose(first[name].double(), value.double(), rtol=1e-6, atol=1e-6), name


# -- mistakes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": None}, "given a cost and no target"),
        ({"cost": None}, "given target=32 and no cost"),
        ({"cost": None, "target": None, "metric": "macs"}, "metric='macs', which has no effect without a cost"),
        ({"warmup": 1.0}, "warmup=1, which leaves it no step"),
        ({"follow": 9}, "follow=9 and an estimator of 4 draws"),
        ({"betas": (0.9, 1.0)}, r"betas=\(0\.9, 1\.0\)"),
        ({"quality": "max f1"}, "quality='max f1', and the task measures accuracy, loss"),
        ({"quality": "accuracy"}, "objective 'accuracy' is not understood"),
        ({"quality": "min loss", "reward": ProductReward()}, "ProductReward multiplies the quality, and 'min loss'"),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        training(**options)


def test_sizes_of_what_is_held_out_have_no_effect_beside_a_task() -> None:
    for name, value in (("share", 0.1), ("batch", 8)):
        with pytest.raises(TrainError, match=f"{name}={value}, which has no effect beside task="):
            Policy(task=blobs(), **{name: value})  # type: ignore[arg-type]


def two(arch: nas.Arch) -> dict[str, float]:
    return {"params": params(arch), "macs": 1.0}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": 7.0}, r"target=7 is out of reach: archs of space 'mlp' cost 8 to 64"),
        ({"target": 65.0}, r"target=65 is out of reach: archs of space 'mlp' cost 8 to 64"),
        ({"cost": two}, "cost gives params, macs; say which counts, as metric='params'"),
        ({"cost": two, "metric": "latency"}, "metric='latency', and its cost gives params, macs"),
        ({"metric": "macs"}, "metric='macs', and its cost gives one number"),
        ({"cost": lambda arch: "many"}, "cost of an arch is 'many'"),
        ({"cost": lambda arch: float("nan")}, "cost of an arch is nan"),
        ({"batch": 100}, "leaves 128 for batches of 16, and 32 for the policy's of 100"),
    ],
)
def test_what_a_space_or_a_cost_cannot_give_is_said_before_a_step(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        training(**options).run(progress=False)


def crooked(arch: nas.Arch) -> float:
    """The largest arch and the smallest cost the same."""
    return abs(params(arch) - 36.0)


def test_extremes_of_a_space_need_not_be_those_of_its_cost() -> None:
    training(cost=crooked, target=10.0).run(progress=False)  # from 4 to 28, which both extremes cost
    with pytest.raises(TrainError, match="target=3 is out of reach: archs of space 'mlp' cost 4 to 28"):
        training(cost=crooked, target=3.0).run(progress=False)


def test_options_are_described() -> None:
    one, other = training().config, training(growth=2.0).config
    assert "policy" not in Training(supernet(), blobs()).config
    assert one["policy"]["estimator"] == {"class": "ScoreFunction", "draws": 4, "baseline": 0.95}
    changed = [name for name in one["policy"] if one["policy"][name] != other["policy"][name]]
    assert changed == ["growth"]
