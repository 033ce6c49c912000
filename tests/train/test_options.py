"""How long, with which optimizer and schedule a training goes; each is resumed after a kill to the same weights, bit for bit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import TrainError
from nas.pace import duration
from nas.train import Schedule, Training, TrainResult
from nas.train.loop import Run
from nas.train.ranks import Group, Ranks
from tests.train.family import blobs, space, supernet
from tests.train.ranks import in_ranks
from tests.train.test_resume import equal

STEPS, KILLED = 10, 7


class Killed(BaseException):
    """Nobody handles it, as nobody handles a kill."""


class Counting(torch.optim.Optimizer):
    """Descends with a rate that falls with a count in the groups, and with numbers and a flag in the state."""

    def __init__(self, groups: Any, lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "k": 0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["k"] += 1
            for one in group["params"]:
                if one.grad is None:
                    continue
                kept = self.state[one]
                kept["times"], kept["scale"] = kept.get("times", 0) + 1, kept.get("scale", 1.0) * 0.9
                kept["even"] = kept["times"] % 2 == 0
                rate = group["lr"] * kept["scale"] * (2.0 if kept["even"] else 1.0) / group["k"]
                one.sub_(rate * (one.grad + group["weight_decay"] * one))


def exponential(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.8)


def killed(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Training], at: int = KILLED) -> TrainResult:
    """Of a training that dies before its step `at` and is run again."""
    real = Run._step

    def step(self: Run, *given: Any) -> None:
        if self.state.step == at:
            raise Killed
        real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_step", step)
        with pytest.raises(Killed):
            make().run(progress=False)
    return make().run(progress=False)


def training(path: Path, **options: Any) -> Training:
    given = {"steps": STEPS, "lr": 1e-2, "checkpoint_every": 4, "validate_every": 3, **options}
    return Training(supernet(), blobs(), path=path, **given)


NAMES = ["adam", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "radam", "asgd", "adafactor"]
WAYS: list[dict[str, Any]] = [
    *({"optimizer": name} for name in NAMES),
    {"optimizer": "sgd", "optimizer_options": {"momentum": 0.0}, "weight_decay": 0.3, "sampler": nas.train.Uniform(1)},
    {"optimizer": "adamw", "optimizer_options": {"betas": (0.8, 0.95), "foreach": True}},
    {"optimizer": functools.partial(torch.optim.SGD, momentum=0.5)},
    {"optimizer": Counting},
    {"schedule": "linear", "floor": 0.1},
    {"schedule": "step", "schedule_options": {"step_size": 2, "gamma": 0.5}},
    {"schedule": "constant"},
    {"schedule": "one-cycle"},
    {"schedule": exponential},
    {"steps": None, "epochs": 3},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(str(one)[:20] for one in way.values()))
def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    whole = training(tmp_path / "whole", **way).run(progress=False)
    equal(whole, killed(monkeypatch, lambda: training(tmp_path / "killed", **way)))
    assert training(tmp_path / "killed", **way).trained


def test_every_optimizer_by_name_is_among_those_that_are_resumed() -> None:
    assert {*NAMES, "adamw", "sgd"} == set(nas.train.optimizers.known())


def test_epochs_are_measured_and_kept_one_by_one() -> None:
    made = Training(supernet(), blobs(), epochs=3)
    assert made.steps == 12
    assert (made.checkpoint_every, made.validate_every) == (4, 4)
    result = made.run(progress=False)
    assert result.history.dropna()["epoch"].tolist() == [1.0, 2.0, 3.0]


def test_what_an_optimizer_keeps_beside_tensors_and_numbers_is_refused(tmp_path: Path) -> None:
    class Keeping(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for one in group["params"]:
                    self.state[one]["seen"] = ["once"]
            return super().step(closure)

    with pytest.raises(TrainError, match=r"keeps a list as 'seen' for .*; checkpoints hold tensors and numbers"):
        training(tmp_path, optimizer=Keeping).run(progress=False)


def test_settings_that_earlier_versions_had_are_described_as_they_were(tmp_path: Path) -> None:
    config = training(tmp_path).config
    assert set(config) == {
        "space", "task", "sampler", "loss", "steps", "lr", "warmup", "floor", "weight_decay", "clip", "optimizer",
        "precision", "seed",
    }  # fmt: skip
    assert config["optimizer"] == "adamw"


@pytest.mark.parametrize("other", [{"optimizer": Counting}, {"schedule": exponential}, {"schedule": "linear"}])
def test_a_training_with_other_options_is_not_resumed(tmp_path: Path, other: dict[str, Any]) -> None:
    training(tmp_path).run(progress=False, until=2)
    name = next(iter(other))
    with pytest.raises(TrainError, match=f"{name}=.*, not {name}=.*{getattr(other[name], '__name__', 'linear')}"):
        training(tmp_path, **other).run(progress=False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 3, "epochs": 2}, "steps=3 and epochs=2 both say how long to train; give one"),
        ({"epochs": 0}, "epochs=0"),
        ({"optimiser": "sgd"}, "did you mean 'optimizer'"),
        ({"optimizer": "rmspropp"}, "did you mean 'rmsprop'"),
        ({"optimizer": "AdamW"}, "did you mean 'adamw'"),
        ({"optimizer": "lbfgs"}, "evaluates the loss several times a step"),
        ({"optimizer": "adam", "optimizer_options": {"beta": 0.9}}, "have no 'beta'; .*did you mean 'betas'"),
        ({"optimizer_options": {"lr": 0.1}}, "cannot have 'lr': give lr= instead"),
        ({"optimizer_options": {"betas": 2.0}}, "optimizer 'adamw' cannot be made with"),
        ({"optimizer": Counting, "optimizer_options": {"k": 1}}, "has no effect on a function"),
        ({"optimizer": lambda groups, lr: lr}, "gives a float; it is called with parameter groups"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"schedule": "step", "schedule_options": {"size": 3}}, "have no 'size'; .*did you mean 'step_size'"),
        ({"schedule": "step", "schedule_options": {"step_size": 1.5}}, "step_size=1.5; it is a whole number of steps"),
        ({"schedule_options": {"gamma": 0.1}}, "schedule 'cosine' have no 'gamma'; it takes none"),
        ({"schedule": "constant", "floor": 0.1}, "floor=0.1 has no effect on schedule 'constant'"),
        ({"schedule": "one-cycle", "warmup": 2}, "warmup=2 has no effect on schedule 'one-cycle'"),
        ({"schedule": exponential, "warmup": 2}, "warmup=2 has no effect on a scheduler of torch"),
        ({"schedule": lambda optimizer: None}, "gives a NoneType"),
        ({"schedule": torch.optim.lr_scheduler.ReduceLROnPlateau}, "depends on a loss"),
        ({"schedule": torch.optim.lr_scheduler.StepLR}, "does not make a scheduler from an optimizer"),
        (
            {"schedule": lambda one: torch.optim.lr_scheduler.OneCycleLR(one, 0.1, total_steps=10)},
            "OneCycleLR changes momentum too; make it with cycle_momentum=False",
        ),
    ],
)  # fmt: skip
def test_bad_options_are_one_sentence(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = options if "epochs" in options else {"steps": 10, **options}
    with pytest.raises(TrainError, match=sentence):
        Training(supernet(), blobs(), path=tmp_path, **given).run(progress=False)


def rates(make: Callable[[torch.optim.Optimizer], Any], lr: float, steps: int) -> list[float]:
    """Of torch's own."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if len(found) < steps:
            scheduler.step()
    return found


