from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.errors import TrainError
from nas.supernet import Supernet
from nas.train import (
    RKD,
    AttentionTransfer,
    Comparison,
    ExitMean,
    Features,
    Hint,
    InPlace,
    Labels,
    Loss,
    Ramped,
    Sandwich,
    SimilarityPreserving,
    SortedExits,
    Step,
    Teacher,
    Training,
    Uniform,
    distillation,
    state,
    train,
)
from nas.train.features import alike
from nas.train.losses import look
from nas.train.taps import check, has, tapped
from nas.train.trunk import featured, groups
from searchspaces import conv, matryoshka
from tests.train.family import blobs, supernet

LAYER = "body.1"  # (n, width) before BatchNorm


class Net(nn.Module):
    """A teacher of another class, wider than any student."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(inplace=True))
        self.head = nn.Linear(48, 10)
        self.unused = nn.Linear(1, 1)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.inner(x))


def hooks(module: nn.Module) -> int:
    return sum(len(one._forward_hooks) for one in module.modules())


# -- taps


def test_what_is_tapped_is_the_layers_output_before_it_is_changed_in_place() -> None:
    net, x = Net(), torch.randn(4, 1, 8, 8)
    with tapped(net, ["inner.1", "inner.2", "elsewhere"]) as found:
        net(x)
    linear = net.inner[1](x.flatten(1))
    assert (linear < 0).any()
    torch.testing.assert_close(found["inner.1"], linear)
    torch.testing.assert_close(found["inner.2"], linear.relu())
    assert set(found) == {"inner.1", "inner.2"}
    found["inner.1"].sum().backward()
    assert net.inner[1].weight.grad is not None
    assert hooks(net) == 0


def test_layers_are_alike_by_name_and_shape() -> None:
    class Blocks(nn.Module):
        def __init__(self, *widths: int, last: int = 10) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 8)) for width in widths
            )
            self.unused, self.plain = nn.ModuleList([nn.Linear(8, 8)]), nn.ModuleList([nn.ReLU()])
            self.heads = nn.ModuleList([nn.Linear(8, last)])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = x + block(x)
            return self.heads[0](self.plain[0](x))

    x, teacher = torch.randn(3, 8), Blocks(16, 16, 16)
    assert alike(Blocks(4, 16, 16), teacher, x) == ["blocks.0", "blocks.1", "blocks.2"], "no layers inside of them"
    assert alike(Blocks(4, 16), teacher, x) == ["blocks.0", "blocks.1"]
    assert alike(Blocks(4, 16, last=9), teacher, x) == ["blocks.0", "blocks.1"], "the output is no hidden state"
    assert alike(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 10)), teacher, x) == []
    assert hooks(teacher) == 0
    assert teacher.training


def test_hooks_go_whatever_happens() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return {"none": 3}

    net = Net()
    with pytest.raises(RuntimeError, match="mat1 and mat2"), tapped(net, ["inner", "head"]):
        net(torch.randn(4, 3))
    assert hooks(net) == 0
    strange = nn.Sequential(Pair())
    with pytest.raises(TrainError, match="layer '0' gives a dict"), tapped(strange, ["0"]):
        strange(torch.zeros(1))
    assert hooks(strange) == 0


def test_the_first_tensor_of_an_output_is_taken() -> None:
    attention = nn.Sequential()
    attention.inner = nn.LSTM(3, 4)
    with tapped(attention, ["inner"]) as found:
        output, _ = attention.inner(torch.randn(2, 3))
    torch.testing.assert_close(found["inner"], output)


def test_a_layer_that_is_not_there_says_which_are() -> None:
    with pytest.raises(TrainError, match="has no layer 'inner.7'; there are: inner.0, inner.1, inner.2"):
        check(Net(), ["inner.7"], "the net")
    with pytest.raises(TrainError, match="has no layer 'haed'; there are: inner, head, .*; did you mean 'head'"):
        check(Net(), ["inner", "haed"], "the net")
    assert has(Net(), "inner.1")
    assert not has(Net(), "inner.1.weight")


def test_exits_that_share_a_trunk_get_the_features_of_their_own_models() -> None:
    net = matryoshka.supernet(matryoshka.space(dims=(8, 16), depths=(1, 2), width=16, head=8)).eval()
    archs, images = list(net.space.enumerate()), torch.randn(3, 1, 8, 8)
    names = ("blocks.0", "blocks.1", "norm")
    (group,) = groups(net, archs)
    together = {arch: features for arch, _, features in featured(net, group, images, names)}
    for arch in archs:
        ((_, _, alone),) = featured(net, [arch], images, names)
        assert set(alone) == set(together[arch]) == {name for name in names if has(net.bind(arch).module, name)}
        for name, value in alone.items():
            torch.testing.assert_close(together[arch][name], value)
    assert "blocks.1" not in together[net.space.smallest]


# -- the loss


def by_hand(loss: Features, net: Any, task: Any) -> list[Tensor]:
    """Values of the loss for largest and smallest, from the outputs and features of two forwards."""
    batch, space = next(task.train_batches(0)), net.space
    archs = loss.archs([space.smallest], space)
    step = Step(0, task, space, archs, archs[0])
    values = []
    for step.arch in archs:
        ((_, output, step.features),) = featured(net, [step.arch], batch.inputs, loss.taps)
        values.append(loss(output, batch, step))
    return values


@pytest.mark.parametrize("compare", [RKD(), SimilarityPreserving()])
def test_in_place_subnets_learn_the_features_of_the_largest(compare: Comparison) -> None:
    net, task = supernet().eval(), blobs()
    batch, large, small = next(task.train_batches(0)), net.space.largest, net.space.smallest
    found = by_hand(Features(LAYER, compare, InPlace(), weight=0.5), net, task)
    with torch.no_grad():
        modules = [net.extract(arch) for arch in (large, small)]
        features = [module.body[:2](batch.inputs) for module in modules]
        scores = [module(batch.inputs) for module in modules]
    assert found[0].item() == pytest.approx(task.loss(scores[0], batch).item(), rel=1e-5)
    expected = distillation(scores[1], scores[0]) + 0.5 * compare(features[1], features[0])
    assert found[1].item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_teacher_of_another_class_looks_once_for_outputs_and_features() -> None:
    net, task, teacher = supernet().eval(), blobs(), Net()
    loss = Features({LAYER: "inner.1"}, RKD(), Teacher(teacher, weight=0.3), weight=2.0, teacher=teacher)
    for part in loss.within():
        part.prepare(torch.device("cpu"))
    batch, space, step = next(task.train_batches(0)), net.space, None
    archs = loss.archs([space.smallest, space.largest], space)
    assert archs == [space.smallest, space.largest]  # nobody needs to be first
    step = Step(0, task, space, archs, archs[0])
    for step.arch in archs:
        ((_, output, step.features),) = featured(net, [step.arch], batch.inputs, loss.taps)
        found = loss(output, batch, step)
        expected = Teacher(teacher, weight=0.3)(output, batch, step) + 2.0 * RKD()(
            step.features[LAYER], teacher.inner[1](batch.inputs.flatten(1))
        )
        assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert teacher.calls == 1
    look(teacher, batch, step, ["head"])
    assert teacher.calls == 2
    found.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_layers_that_a_shallow_arch_lacks_are_not_taught_it() -> None:
    net, task = supernet().eval(), blobs()
    deep = "body.6"  # only at depth 1
    assert has(net.bind(net.space.largest).module, deep)
    plain = by_hand(Features(LAYER, RKD(), Labels()), net, task)
    both = by_hand(Features([LAYER, deep], RKD(), Labels()), net, task)
    assert [one.item() for one in both] == [one.item() for one in plain]


@pytest.fixture(scope="module")
def family() -> tuple[Supernet, nn.Module]:
    """Untrained, and another one's largest network."""
    space = conv.space(widths=((8,), (8, 12)), depths=(1, 2), kernels=(3,), ratios=(1, 2), stem=8)
    return conv.supernet(space), conv.supernet(space, seed=5).extract(space.largest)


