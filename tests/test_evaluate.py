from __future__ import annotations

import math
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import CheckpointError, DeviceError, EvaluationError, Infeasible, MetricError, SupernetError, TrainError
from nas.evaluate import Accuracy, Costs, Evaluation, Latency, one_sample
from nas.hardware import Device, shared
from nas.supernet import Supernet
from nas.train import Training, digits
from tests.conformance.evaluator import EvaluatorConformance, workers
from tests.conformance.patience import PATIENCE_S
from tests.train.family import blobs, space, supernet


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Training:
    training = Training(supernet(), digits(), path=tmp_path_factory.mktemp("trained"), steps=30, lr=1e-2)
    training.run(progress=False)
    return training


@pytest.fixture(scope="module")
def net(trained: Training) -> Supernet:
    return trained.load()


class Family(EvaluatorConformance):
    @pytest.fixture
    def space(self) -> nas.Space:
        return space()


class TestAccuracy(Family):
    @pytest.fixture
    def evaluator(self, trained: Training) -> Accuracy:
        return Accuracy(trained, digits())


class TestAccuracyOfASupernet(Family):
    @pytest.fixture
    def evaluator(self, net: Supernet) -> Accuracy:
        return Accuracy(net, digits(), split="test", calibrate=False)


class TestAccuracyOfAFolder(Family):
    @pytest.fixture
    def evaluator(self, trained: Training) -> Accuracy:
        return Accuracy(f"{trained.path}/supernet", digits())


class TestCosts(Family):
    @pytest.fixture
    def evaluator(self, net: Supernet) -> Costs:
        return Costs(net)


class TestLatency(Family):
    deterministic = False

    @pytest.fixture
    def evaluator(self, net: Supernet) -> Latency:
        return Latency(net, repeats=5)


# -- accuracy


def test_accuracy_is_that_of_the_extracted_module(net: Supernet) -> None:
    task, evaluator = digits(), Accuracy(net, digits())
    assert task.test is not None
    for arch in net.space.enumerate():
        module = evaluator.extract(arch)
        assert not any(part.training for part in module.modules())
        images, classes = task.valid
        with torch.no_grad():
            by_hand = (module(images).argmax(1) == classes).double().mean().item()
        assert evaluator(arch)["accuracy"] == pytest.approx(by_hand, abs=1e-6)
        assert evaluator.measure_module(module) == pytest.approx(evaluator(arch), rel=1e-5)
        assert evaluator.difference(module, arch).same


def test_difference_sees_another_module(net: Supernet) -> None:
    evaluator, arch = Accuracy(net, digits()), net.space.largest
    module = evaluator.extract(arch)
    with torch.no_grad():
        module.head.bias[3] += 0.5  # type: ignore[index, union-attr]
    found = evaluator.difference(module, arch)
    assert found.absolute == pytest.approx(0.5, abs=1e-5)
    assert not found.same
    found = evaluator.difference(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval(), arch)
    assert found.absolute == math.inf
    assert not found.same


def test_accuracy_recalibrates_and_leaves_the_supernet_alone(net: Supernet) -> None:
    task, before = digits(), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    values = {calibrate: Accuracy(net, task, calibrate=calibrate)(net.space.smallest) for calibrate in (True, False)}
    assert net.training
    net.eval()
    module = net.extract(net.space.smallest)
    assert values[False] == pytest.approx(task.evaluate(module), rel=1e-5)
    with torch.no_grad():
        torch.optim.swa_utils.update_bn(task.calibration_inputs(), module)
    assert values[True] == pytest.approx(task.evaluate(module.eval()), rel=1e-2)
    assert values[True] != pytest.approx(values[False], rel=1e-4)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())


def test_splits_differ(net: Supernet) -> None:
    task, arch = digits(), net.space.largest
    assert Accuracy(net, task, split="test")(arch) != Accuracy(net, task)(arch)
    with pytest.raises(EvaluationError, match="split='tset'; it is one of 'valid', 'test'; did you mean 'test'"):
        Accuracy(net, task, split="tset")  # type: ignore[arg-type]


def test_a_training_that_has_not_finished_is_refused(tmp_path: Path) -> None:
    evaluator = Accuracy(Training(supernet(), digits(), path=tmp_path / "none", steps=5), digits())
    for use in (lambda: evaluator.check(space()), lambda: evaluator(space().largest), lambda: pickle.dumps(evaluator)):
        with pytest.raises(TrainError, match="no trained supernet is found in"):
            use()


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="there is no supernet in"):
        Accuracy(tmp_path / "none", digits()).check(space())
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError):
        Costs(tmp_path / "empty")(space().largest)
    with pytest.raises(EvaluationError, match="source=a Linear; it is a nas.Supernet, a nas.Training or a path"):
        Costs(nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="task='digits'; it is a nas.Task"):
        Accuracy(supernet(), "digits")  # type: ignore[arg-type]
    with pytest.raises(SupernetError, match="save it first"):
        pickle.dumps(Costs(supernet()))


