"""`nas.Evaluator`, `nas.evaluator`, and weights that nobody trained."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import EvaluationError, StudyError, SupernetError
from nas.evaluate.base import adapted, identity_of, name_of, settings_of
from nas.supernet import Supernet
from nas.train import Training
from tests.conformance.evaluator import EvaluatorConformance
from tests.study.trainings import blobs
from tests.train.family import space, supernet


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Training:
    training = Training(supernet(), blobs(), path=tmp_path_factory.mktemp("trained"), steps=5, lr=1e-2)
    training.run(progress=False)
    return training


def study(training: Training | None, evaluators: list[Any], store: Path, **options: Any) -> nas.Study:
    declared = {"objectives": ["max p90"], "algorithm": nas.RandomSearch(seed=0), "trials": 4, **options}
    return nas.Study("own", space=space(), evaluators=evaluators, training=training, store=store / "nas.db", **declared)


@nas.evaluator(metrics="p90")
def p90(model: nn.Module, batches: Any) -> float:
    """A quantile of the largest logits, which no mean gives."""
    assert not model.training
    assert not torch.is_grad_enabled()
    return float(torch.cat([model(batch.inputs).amax(1) for batch in batches]).quantile(0.9))


@nas.evaluator
def vandal(model: nn.Module, arch: nas.Arch) -> dict[str, float]:
    """Spoils everything that it is handed, and draws from the global generators."""
    total = float(sum(one.abs().sum() for one in model.parameters()))
    model.train()
    for one in model.parameters():
        one.mul_(100.0)
    return {"total": total, "width": arch.choices["width"], "drawn": random.random() + float(torch.rand(()))}


@nas.evaluator(cost="cheap", metrics=("size",))
def size(arch: nas.Arch) -> float:
    return float(arch.choices["width"])


class Steady(nas.Evaluator):
    """The least that an evaluator may be."""

    metrics = ("steady",)

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        return {"steady": float(arch.choices["depth"])}

    def describe(self) -> dict[str, Any]:
        return {"name": "Steady"}


class Kept:
    """A user's class without the base, with what some evaluators have."""

    metrics, cost, exclusive, fidelity = ("kept",), "cheap", False, ("kept", 3.0)

    def __call__(self, arch: Any) -> dict[str, float]:
        return {"kept": 3.0}

    def known(self, arch: Any) -> dict[str, float]:
        return {"kept": 2.0}

    def progress(self, arch: Any) -> list[dict[str, float]]:
        return [{"kept": 1.0}]


class Family(EvaluatorConformance):
    @pytest.fixture
    def space(self) -> nas.Space:
        return space()


class TestEvaluatorOfANetwork(Family):
    @pytest.fixture
    def evaluator(self, trained: Training, tmp_path: Path) -> Any:
        return study(trained, [p90], tmp_path).evaluators[0]


class TestEvaluatorThatSpoilsItsNetwork(Family):
    @pytest.fixture
    def evaluator(self, trained: Training) -> Any:
        return nas.evaluator(metrics=("total", "width", "drawn"), source=trained)(vandal.function)


class TestEvaluatorOfAnArch(Family):
    @pytest.fixture
    def evaluator(self) -> Any:
        return size


class TestBaseClass(Family):
    @pytest.fixture
    def evaluator(self) -> Any:
        return Steady()


class TestOnceOfANetwork(Family):
    @pytest.fixture
    def evaluator(self, trained: Training, tmp_path: Path) -> Any:
        once = nas.Once(p90, key_of, tmp_path / "cache")
        return study(trained, [once], tmp_path).evaluators[0]

    def same(self, first: Any, second: Any) -> bool:  # the second time it is remembered
        return [one["p90"] for one in first] == [one["p90"] for one in second]


def key_of(arch: nas.Arch) -> str:
    return arch.key


# -- the class and the adapter


def test_a_callable_is_asked_for_its_attributes_in_one_place() -> None:
    one = adapted(Kept())
    assert (one.metrics, one.cost, one.fidelity) == (("kept",), "cheap", ("kept", 3.0))
    assert (one.remembers, one.has_progress, one.has_epochs, one.has_networks) == (True, True, False, False)
    assert one.known(None) == {"kept": 2.0}  # type: ignore[arg-type]
    assert nas.Evaluation([one]).progress(None) == [{"kept": 1.0}]  # type: ignore[arg-type]
    assert name_of(one) == "Kept"
    assert adapted(one) is one


def test_what_is_noted_on_a_function_later_counts() -> None:
    def plain(arch: Any) -> dict[str, float]:
        return {"x": 1.0}

    one = adapted(plain)
    assert (one.metrics, one.cost, one.exclusive, one.needs) == (None, "dear", False, None)
    nas.needs(plain, gpus=1)
    assert one.needs is not None
    assert one.needs.gpus == 1
    nas.needs(one, gpus=0.5)
    assert plain.needs.gpus == 0.5  # type: ignore[attr-defined]


def test_an_adapted_callable_is_compared_as_the_callable_is() -> None:
    assert identity_of(size.function) == identity_of(adapted(size.function))
    assert settings_of(adapted(size.function)) == {"name": "size"}
    assert settings_of(adapted(Steady())) == {"name": "Steady"}


