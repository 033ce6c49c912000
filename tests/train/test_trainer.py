from __future__ import annotations

import itertools
import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyglove as pg
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import CheckpointError, DeviceError, TrainError
from nas.supernet import Supernet
from nas.train import (
    Batch,
    Classification,
    InPlace,
    Labels,
    Loss,
    Sampler,
    Sandwich,
    Schedule,
    Step,
    Teacher,
    Training,
    Uniform,
    subnet_metrics,
    train,
)
from nas.train.task import mixed
from tests.train.family import blobs, mlp, space, supernet

QUICK: dict[str, Any] = {"steps": 12, "lr": 1e-2, "validate_every": 6}


def teacher() -> Teacher:
    torch.manual_seed(1)
    return Teacher(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SAMPLERS = [Uniform(1), Uniform(2), Sandwich(0), Sandwich(2)]
LOSSES = [Labels(), teacher(), InPlace(), InPlace(2.0, labels=0.3)]


@pytest.mark.parametrize(("sampler", "loss"), list(itertools.product(SAMPLERS, LOSSES)), ids=lambda one: repr(one)[:22])
def test_any_sampler_goes_with_any_loss(sampler: Sampler, loss: Loss) -> None:
    net = supernet()
    before = subnet_metrics(net, net.space.largest, blobs())["loss"]
    result = train(net, blobs(), sampler=sampler, loss=loss, progress=False, **QUICK)
    assert subnet_metrics(net, net.space.largest, blobs())["loss"] < before
    assert result.steps == 12


def test_every_subnet_learns() -> None:
    net = supernet()
    train(net, blobs(n=200), steps=150, lr=1e-2, progress=False)
    accuracies = [subnet_metrics(net, arch, blobs(n=200), "test")["accuracy"] for arch in net.space.enumerate()]
    assert min(accuracies) > 0.85


class Recorded(Sampler):
    """Always the same archs."""

    def __init__(self, chosen: list[nas.Arch]) -> None:
        self.chosen = chosen

    def archs(self, space: nas.Space, step: int, rng: random.Random) -> list[nas.Arch]:
        return list(self.chosen)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_sums_gradients_clips_and_decays_matrices_only(optimizer: str) -> None:
    """Against the same two steps written out with functional calls and PyTorch's unfused optimizers."""
    # No dropout: it would draw different numbers in the two computations.
    task, ours = blobs(), nas.Space(mlp(width=pg.oneof([8, 16]), depth=pg.oneof([0, 1]), dropout=0.0), name="still")
    net, twin = Supernet(ours, seed=0), Supernet(ours, seed=0)
    archs = [ours.largest, ours.smallest]
    train(
        net, task, sampler=Recorded(archs), loss=Labels(), optimizer=optimizer, steps=2, lr=0.05, warmup=1,
        weight_decay=0.3, clip=0.5, progress=False,
    )  # fmt: skip
    groups = [
        {"params": [p for p in twin.parameters() if p.ndim >= 2], "weight_decay": 0.3},
        {"params": [p for p in twin.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    theirs: torch.optim.Optimizer = (
        torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True)
        if optimizer == "sgd"
        else torch.optim.AdamW(groups)
    )
    schedule = Schedule(0.05, 2, 1)
    twin.train()
    for step, batch in enumerate(itertools.islice(task.train_batches(0), 2)):
        for group in theirs.param_groups:
            group["lr"] = schedule(step)
        theirs.zero_grad()
        total = sum(task.loss(twin(batch.inputs, arch), batch) for arch in archs)
        total.backward()  # type: ignore[union-attr]
        norm = torch.sqrt(sum(p.grad.square().sum() for p in twin.parameters() if p.grad is not None))  # type: ignore[arg-type]
        for parameter in twin.parameters():
            assert parameter.grad is not None
            parameter.grad *= min(1.0, 0.5 / (norm.item() + 1e-6))
        theirs.step()
    for name, tensor in twin.named_parameters():
        if name == "body.1.bias":
            continue  # before a BatchNorm its gradient is rounding noise, which Adam blows up to a whole step
        assert torch.allclose(net.state_dict()[name], tensor, atol=1e-5), name


def test_the_same_seed_repeats_and_another_does_not() -> None:
    results = []
    for seed in (0, 0, 1):
        net = supernet()
        train(net, blobs(), seed=seed, progress=False, **QUICK)
        results.append(weights(net))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_random_states_of_the_process_are_left_alone() -> None:
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    train(supernet(), blobs(), progress=False, **QUICK)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_history_and_log_agree(tmp_path: Path) -> None:
    result = train(supernet(), blobs(), path=tmp_path, steps=25, validate_every=8, progress=False)
    assert result.history["step"].tolist() == [8, 10, 16, 20, 24, 25]
    assert result.history["lr"].tolist() == pytest.approx(
        [Schedule(2e-3, 25, 1)(step - 1) for step in (8, 10, 16, 20, 24, 25)]
    )
    assert result.history["epoch"].tolist() == [2.0, 2.5, 4.0, 5.0, 6.0, 6.25]
    assert result.history["largest_accuracy"].notna().tolist() == [True, False, True, False, True, True]
    logged = pd.read_csv(tmp_path / "log.csv")
    pd.testing.assert_frame_equal(logged[result.history.columns], result.history, check_dtype=False)
    assert list((tmp_path / "events").glob("events.out.tfevents.*"))
    assert not list(tmp_path.glob("step-*"))


def test_watched_accuracies_are_those_of_the_final_supernet(tmp_path: Path) -> None:
    net = supernet()
    last = train(net, blobs(), progress=False, **QUICK).history.iloc[-1]
    for label, arch in (("largest", net.space.largest), ("smallest", net.space.smallest)):
        assert last[f"{label}_accuracy"] == subnet_metrics(net, arch, blobs())["accuracy"]


def test_a_finished_training_is_loaded_not_repeated(tmp_path: Path) -> None:
    training = Training(supernet(), blobs(), path=tmp_path, **QUICK)
    assert not training.trained
    with pytest.raises(TrainError, match="no trained supernet is found in"):
        training.load()
    first = training.run(progress=False)
    assert training.trained
    again = Training(supernet(seed=9), blobs(), path=tmp_path, **QUICK)
    second = again.run(progress=False)
    assert same(weights(first.supernet), weights(second.supernet))
    pd.testing.assert_frame_equal(first.history, second.history)
    assert same(weights(again.load()), weights(first.supernet))
    fresh = Training(supernet(seed=9), blobs(), path=tmp_path, **QUICK).run(progress=False, resume=False)
    assert not same(weights(fresh.supernet), weights(first.supernet))


class Stop(Sampler):
    """A sandwich that presses Ctrl-C, or sends another signal, in a given step."""

    def __init__(self, at: int, number: signal.Signals = signal.SIGINT) -> None:
        self.at, self.number = at, number

    def archs(self, space: nas.Space, step: int, rng: random.Random) -> list[nas.Arch]:
        if step == self.at:
            signal.raise_signal(self.number)
        return Sandwich(2).archs(space, step, rng)

    def describe(self) -> dict[str, Any]:
        return {"class": "Stop"}


@pytest.mark.parametrize(("at", "optimizer"), [(0, "adamw"), (4, "sgd"), (10, "adamw")])
def test_ctrl_c_leaves_a_checkpoint_that_goes_on_exactly(tmp_path: Path, at: int, optimizer: Any) -> None:
    options = {**QUICK, "optimizer": optimizer, "progress": False}
    whole = train(supernet(), blobs(), path=tmp_path / "whole", sampler=Stop(-1), **options)
    with pytest.raises(KeyboardInterrupt):
        train(supernet(), blobs(), path=tmp_path / "cut", sampler=Stop(at), **options)
    assert json.loads((tmp_path / "cut" / "state.json").read_text())["step"] == at + 1
    handler = signal.getsignal(signal.SIGINT)
    resumed = train(supernet(seed=5), blobs(), path=tmp_path / "cut", sampler=Stop(-1), **options)
    assert same(weights(whole.supernet), weights(resumed.supernet))
    columns = [name for name in whole.history if name != "seconds"]
    pd.testing.assert_frame_equal(whole.history[columns], resumed.history[columns])
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("at", [0, 4, 11])
def test_a_signal_that_ends_leaves_a_checkpoint_and_the_code_of_the_signal(
    tmp_path: Path, number: signal.Signals, at: int
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        train(supernet(), blobs(), path=tmp_path, sampler=Stop(at, number), progress=False, **QUICK)
    assert ended.value.code == 128 + number
    assert json.loads((tmp_path / "state.json").read_text())["step"] == at + 1
    assert signal.getsignal(number) is before


def test_a_changed_configuration_is_not_resumed(tmp_path: Path) -> None:
    train(supernet(), blobs(), path=tmp_path, progress=False, **QUICK)
    with pytest.raises(TrainError, match=r"holds a training with lr=0.01, not lr=0.02; use that, or another path"):
        train(supernet(), blobs(), path=tmp_path, progress=False, **{**QUICK, "lr": 0.02})
    with pytest.raises(TrainError, match=r"sampler.n=2, not sampler.n=3"):
        Training(supernet(), blobs(), path=tmp_path, sampler=Sandwich(3), **QUICK).trained  # noqa: B018
    with pytest.raises(TrainError, match=r"task.seed=0, task.data='\w+', not task.seed=1"):
        train(supernet(), blobs(seed=1), path=tmp_path, progress=False, **QUICK)
    assert Training(supernet(), blobs(), path=tmp_path, checkpoint_every=3, **QUICK).trained  # decides no weights


class Broken(Loss):
    """Cross entropy times a factor that depends on the step."""

    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        return step.task.loss(output, batch) * self.factor(step.number)

    def describe(self) -> dict[str, Any]:
        return {"class": "Broken"}


def test_a_loss_that_is_not_finite_stops_with_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    options = {**QUICK, "checkpoint_every": 5, "path": tmp_path, "progress": False}
    broken = Broken(lambda step: float("nan") if step == 7 else 1.0)
    with pytest.raises(TrainError, match=f"the loss of step 8 is nan.*'{tmp_path}' keeps the last checkpoint"):
        train(supernet(), blobs(), loss=broken, **options)
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 5
    mended = train(supernet(), blobs(), loss=Broken(lambda step: 1.0), **options)
    assert same(
        weights(mended.supernet),
        weights(train(supernet(), blobs(), loss=Broken(lambda _: 1.0), progress=False, **QUICK).supernet),
    )


def test_a_gradient_that_is_not_finite_never_reaches_the_weights() -> None:
    net = supernet()

    class Infinite(Broken):
        def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
            loss = super().__call__(output, batch, step)
            return loss + (
                torch.sqrt(output.sum() * 0.0) if step.number == 3 else 0.0
            )  # d sqrt(0) = inf, inf · 0 = nan

    with pytest.raises(TrainError, match="gradient's norm of step 4 is nan"):
        train(net, blobs(), loss=Infinite(lambda step: 1.0), progress=False, **QUICK)
    assert all(torch.isfinite(tensor).all() for tensor in net.state_dict().values())


def test_a_loss_that_runs_away_stops() -> None:
    away = Broken(lambda step: 1.0 if step < 60 else 100.0)
    with pytest.raises(TrainError, match=r"the loss has diverged: .* over the 50 steps up to \d+"):
        train(supernet(), blobs(), loss=away, steps=200, lr=1e-6, progress=False)
    train(supernet(), blobs(), loss=away, steps=120, lr=1e-6, divergence=1000.0, progress=False)


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    class Nested(Sandwich):
        def archs(self, space: nas.Space, step: int, rng: random.Random) -> list[nas.Arch]:
            with pytest.raises(TrainError, match="another process is training into"):
                train(supernet(), blobs(), path=tmp_path, progress=False, **QUICK)
            return super().archs(space, step, rng)

    train(supernet(), blobs(), path=tmp_path, sampler=Nested(0), steps=1, progress=False)


def test_damaged_checkpoints_are_refused_in_one_sentence(tmp_path: Path) -> None:
    options = {**QUICK, "checkpoint_every": 4}
    with pytest.raises(KeyboardInterrupt):
        train(supernet(), blobs(), path=tmp_path, sampler=Stop(6), progress=False, **options)
    optimizer = next(tmp_path.glob("step-*")) / "optimizer.safetensors"
    content = optimizer.read_bytes()
    optimizer.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors' is missing or damaged"):
        train(supernet(), blobs(), path=tmp_path, sampler=Stop(-1), progress=False, **options)
    for text, sentence in (("{", "is not the state of a training"), ('{"format": 99}', "has format 99")):
        (tmp_path / "state.json").write_text(text)
        with pytest.raises(CheckpointError, match=sentence):
            train(supernet(), blobs(), path=tmp_path, sampler=Stop(-1), progress=False, **options)


def test_a_fresh_start_deletes_only_what_a_training_wrote(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    train(supernet(), blobs(), path=tmp_path, progress=False, **QUICK)
    train(supernet(), blobs(), path=tmp_path, progress=False, resume=False, **{**QUICK, "lr": 0.5e-2})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_epochs_end_is_crossed_and_every_batch_is_used() -> None:
    seen: list[int] = []

    class Counting(Classification):
        def train_batches(self, epoch: int) -> Iterator[Batch]:
            for batch in super().train_batches(epoch):
                seen.append(mixed(epoch, batch.targets.tolist()))
                yield batch

    task = blobs()
    train(supernet(), Counting(task.train, task.valid, batch=16), steps=10, progress=False)
    expected = [mixed(epoch, batch.targets.tolist()) for epoch in range(3) for batch in task.train_batches(epoch)]
    assert seen == expected[:10]


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"device": "cuda:7"}, DeviceError, "device 'cuda:7' is not there; there are: cpu"),
        ({"device": "cpv"}, DeviceError, "did you mean 'cpu'"),
        ({"precision": "fp16"}, TrainError, "needs a CUDA device"),
        (
            {"precision": "bf61"},
            TrainError,
            "precision='bf61'; it is one of 'auto', 'float32', 'bf16', 'fp16'; did you mean 'bf16'",
        ),
        ({"optimizer": "admw"}, TrainError, "did you mean 'adamw'"),
        ({"steps": 0}, TrainError, "steps=0"),
        ({"warmup": 12}, TrainError, "warmup=12 does not fit 12 steps"),
        ({"clip": 0.0}, TrainError, "clip=0.0"),
        ({"weight_decay": -1.0}, TrainError, "weight_decay=-1.0"),
        ({"checkpoint_every": 0}, TrainError, "checkpoint_every=0"),
        ({"sampler": InPlace()}, TrainError, "sampler=an InPlace; it is a nas.train.Sampler"),
        ({"loss": Sandwich()}, TrainError, "loss=a Sandwich; it is a nas.train.Loss"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(options: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        Training(supernet(), blobs(), **{**QUICK, **options})


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainError, match="is no folder that can be written"):
        train(supernet(), blobs(), path=tmp_path / "file", progress=False, **QUICK)


def test_bf16_trains_and_keeps_float32_weights() -> None:
    net = supernet()
    train(net, blobs(), steps=40, lr=1e-2, precision="bf16", progress=False)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert subnet_metrics(net, net.space.largest, blobs())["accuracy"] > 0.5


def test_progress_prints_subnet_accuracies(capsys: pytest.CaptureFixture[str]) -> None:
    train(supernet(), blobs(), **QUICK)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["6/12", "12/12"]
    assert "accuracy: largest " in lines[0]
    assert "smallest " in lines[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["auto", "fp16", "float32"])
def test_cuda_trains_and_resumes(tmp_path: Path, precision: Any) -> None:
    options = {**QUICK, "device": "cuda", "precision": precision}
    with pytest.raises(KeyboardInterrupt):
        train(supernet(), blobs(), path=tmp_path, sampler=Stop(6), progress=False, **options)
    result = train(supernet(), blobs(), path=tmp_path, sampler=Stop(-1), progress=False, **options)
    assert result.supernet.device.type == "cuda"
    assert result.history["loss"].notna().all()


def test_space_is_part_of_the_configuration(tmp_path: Path) -> None:
    train(supernet(), blobs(), path=tmp_path, progress=False, **QUICK)
    other = Supernet(nas.Space(mlp(width=pg.oneof([8, 32]), depth=0), name="mlp"))
    with pytest.raises(TrainError, match=r"space.fingerprint="):
        train(other, blobs(), path=tmp_path, progress=False, **QUICK)
    assert space().fingerprint == supernet().space.fingerprint


def test_sgd_takes_parameters_that_get_their_first_gradient_late() -> None:
    net = supernet()

    class ShallowFirst(Sampler):
        def archs(self, space: nas.Space, step: int, rng: random.Random) -> list[nas.Arch]:
            return [space.arch({"width": 32, "depth": 0}) if step < 2 else space.largest]

    before = net.get_parameter("body.5.weight").clone()
    train(net, blobs(), sampler=ShallowFirst(), loss=Labels(), steps=4, optimizer="sgd", progress=False)
    assert not torch.equal(before, net.get_parameter("body.5.weight"))