def test_a_checkpoint_that_changes_after_pickling_is_noticed(tmp_path: Path) -> None:
    first = supernet(seed=1)
    first.save(tmp_path)
    packed = pickle.dumps(Accuracy(first, digits()))
    supernet(seed=2).save(tmp_path)
    with pytest.raises(CheckpointError):
        pickle.loads(packed)(space().largest)


def test_a_users_own_data_travels_as_tensors(net: Supernet) -> None:
    packed = pickle.dumps(Accuracy(net, blobs()))
    assert pickle.loads(packed)(net.space.largest) == Accuracy(net, blobs())(net.space.largest)


# -- costs and latency


def test_costs_equal_the_formula(net: Supernet) -> None:
    for arch in net.space.enumerate():
        width, depth = arch.choices["width"], arch.choices["depth"]
        found = Costs(net)(arch)
        assert found["params"] == 64 * width + width + 2 * width + depth * (width * width + width) + 10 * width + 10
        assert found["macs"] == 64 * width + depth * width * width + 10 * width
        assert isinstance(found["params"], int)


def test_latency_measures_the_devices_batch(net: Supernet) -> None:
    times = [Latency(net, Device(batch=batch), repeats=30)(net.space.largest)["latency_p10_ms"] for batch in (1, 4096)]
    assert times[1] > 3 * times[0]


def test_a_device_may_be_its_label(net: Supernet) -> None:
    assert Latency(net, "cpu,batch=4").describe() == Latency(net, Device(batch=4)).describe()
    assert Latency(net).describe() == Latency(net, "cpu").describe()
    with pytest.raises(DeviceError, match="option 'thread=2' of device 'cpu,thread=2' is not known"):
        Latency(net, "cpu,thread=2")


def test_latency_refuses_what_it_cannot_measure(net: Supernet) -> None:
    with pytest.raises(DeviceError, match="is not there"):
        Latency(net, Device(f"cuda:{torch.cuda.device_count()}")).check(space())
    with pytest.raises(EvaluationError, match="give the supernet an example"):
        Latency(Supernet(space()))(space().largest)


def test_one_sample_keeps_the_form() -> None:
    x = torch.arange(6).view(3, 2)
    assert one_sample(x).shape == (1, 2)  # type: ignore[union-attr]
    assert one_sample({"x": x, "n": 3})["x"].shape == (1, 2)  # type: ignore[index, call-overload]
    assert one_sample((x, None))[0].shape == (1, 2)  # type: ignore[index]


# -- composing


class Named:
    def __init__(self, cost: str, calls: list[str], **values: Any) -> None:
        self.cost, self.calls, self.values = cost, calls, values
        self.metrics = tuple(values)

    def __call__(self, arch: Any) -> Mapping[str, float]:
        self.calls.append(self.cost)
        return self.values


def test_cheap_ones_run_first_and_a_violated_constraint_stops(net: Supernet) -> None:
    calls: list[str] = []
    dear, cheap = Named("dear", calls, accuracy=0.5), Named("cheap", calls, params=100)
    assert Evaluation([dear, cheap], ["params <= 100"])(None) == {"params": 100, "accuracy": 0.5}
    assert calls == ["cheap", "dear"]
    calls.clear()
    with pytest.raises(Infeasible) as caught:
        Evaluation([dear, cheap], ["params <= 99", "accuracy >= 0.1"])(None)
    assert calls == ["cheap"]
    assert caught.value.reason == "params is 100, not <= 99"
    assert caught.value.measurements == {"params": 100}


def test_an_evaluators_own_infeasible_keeps_what_was_measured() -> None:
    def memory(arch: Any) -> dict[str, float]:
        raise Infeasible("does not fit in memory", {"memory_mib": 900.0})

    with pytest.raises(Infeasible, match="does not fit") as caught:
        Evaluation([memory, Named("cheap", [], params=3)])(None)
    assert caught.value.measurements == {"params": 3, "memory_mib": 900.0}


def test_metrics_are_known_when_everybody_says() -> None:
    a, b = Named("cheap", [], x=1), Named("dear", [], y=2)
    assert Evaluation([b, a]).metrics == ("x", "y")
    assert Evaluation([a, lambda arch: {"z": 1}]).metrics is None
    assert Evaluation(lambda arch: {"z": 1})(None) == {"z": 1}


def test_collisions_are_refused() -> None:
    a, b = Named("cheap", [], x=1), Named("dear", [], x=2)
    with pytest.raises(EvaluationError, match="evaluators 'Named' and 'Named' both yield 'x'"):
        Evaluation([a, b])
    with pytest.raises(EvaluationError, match=r"'.*<lambda>' yields 'x', which another gave already"):
        Evaluation([a, lambda arch: {"x": 3}])(None)