def test_a_class_has_what_it_defines() -> None:
    assert not Steady.has_progress
    assert nas.Trained.has_epochs
    assert nas.Trained.has_levels
    assert not nas.Accuracy.has_levels
    assert nas.Trained.has_progress
    assert nas.Accuracy.has_networks
    assert nas.Once.remembers
    assert not nas.Costs.has_networks
    with pytest.raises(EvaluationError, match="'Steady' has no extract"):
        Steady().extract(space().smallest)


@pytest.mark.parametrize("given", [3, Steady, "p90"])
def test_what_is_no_evaluator_is_refused(given: Any) -> None:
    with pytest.raises(EvaluationError, match="cannot be called; give a function from an arch"):
        adapted(given)


# -- a function of a network


def test_it_is_handed_the_calibrated_subnet_that_accuracy_measures(trained: Training, tmp_path: Path) -> None:
    evaluator: Any = study(trained, [p90], tmp_path).evaluators[0]
    arch = space().smallest
    module = nas.Accuracy(trained, blobs()).extract(arch)
    assert evaluator(arch) == p90_of(module, blobs())


def p90_of(module: nn.Module, task: Any) -> dict[str, float]:
    with torch.no_grad():
        found = torch.cat([module(batch.inputs).amax(1) for batch in task.valid_batches()])
    return {"p90": float(found.quantile(0.9))}


def test_a_model_that_it_changes_is_its_own(trained: Training, tmp_path: Path) -> None:
    net = trained.load()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    evaluator: Any = study(None, [vandal, nas.Accuracy(net, blobs())], tmp_path, objectives=["max total"]).evaluators[0]
    first = evaluator(space().largest)
    assert evaluator(space().largest) == first
    module = evaluator.extract(space().largest)
    assert evaluator.measure_again(module, space().largest) == first
    assert not module.training
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())


def test_it_is_searched_with_workers_and_taken_home(trained: Training, tmp_path: Path) -> None:
    from nas.study.take_home import take_home

    searched = study(trained, [p90, size], tmp_path, objectives=["max p90", "min size"])
    searched.run(workers=1, progress=False)
    assert set(searched.trials()["state"]) == {"COMPLETED"}
    number = int(searched.front().index[0])
    assert take_home(searched, number).checked == {"p90": pytest.approx(searched.front().loc[number, "p90"])}
    again = study(trained, [p90, size], tmp_path, objectives=["max p90", "min size"], trials=5)
    assert again.run(workers=0, progress=False).evaluated == 1


def test_an_exception_fails_the_trial_with_the_reason(trained: Training, tmp_path: Path) -> None:
    @nas.evaluator
    def broken(model: nn.Module) -> float:
        raise RuntimeError("the sensor is off")

    searched = study(trained, [broken], tmp_path, objectives=["max broken"], trials=1)
    searched.run(workers=0, progress=False)
    assert "RuntimeError: the sensor is off" in searched.trials()["reason"].tolist()[0]


def test_its_description_tells_functions_data_and_weights_apart(trained: Training, tmp_path: Path) -> None:
    def described(function: Any, task: Any = None) -> Any:
        return nas.evaluator(source=trained, task=task)(function).describe()

    assert described(p90.function) == described(p90.function)
    assert described(p90.function) != described(vandal.function)
    assert described(p90.function) != described(p90.function, blobs(32))


def test_it_pickles_by_its_name_with_what_it_was_bound_to(trained: Training, tmp_path: Path) -> None:
    evaluator = study(trained, [p90], tmp_path).evaluators[0]
    again = pickle.loads(pickle.dumps(evaluator))
    assert again.function is p90.function
    assert again(space().smallest) == evaluator(space().smallest)


@pytest.mark.parametrize(
    ("options", "function", "says"),
    [
        ({}, lambda net: 1.0, "takes 'net', which nothing is known to fill; it may take model, arch, batches"),
        ({}, lambda modle: 1.0, "did you mean 'model'"),
        ({}, lambda: 1.0, "takes neither model nor arch"),
        ({"calibrate": False}, lambda arch: 1.0, "calibrate= has no effect on evaluator"),
        ({"device": "cpu"}, lambda arch: 1.0, "device= has no effect"),
        ({"split": "test"}, lambda model: 1.0, "split= has no effect on evaluator .* takes no batches"),
        ({"cost": "free"}, lambda model: 1.0, "cost='free'; it is one of"),
    ],
)
def test_options_and_parameters_without_effect_are_refused(options: Any, function: Any, says: str) -> None:
    with pytest.raises(EvaluationError, match=says):
        nas.evaluator(**options)(function)


def test_a_study_that_has_no_supernet_for_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"'vandal' has no supernet; give Study\(training=...\)"):
        study(None, [vandal], tmp_path, objectives=["max total"]).run(workers=0, progress=False)
    first, second = supernet(seed=1), supernet(seed=2)
    with pytest.raises(StudyError, match="read 2 supernets, and one that takes a network says not which"):
        study(None, [nas.Costs(first), nas.Accuracy(second, blobs()), vandal], tmp_path, objectives=["max total"])