LR = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (
            Schedule(0.1, 50, kind="linear", floor=0.2),
            lambda one: LR.LinearLR(one, start_factor=1.0, end_factor=0.2, total_iters=49),
        ),
        (
            Schedule(0.1, 50, kind="step", options={"step_size": 7, "gamma": 0.5}),
            lambda one: LR.StepLR(one, 7, gamma=0.5),
        ),
        (Schedule(0.1, 50, kind="step"), lambda one: LR.StepLR(one, 16)),
        (Schedule(0.1, 50, kind="constant"), lambda one: LR.ConstantLR(one, factor=1.0)),
        (
            Schedule(0.1, 50, kind="one-cycle"),
            lambda one: LR.OneCycleLR(one, 0.1, total_steps=50, cycle_momentum=False),
        ),
        (
            Schedule(0.1, 9, kind="one-cycle", options={"pct_start": 0.5, "div_factor": 10, "final_div_factor": 3}),
            lambda one: LR.OneCycleLR(
                one, 0.1, total_steps=9, pct_start=0.5, div_factor=10, final_div_factor=3, cycle_momentum=False
            ),
        ),
    ],
)  # fmt: skip
def test_curves_equal_torchs(schedule: Schedule, theirs: Callable[[torch.optim.Optimizer], Any]) -> None:
    expected = rates(theirs, 0.1, schedule.steps)
    assert [schedule(step) for step in range(schedule.steps)] == pytest.approx(expected)