def taught(family: tuple[Supernet, nn.Module], loss: Loss) -> Supernet:
    """A copy, trained by `loss`, which leaves nothing behind."""
    net, teacher = copy.deepcopy(family[0]), family[1]
    torch_state = torch.get_rng_state()
    train(net, blobs(), sampler=Sandwich(1), loss=loss, steps=25, lr=5e-3, progress=False)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert hooks(net.bind(net.space.largest).module) == hooks(teacher) == 0
    return net.train()


@pytest.fixture(scope="module")
def untaught(family: tuple[Supernet, nn.Module]) -> Supernet:
    return taught(family, InPlace())


@pytest.mark.parametrize(
    ("compare", "weight"), [(AttentionTransfer(), 1000.0), (RKD(), 1.0), (SimilarityPreserving(), 3000.0)]
)
@pytest.mark.parametrize("outer", [False, True])
def test_training_with_features_teaches_features(
    compare: Comparison, weight: float, outer: bool, family: tuple[Supernet, nn.Module], untaught: Supernet
) -> None:
    """The weights are the authors'."""
    teacher: Any = family[1]
    distances = []
    for net in (untaught, taught(family, Features("stages.1", compare, InPlace(), weight, teacher if outer else None))):
        batch = next(blobs().train_batches(1))
        with torch.no_grad():
            ours, theirs = (
                next(featured(net, [arch], batch.inputs, ["stages.1"]))[2]["stages.1"]
                for arch in (net.space.smallest, net.space.largest)
            )
            distances.append(compare(ours, teacher.stages(teacher.stem(batch.inputs)) if outer else theirs).item())
    assert distances[1] < 0.9 * distances[0]