def test_statistics_need_data_to_be_calibrated_with(trained: Training) -> None:
    evaluator = nas.evaluator(source=trained.load())(vandal.function)
    with pytest.raises(EvaluationError, match="no data to calibrate BatchNorm statistics with"):
        evaluator(space().smallest)
    kept = nas.evaluator(source=trained.load(), calibrate=False)(vandal.function)
    assert set(kept(space().smallest)) == {"total", "width", "drawn"}


# -- weights that nobody trained


class Untrained:
    """Ways in which a study reads a supernet."""

    def __init__(self, net: Supernet) -> None:
        self.net = net

    def closures(self) -> Iterator[Any]:
        net, x = self.net, torch.zeros(2, 64)
        yield lambda arch: {"p90": float(net(x, arch).sum().detach())}
        yield lambda arch: {"p90": float(net.extract(arch)(x).sum().detach())}
        yield lambda arch: {"p90": float(net.bind(arch)(x).sum().detach())}
        yield lambda arch: {"p90": float(sum(one.sum().detach() for one in net.cut(arch).values()))}


@pytest.mark.parametrize("way", range(4))
def test_a_closure_that_reads_initial_weights_fails_the_trial(way: int, tmp_path: Path) -> None:
    net = supernet()
    closure = list(Untrained(net).closures())[way]
    searched = study(None, [closure], tmp_path, trials=1)
    searched.run(workers=0, progress=False)
    assert "was never trained or loaded" in searched.trials()["reason"].tolist()[0]
    assert closure(net.space.smallest), "outside a study everybody may read them"
    net.trained = True
    searched.run(2, workers=0, progress=False)
    assert searched.record.counts()["COMPLETED"] == 2, "what failed is tried again"


def test_accuracy_of_an_untrained_supernet_is_refused_before_workers_start(tmp_path: Path) -> None:
    searched = study(None, [nas.Accuracy(supernet(), blobs())], tmp_path, objectives=["max accuracy"])
    for use in (searched.rehearse, lambda: searched.run(workers=0, progress=False)):
        with pytest.raises(SupernetError, match=r"never trained or loaded: .* set supernet.trained = True"):
            use()
    training = Training(supernet(), blobs(), steps=2)
    with pytest.raises(SupernetError, match="never trained"):
        study(training, [nas.Accuracy(training, blobs())], tmp_path, objectives=["max accuracy"]).rehearse()
    training.run(progress=False)
    study(training, [nas.Accuracy(training, blobs())], tmp_path, objectives=["max accuracy"]).rehearse()


def test_costs_latency_and_proxies_read_no_weights(tmp_path: Path) -> None:
    net = supernet()
    evaluators = [nas.Costs(net), nas.Latency(net, repeats=2), nas.Proxies(["naswot"], blobs(), batch=8)]
    found = study(None, evaluators, tmp_path, objectives=["min latency_ms"]).rehearse()["measurements"]
    assert {"latency_ms", "params", "naswot"} <= found.keys()


def test_a_supernet_that_an_evaluator_makes_and_trains_is_its_own(tmp_path: Path) -> None:
    def trains(arch: nas.Arch) -> dict[str, float]:
        net = nas.as_supernet(space().build(arch), example=torch.zeros(1, 64))
        net.trained = False
        return {"p90": float(net(torch.zeros(2, 64), net.space.largest).sum().detach())}

    assert study(None, [trains], tmp_path).rehearse()["state"] == "COMPLETED"


def test_what_makes_weights_mean_something(tmp_path: Path) -> None:
    net = supernet()
    assert not net.trained
    net.save(tmp_path / "initial")
    assert not Supernet.load(tmp_path / "initial", net.space).trained, "saving trains nothing"
    with torch.no_grad():
        next(net.parameters()).add_(1.0)
    assert net.trained, "somebody's own loop, or their own weights"
    net.save(tmp_path / "changed")
    assert Supernet.load(tmp_path / "changed", net.space).trained
    other = supernet(seed=3)
    other.load_state_dict(net.state_dict())
    assert other.trained
    given = Supernet(net.space, weights=net.extract(net.space.largest), example=torch.zeros(1, 64))
    assert given.trained


class Tiny(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x))  # type: ignore[no-any-return]


def test_a_training_inside_an_evaluation_reads_its_own_supernet(tmp_path: Path) -> None:
    tiny = nas.Space(nas.model(Tiny)(width=pg.oneof([2, 4])))
    x, y = torch.randn(16, 4), torch.zeros(16, dtype=torch.long)
    task = nas.Classification((x, y), (x, y), batch=4)
    net = Supernet(tiny, example=x[:1])

    def late(arch: nas.Arch) -> dict[str, float]:
        Training(net, task, steps=2).run(progress=False)
        return {"accuracy": float(net(x, arch).argmax(1).float().mean())}

    late_study = nas.Study(
        "late", space=tiny, objectives=["max accuracy"], evaluators=[late], store=tmp_path / "nas.db"
    )
    assert late_study.rehearse()["state"] == "COMPLETED"