def test_nothing_and_non_callables_are_refused() -> None:
    with pytest.raises(EvaluationError, match="nothing to evaluate"):
        Evaluation([])
    with pytest.raises(EvaluationError, match=r"evaluators\[0\]=3; it is a function"):
        Evaluation([3])  # type: ignore[list-item]
    with pytest.raises(MetricError):
        Evaluation([lambda arch: {}], ["params == 3"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (None, r"returned None \(NoneType\); it must return a dict"),
        (0.5, r"returned 0.5 \(float\)"),
        ({}, "returned no measurement"),
        (
            {"accuracy": float("nan")},
            "metric 'accuracy' of evaluator .* came back as nan; it must be one finite number",
        ),
        ({"accuracy": math.inf}, "came back as inf"),
        ({"accuracy": None}, r"came back as None \(NoneType\); it must be one finite number"),
        ({"accuracy": "0.9"}, r"came back as '0.9' \(str\)"),
        (
            {"accuracy": torch.tensor([0.9, 0.8])},
            r"came back as a Tensor of shape \(2,\); it must be one finite number",
        ),
        ({"accuracy": 1j}, r"came back as 1j \(complex\)"),
        ({"the accuracy": 0.9}, "no measurement: metric name 'the accuracy' is not an identifier"),
        ({3: 0.9}, r"no measurement: metric name 3 \(int\) is not"),
    ],
)
def test_what_is_no_measurement_is_refused_with_name_and_value(given: Any, sentence: str) -> None:
    with pytest.raises(EvaluationError, match=sentence):
        Evaluation([lambda arch: given])(None)


def test_announced_metrics_are_enforced() -> None:
    class Forgetful(Named):
        def __call__(self, arch: Any) -> Mapping[str, float]:
            return {"acuracy": 0.5}

    with pytest.raises(EvaluationError, match="'accuracy'; it gave acuracy; did you mean 'acuracy'"):
        Evaluation([Forgetful("dear", [], accuracy=1.0)])(None)
    one = Named("dear", [], x=1.0)
    one.values["more"] = 2.0
    with pytest.raises(EvaluationError, match=r"returned 'more', which its metrics \('x',\) do not announce"):
        Evaluation([one])(None)


def test_numbers_of_every_kind_become_plain_ones() -> None:
    found = Evaluation([lambda arch: {"a": np.float32(0.5), "b": np.int64(3), "c": True, "d": 2**60 + 1}])(None)
    assert [type(value) for value in found.values()] == [float, int, int, int]
    assert found == {"a": 0.5, "b": 3, "c": 1, "d": 2**60 + 1}


def test_check_asks_every_evaluator(tmp_path: Path) -> None:
    evaluation = Evaluation([lambda arch: {"x": 1}, Costs(tmp_path / "none")])
    with pytest.raises(EvaluationError, match="there is no supernet in"):
        evaluation.check(space())
    (tmp_path / "foreign").mkdir()
    with pytest.raises(CheckpointError):
        Evaluation(Costs(tmp_path / "foreign")).check(space())


class Alone:
    """Notes when it ran; takes 20 ms."""

    metrics = ("begun", "ended")

    def __init__(self, exclusive: bool) -> None:
        self.exclusive = exclusive

    def __call__(self, arch: Any) -> dict[str, float]:
        begun = time.monotonic()
        time.sleep(0.02)
        return {"begun": begun, "ended": time.monotonic()}


def repeat(exclusive: bool) -> list[tuple[float, float]]:
    evaluation = Evaluation([Alone(exclusive)])
    return [tuple(evaluation(None).values()) for _ in range(10)]  # type: ignore[misc]


def test_an_exclusive_evaluator_runs_alone_on_the_machine() -> None:
    measured, worked = workers().map(repeat, [True, False], timeout=PATIENCE_S)
    assert len(measured) == len(worked) == 10
    assert all(end <= begun or ended <= start for start, end in measured for begun, ended in worked)


def test_an_evaluation_lets_go_of_the_machine_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        Evaluation([lambda arch: {"x": 1 / 0}])(None)
    from nas.hardware import exclusive

    with exclusive(PATIENCE_S), shared(PATIENCE_S):
        pass


def test_an_evaluation_of_everything_is_a_few_kilobytes(trained: Training) -> None:
    evaluation = Evaluation([Accuracy(trained, digits()), Costs(trained), Latency(trained)], ["params <= 50_000"])
    evaluation.check(trained.supernet.space)
    assert len(pickle.dumps(evaluation)) < 8192
    found = pickle.loads(pickle.dumps(evaluation))(trained.supernet.space.smallest)
    assert tuple(found) == evaluation.metrics


def test_networks_that_draw_at_random_in_eval_mode_are_told() -> None:
    class Noisy(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, width), nn.Linear(width, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(nn.functional.dropout(self.first(x.flatten(1)), 0.5))  # whatever the mode

    task = nas.digits()
    noisy = nas.Supernet(nas.Space(nas.model(Noisy)(width=pg.oneof([8, 16])), name="noisy"), example=task.example)
    noisy.trained = True
    with pytest.warns(UserWarning, match="space 'noisy' give other outputs at each call in eval mode"):
        nas.Accuracy(noisy, task).check(noisy.space)