def test_a_learned_projection_is_trained_and_so_lowers_the_distance() -> None:
    net, task, teacher = supernet(), blobs(), Net()
    loss = Features({LAYER: "inner.1"}, Hint(), weight=1.0, teacher=teacher)
    training = Training(net, task, sampler=Uniform(1), loss=loss, steps=30, lr=1e-2)
    before = loss.keep(training)
    assert before is not None
    assert [tuple(one.shape) for one in before.parameters()] == [(48, 32), (48,)]
    again = loss.keep(training)
    assert again is not None
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), again.parameters(), strict=True))
    seen: list[nn.Module] = []

    class Watching(Features):
        def begin(self, training: Training, kept: nn.Module, step: int) -> None:
            seen.append(kept)

    watching = Watching(loss.layers, loss.compare, weight=10.0, teacher=teacher)
    batch = next(task.train_batches(1))

    def distance(projections: nn.Module) -> float:
        with torch.no_grad():
            ((_, _, found),) = featured(net.train(), [net.space.smallest], batch.inputs, [LAYER])
            return Hint()(found[LAYER], teacher.inner[1](batch.inputs.flatten(1)), projections[0]).item()  # type: ignore[index]

    start = distance(before)
    train(net, task, sampler=Uniform(1), loss=watching, steps=30, lr=1e-2, progress=False)
    assert len(seen) == 30
    assert all(kept is seen[0] for kept in seen)
    assert all(not torch.equal(a, b) for a, b in zip(before.parameters(), seen[0].parameters(), strict=True))
    assert distance(seen[0]) < 0.7 * start


# -- resuming


class Killed(BaseException):
    """Nobody handles it, as nobody handles a kill."""