def test_a_scheduler_of_torch_gives_its_rates_and_travels(tmp_path: Path) -> None:
    import pickle

    made = Training(supernet(), blobs(), steps=6, lr=0.1, schedule=exponential, path=tmp_path, validate_every=1)
    sent = pickle.loads(pickle.dumps(made.schedule))
    assert [sent(step) for step in range(6)] == [made.schedule(step) for step in range(6)] == rates(exponential, 0.1, 6)
    assert made.run(progress=False).history["lr"].tolist() == rates(exponential, 0.1, 6)


def test_a_scheduler_that_is_made_for_fewer_steps_is_refused() -> None:
    def short(optimizer: torch.optim.Optimizer) -> Any:
        return LR.OneCycleLR(optimizer, 0.1, total_steps=4, cycle_momentum=False)

    with pytest.raises(TrainError, match="OneCycleLR stops after 5 of 10 steps"):
        Training(supernet(), blobs(), steps=10, schedule=short).run(progress=False)


def test_bf16_trains_on_a_cpu_with_losses_in_float32_and_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = set()

    class Noting(nas.train.Labels):
        def __call__(self, output: Any, batch: Any, step: Any) -> Tensor:
            loss = super().__call__(output, batch, step)
            kinds.add((output.dtype, loss.dtype))
            return loss

    def make(path: Path, precision: str) -> Training:
        return training(path, precision=precision, loss=Noting())

    exact = make(tmp_path / "float32", "float32").run(progress=False)
    kinds.clear()
    whole = make(tmp_path / "whole", "bf16").run(progress=False)
    assert kinds == {(torch.bfloat16, torch.float32)}
    assert {one.dtype for one in whole.supernet.parameters()} == {torch.float32}
    differences = (whole.history["loss"] - exact.history["loss"]).abs()
    assert 0.0 < differences.max() < 0.05
    equal(whole, killed(monkeypatch, lambda: make(tmp_path / "killed", "bf16")))


WATCHED: list[dict[str, Any]] = [
    {"accumulate": 3},
    {"best": "min loss"},
    {"best": "max smallest_loss", "patience": 1, "steps": 40, "validate_every": 2},  # which falls: stops early
    {"best": "max largest_loss", "patience": 3, "validate_every": 1, "checkpoint_every": 2},
]


@pytest.mark.parametrize("way", WATCHED, ids=lambda way: "-".join(map(str, way.values())))
def test_accumulation_and_early_stopping_are_resumed_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    whole = training(tmp_path / "whole", **way).run(progress=False)
    at = min(KILLED, whole.steps - 1)
    resumed = killed(monkeypatch, lambda: training(tmp_path / "killed", **way), at)
    equal(whole, resumed)
    assert whole.best_step == resumed.best_step
    assert not list(tmp_path.glob("*/best-*"))


def test_a_step_of_several_batches_is_that_of_one_large_batch() -> None:
    nets = [still(), still()]
    for net, size, count in zip(nets, (16, 64), (4, 1), strict=True):
        made = Training(net, double(size), epochs=2, accumulate=count, lr=1e-2)
        assert made.steps == 2
        made.run(progress=False)
    expected, found = (net.state_dict() for net in nets)
    for name, one in found.items():
        torch.testing.assert_close(one, expected[name], rtol=1e-9, atol=1e-12)


