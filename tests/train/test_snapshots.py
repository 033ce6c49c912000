from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nas
from nas.errors import TrainError
from nas.train import Delayed, InPlace, Ramped, Sandwich, Snapshots, Step, Training, state, train
from tests.train.family import blobs, space, supernet


class Watching(Snapshots):
    """Shows what it keeps."""

    seen: list[tuple[int, nn.Module]]

    def begin(self, training: Training, kept: nn.Module, step: int) -> None:
        super().begin(training, kept, step)
        self.seen.append((step, kept))


def test_copies_are_the_largest_arch_of_their_steps() -> None:
    Watching.seen = []
    net, task = supernet(), blobs()
    options: dict[str, Any] = {"sampler": Delayed(Sandwich(1), 6), "lr": 1e-2, "progress": False}
    train(net, task, loss=Watching((2, 5)), steps=6, **options)
    kept = Watching.seen[-1][1]
    assert isinstance(kept, nn.ModuleList)
    assert all(module is kept for _, module in Watching.seen)
    assert not any(parameter.requires_grad for parameter in kept.parameters())
    assert not any(module.training for module in kept.modules())
    images = next(task.valid_batches()).inputs
    outputs = [copy(images) for copy in kept]
    assert not torch.equal(outputs[0], outputs[1])
    for steps, output in zip((2, 5), outputs, strict=True):
        again = supernet()
        stop = Stopping(steps)
        with pytest.raises(Stop):
            train(again, task, loss=stop, steps=6, **options)
        largest = again.space.largest
        again.eval()
        buffers = again.calibrate(largest, task.calibration_inputs())
        torch.testing.assert_close(again(images, largest, buffers), output)


class Stop(Exception):
    """The step was reached."""


class Stopping(InPlace):
    """Stops before a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        object.__setattr__(self, "step", step)

    def keep(self, training: Training) -> nn.Module:
        return nn.Identity()

    def begin(self, training: Training, kept: nn.Module, step: int) -> None:
        if step == self.step:  # type: ignore[attr-defined]
            raise Stop


def test_the_target_is_the_mean_of_the_softened_distributions() -> None:
    task, ours = blobs(), space()
    batch = next(task.train_batches(0))
    torch.manual_seed(0)
    large, small = torch.randn(16, 10), torch.randn(16, 10, requires_grad=True)
    copies = nn.ModuleList(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2))
    loss = Snapshots((3, 7), temperature=2.0, labels=0.25)
    for number, count in ((2, 0), (3, 1), (6, 1), (7, 2)):
        step = Step(number, task, ours, [ours.largest, ours.smallest], ours.largest, kept={loss: copies})
        assert loss(large, batch, step).item() == pytest.approx(task.loss(large, batch).item())
        step.arch = ours.smallest
        found = loss(small, batch, step)
        teachers = [large, *(copy(batch.inputs).detach() for copy in list(copies)[:count])]
        p = sum(torch.softmax(one / 2.0, 1) for one in teachers) / len(teachers)
        log_q = torch.log_softmax(small / 2.0, 1)
        soft = 4.0 * (p * (p.log() - log_q)).sum(1).mean()
        assert found.item() == pytest.approx((0.25 * task.loss(small, batch) + 0.75 * soft).item(), rel=1e-4)
    found.backward()
    assert all(parameter.grad is None for parameter in copies.parameters())


def test_without_a_copy_yet_it_is_in_place_distillation() -> None:
    nets = [supernet(), supernet()]
    for net, loss in zip(nets, (Snapshots((7,)), InPlace()), strict=True):
        with pytest.raises(Stop):
            train(net, blobs(), sampler=Sandwich(1), loss=After(loss, 5), steps=8, optimizer="sgd", progress=False)
    ours, plain = (net.state_dict() for net in nets)
    assert all(torch.allclose(ours[name], plain[name], atol=1e-5) for name in ours)


class After(Ramped):
    """A loss that stops before a step, and weighs subnets fully."""

    def __init__(self, loss: Any, step: int) -> None:
        super().__init__(loss, 0, 1)
        object.__setattr__(self, "stop", step)

    def __call__(self, output: Any, batch: Any, step: Step) -> Any:
        if step.number == self.stop:  # type: ignore[attr-defined]
            raise Stop
        return self.loss(output, batch, step)


class Killed(BaseException):
    """Nobody handles it, as nobody handles a kill."""


def test_copies_resume_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def training(folder: str) -> Training:
        return Training(
            supernet(), blobs(), path=tmp_path / folder, sampler=Delayed(Sandwich(1), 6), steps=11, lr=1e-2,
            loss=Ramped(Snapshots((2, 5)), 6, 3), checkpoint_every=1,
        )  # fmt: skip

    whole = training("whole").run(progress=False).supernet.state_dict()
    real = state.write
    for fatal in (1, 4, 8):

        def dying(path: Path, at: state.State, *rest: Any, fatal: int = fatal) -> None:
            real(path, at, *rest)
            if at.step == fatal:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(state, "write", dying)
            with pytest.raises(Killed):
                training("killed").run(progress=False)
    resumed = training("killed").run(progress=False).supernet.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    other = supernet()
    train(
        other, blobs(), sampler=Delayed(Sandwich(1), 6), steps=11, lr=1e-2, loss=Ramped(InPlace(), 6, 3), progress=False
    )
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Snapshots(()), "rising positive steps"),
        (lambda: Snapshots((5, 3)), "rising positive steps"),
        (lambda: Snapshots((0,)), "rising positive steps"),
        (lambda: Snapshots((3,), labels=1.0), "labels=1.0"),
        (lambda: Snapshots((3,), temperature=0.0), "temperature=0.0"),
        (lambda: train(supernet(), blobs(), loss=Snapshots((2, 9)), steps=9, progress=False), "last step is 8"),
    ],
)
def test_options_without_effect_are_refused(make: Any, sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        make()


def test_any_sampler_goes_with_it() -> None:
    for sampler in (nas.Uniform(1), Sandwich(0)):
        train(supernet(), blobs(), sampler=sampler, loss=Snapshots((1,)), steps=3, progress=False)
    assert Snapshots((1,)).describe() != Snapshots((2,)).describe()