LOSSES: dict[str, Callable[[], Loss]] = {
    "outer": lambda: Features({LAYER: "inner.1"}, Hint(), Teacher(Net()), teacher=Net()),
    "in place": lambda: Features([LAYER, "body"], Hint(), InPlace()),
    "twice": lambda: Features(LAYER, Hint(), Ramped(Features("body", Hint(), InPlace()), 2, 4)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_projections_resume_to_the_bit(
    name: str, optimizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training(folder: str) -> Training:
        return Training(
            supernet(), blobs(), path=tmp_path / folder, sampler=Uniform(1), loss=LOSSES[name](), steps=9, lr=1e-2,
            optimizer=optimizer, checkpoint_every=1,
        )  # fmt: skip

    whole = training("whole").run(progress=False).supernet.state_dict()
    real = state.write
    for fatal in (1, 5):

        def dying(path: Path, at: state.State, *rest: Any, fatal: int = fatal) -> None:
            real(path, at, *rest)
            if at.step == fatal:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(state, "write", dying)
            with pytest.raises(Killed):
                training("killed").run(progress=False)
        assert (tmp_path / "killed" / f"step-{fatal:08d}" / state.KEPT).exists()
    resumed = training("killed").run(progress=False).supernet.state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_another_comparison_or_projection_is_another_training() -> None:
    losses = [
        Features(LAYER, RKD()),
        Features(LAYER, RKD(angle=1.0)),
        Features("body", RKD()),
        Features(LAYER, RKD(), InPlace()),
        Features(LAYER, RKD(), weight=2.0),
        Features(LAYER, RKD(), teacher=Net()),
        Features(LAYER, RKD(), teacher=Net(1)),
        Features(LAYER, Hint()),
        Features(LAYER, Hint("none")),
    ]
    assert len({str(loss.describe()) for loss in losses}) == len(losses)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (lambda: Features("body.9", RKD()), "the largest arch of space 'mlp' has no layer 'body.9'"),
        (
            lambda: Features({LAYER: "iner.1"}, RKD(), teacher=Net()),
            "the teacher, a Net, has no layer 'iner.1'; there are: .*; did you mean",
        ),
        (lambda: Features({LAYER: "unused"}, RKD(), teacher=Net()), "'unused' of a Net is there and is not called"),
        (lambda: Features(LAYER, Hint({})), "no projection for layer 'body.1'"),
        (lambda: Features((), RKD()), "give the names of layers"),
        (lambda: Features("", RKD()), "give the names of layers"),
        (lambda: Features(LAYER, Labels()), "compare=a Labels; it is a nas.train.Comparison"),
        (lambda: Features(LAYER, RKD(), RKD()), "loss=a RKD; it is a nas.train.Loss"),
        (lambda: Features(LAYER, RKD(), weight=0.0), "weight=0.0"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(loss: Callable[[], Any], sentence: str) -> None:
    net = supernet()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(TrainError, match=sentence):
        train(net, blobs(), loss=loss(), steps=2, progress=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


# -- multi-exit self-distillation


def test_be_your_own_teacher_is_the_features_of_exits_beside_in_place() -> None:
    """Zhang et al. 2019: (1 − α) CE + α KL(deepest) + λ ‖F − F(deepest)‖², and labels alone for the deepest."""
    net = matryoshka.supernet(matryoshka.space(dims=(16,), depths=(1, 2, 3), width=16, head=8)).eval()
    task, alpha, weight, temperature = blobs(), 0.3, 0.03, 3.0
    loss = Features("norm", Hint("none"), InPlace(temperature=temperature, labels=1.0 - alpha), weight=weight)
    archs = loss.archs(SortedExits().archs(net.space, 0, None), net.space)  # type: ignore[arg-type]
    batch, step = next(task.train_batches(0)), Step(0, task, net.space, archs, archs[0])
    assert [arch.choices["depth"] for arch in archs] == [3, 2, 1]
    (group,) = groups(net, archs)
    modules = [net.extract(arch) for arch in archs]
    with torch.no_grad():
        scores = [module(batch.inputs) for module in modules]
        last = [module.embed(batch.inputs) for module in modules]
    for place, (step.arch, output, step.features) in enumerate(featured(net, group, batch.inputs, loss.taps)):
        labels = task.loss(scores[place], batch)
        soft = distillation(scores[place], scores[0], temperature)
        hint = (last[place] - last[0]).square().mean()
        expected = labels if place == 0 else (1 - alpha) * labels + alpha * soft + weight * hint
        assert loss(output, batch, step).item() == pytest.approx(expected.item(), rel=1e-4)
    plain = ExitMean(distill=alpha, temperature=temperature)  # without features, and averaged over the exits
    by_hand = InPlace(temperature=temperature, labels=1.0 - alpha)
    step = Step(0, task, net.space, archs, archs[0])
    for step.arch, score in zip(archs, scores, strict=True):
        assert 3 * plain(score, batch, step).item() == pytest.approx(by_hand(score, batch, step).item(), rel=1e-5)
    result = train(net, task, sampler=SortedExits(), loss=loss, steps=3, progress=False)
    assert result.steps == 3