def still() -> nas.Supernet:
    @nas.model
    def plain(width: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10)).double()

    return nas.Supernet(nas.Space(plain(width=pg.oneof([8, 16]))), example=torch.zeros(1, 1, 8, 8).double(), seed=0)


def double(size: int) -> nas.Classification:
    task = blobs(64, size)
    return nas.Classification(
        (task.train[0].double(), task.train[1]), (task.valid[0].double(), task.valid[1]), batch=size
    )


@pytest.mark.parametrize("kept", [True, False])
def test_the_training_ends_with_the_best_weights_and_stops_when_nothing_is_better(tmp_path: Path, kept: bool) -> None:
    made = Training(
        supernet(), blobs(), path=tmp_path if kept else None, steps=60, lr=1e-2, validate_every=2, best="max largest_loss",
        patience=3,
    )  # fmt: skip
    result = made.run(progress=False)
    losses = result.history.set_index("step")["largest_loss"].dropna()
    assert result.best_step == losses.idxmax()
    assert result.steps == result.best_step + 6 < 60
    row = result.history.set_index("step").loc[result.best_step]
    told = f"trained {result.steps} of 60 steps in {duration(result.seconds)}, with the weights of step {result.best_step}: "
    assert str(result).startswith(f"{told}largest_accuracy {row['largest_accuracy']:.4g}, smallest_accuracy ")
    net = made.load() if kept else result.supernet
    assert nas.train.subnet_metrics(net, space().largest, blobs())["loss"] == pytest.approx(losses.max(), abs=1e-6)


def test_candidates_stop_early_with_measurements_of_the_weights_that_they_keep(tmp_path: Path) -> None:
    options: dict[str, Any] = {"best": "max loss", "patience": 2, "accumulate": 3, "lr": 1e-2}
    evaluator = nas.Trained(blobs(), tmp_path, epochs=9, **options)
    arch = space().smallest
    measured = evaluator(arch)
    assert measured["epochs"] < 9
    assert evaluator(arch) == measured
    module = evaluator.extract(arch)
    assert evaluator.measure_module(module)["loss"] == pytest.approx(measured["loss"], abs=1e-6)


def ranked(folder: Path, way: dict[str, Any], ranks: Ranks | None = None) -> dict[str, Tensor]:
    ranks = ranks or Group()
    made = Training(still(), double(16), path=folder, steps=12, lr=1e-2, validate_every=2, **way)
    result = made.run(progress=False, ranks=ranks)
    return {**(result.supernet.state_dict() if ranks.first else {}), "steps": torch.tensor(result.steps)}


@pytest.mark.parametrize("way", [{"accumulate": 3}, {"best": "max loss", "patience": 2}], ids=["accumulate", "stop"])
def test_processes_agree_on_accumulation_and_on_when_to_stop(tmp_path: Path, way: dict[str, Any]) -> None:
    alone = ranked(tmp_path / "alone", way, Ranks())
    found = in_ranks(2, functools.partial(ranked, tmp_path / "shared", way), tmp_path)
    assert [int(one["steps"]) for one in found] == [int(alone["steps"])] * 2
    assert ("patience" in way) == (int(alone["steps"]) < 12)
    for name, one in alone.items():
        torch.testing.assert_close(found[0][name], one, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"best": "max acuracy"}, "the task's metrics are accuracy, loss; did you mean 'accuracy'"),
        ({"best": "accuracy"}, "best='accuracy' says which metric of the task decides: .*write 'max NAME'"),
        ({"patience": 3}, "patience=3 needs to know what to wait for; give best="),
        ({"best": "max accuracy", "min_delta": 0.1}, "min_delta=0.1 has no effect without patience"),
        ({"accumulate": 0}, "accumulate=0"),
    ],
)
def test_bad_options_for_the_best_are_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        Training(supernet(), blobs(), steps=10, **options)
