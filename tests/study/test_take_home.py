"""Taking a winner home: it computes what was evaluated, loads without its supernet, and a changed supernet is noticed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import nas
from nas.cli.app import run
from nas.errors import StudyError
from nas.study.take_home import _wrong, take_home
from nas.supernet.rounding import first_difference, gap
from searchspaces import conv
from tests.conformance.machines import MACHINES

JOB = """
import torch
from torch import nn
import pyglove as pg
import nas

@nas.model
def mlp(width, depth=1):
    model = nn.Sequential(nn.Flatten())
    for index in range(depth):
        model.append(nn.Sequential(nn.Linear(64 if not index else width, width), nn.BatchNorm1d(width), nn.ReLU()))
    model.head = nn.Linear(width, 10)
    return model

task = nas.digits()
supernet = nas.Supernet(nas.Space(mlp(width=pg.oneof([8, 16]), depth=pg.oneof([1, 2]))), example=task.example)
training = nas.Training(supernet, task, path="trained", steps=4)
study = nas.Study(
    "mlp",
    space=supernet.space,
    objectives=["max accuracy", "min params"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
    training=training,
    algorithm=nas.Exhaustive(),
    store="mlp.db",
    trials=4,
)
"""


def _load(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"winner_{folder.name}", folder / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> nas.Study:
    """A supernet trained a few steps, and six of its subnets evaluated."""
    folder = tmp_path_factory.mktemp("searched")
    task = nas.digits()
    supernet = conv.supernet()
    training = nas.Training(supernet, task, path=folder / "trained", steps=3, sampler=nas.Uniform(1), loss=nas.Labels())
    training.run(progress=False)
    study = nas.Study(
        "digits",
        space=supernet.space,
        objectives=["max accuracy", "min macs"],
        evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
        algorithm=nas.RandomSearch(),
        training=training,
        store=folder / "nas.db",
        trials=6,
    )
    study.run(workers=0, progress=False)
    return study


def test_the_winner_is_ordinary_and_computes_what_the_supernet_does(searched: nas.Study) -> None:
    number = int(searched.front().index[0])
    module = searched.extract(number)
    arch = searched.arch(number)
    accuracy = searched.evaluators[0]
    assert isinstance(accuracy, nas.Accuracy)
    assert type(module) is conv.ConvNet
    assert accuracy.difference(module, arch).same
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    again = searched.extract(number)
    assert any(parameter.abs().sum() > 0 for parameter in again.parameters()), "it shares nothing with the supernet"


def test_what_is_written_loads_to_the_same_module(searched: nas.Study, tmp_path: Path) -> None:
    winner = take_home(searched, int(searched.front().index[-1]))
    winner.write(tmp_path / "winner")
    loaded = _load(tmp_path / "winner")
    assert first_difference(winner.module.state_dict(), loaded.state_dict()) is None
    assert gap(winner.module, loaded, winner.example).same
    assert not loaded.training
    told = json.loads((tmp_path / "winner" / "arch.json").read_text())
    assert told["arch"]["choices"] == winner.arch.choices
    assert told["measurements"]["macs"] == winner.measurements["macs"]
    with pytest.raises(StudyError, match="exists already"):
        winner.write(tmp_path / "winner")
    assert [path.name for path in tmp_path.iterdir()] == ["winner"]


def test_a_folded_winner_has_fewer_layers_and_loads(
    searched: nas.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = int(searched.front().index[-1])
    plain, folded = take_home(searched, number), take_home(searched, number, fold=True)
    assert folded.folded is not None
    norms = [name for name, one in plain.module.named_modules() if isinstance(one, torch.nn.BatchNorm2d)]
    assert sorted(folded.folded.merged) == sorted(norms)
    folded.write(tmp_path / "winner")
    loaded = _load(tmp_path / "winner")
    assert not any(isinstance(one, torch.nn.BatchNorm2d) for one in loaded.modules())
    assert type(loaded).__name__ == type(plain.module).__name__
    assert gap(plain.module, loaded, plain.example).same
    told = json.loads((tmp_path / "winner" / "arch.json").read_text())
    assert told["folded"] == folded.folded.describe()
    plain.write(tmp_path / "plain")
    assert "folded" not in json.loads((tmp_path / "plain" / "arch.json").read_text())
    monkeypatch.setattr("nas.cli.taking.declared", lambda *given: searched)
    assert run(["extract", searched.name, str(number), "-o", str(tmp_path / "told"), "--fold"]) == 0
    assert f"\nfolded {len(norms)} layers ({norms[0]} into " in capsys.readouterr().out
    assert (tmp_path / "told" / "load.py").exists()


def test_names_and_values_of_the_record_are_no_source(searched: nas.Study, tmp_path: Path) -> None:
    attack = '"""\nimport pathlib; pathlib.Path("attacked").touch()\n"""'
    winner = take_home(searched, int(searched.front().index[0]))
    hostile = dataclasses.replace(winner, study=attack, measurements={attack: 1.0}, checked={attack: 1.0})
    hostile.write(tmp_path / "winner")
    source = (tmp_path / "winner" / "load.py").read_text(encoding="utf-8")
    assert "attacked" not in source
    assert not (tmp_path / "attacked").exists()
    assert json.loads((tmp_path / "winner" / "arch.json").read_text())["study"] == attack


def test_a_network_that_gives_no_units_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a regression, which standardises its targets inside."""
    monkeypatch.chdir(tmp_path)
    data = "torch.manual_seed(0)\nX = torch.randn(40, 64)\nDATA = [(x, 100 + 7 * x[:, 0]) for x in (X, X + 1)]\n"
    job = JOB.replace("import nas\n", f"import nas\n{data}", 1).replace(
        "nas.digits()", "nas.Regression(*DATA, batch=8)"
    )
    job = job.replace("max accuracy", "min rmse").replace("nn.Linear(width, 10)", "nn.Linear(width, 1)")
    Path("units_job.py").write_text(job)
    assert run(["train", "units_job.py", "--quiet"]) == 0
    assert run(["run", "units_job.py", "--workers", "0", "--quiet"]) == 0
    assert run(["extract", "mlp", "0", "--store", "mlp.db", "-o", "winner"]) == 0
    said = (
        "outputs are standardised" + capsys.readouterr().out.rpartition("outputs are standardised")[2].splitlines()[0]
    )
    told = json.loads(Path("winner/arch.json").read_text())
    assert told["note"] == said
    scale, offset = said.removeprefix("outputs are standardised: output * ").split(" is in")[0].split(" + ")
    torch.manual_seed(0)
    x = torch.randn(40, 64) + 1
    with torch.no_grad():
        error = _load(tmp_path / "winner")(x).flatten() * float(scale) + float(offset) - (100 + 7 * x[:, 0])
    assert error.square().mean().sqrt().item() == pytest.approx(told["measurements"]["rmse"], rel=1e-3)
    assert said in " ".join(Path("winner/load.py").read_text(encoding="utf-8").split())


def test_a_note_is_text_and_no_source(searched: nas.Study, tmp_path: Path) -> None:
    winner = take_home(searched, int(searched.front().index[0]))
    assert winner.note == ""
    winner.write(tmp_path / "plain")
    winner_source = (tmp_path / "plain" / "load.py").read_text(encoding="utf-8")
    hostile = dataclasses.replace(winner, note='in \\ units\n"""\nraise SystemExit("attacked")\n"""')
    hostile.write(tmp_path / "winner")
    source = (tmp_path / "winner" / "load.py").read_text(encoding="utf-8")
    assert "in  units" in source
    assert source.count('"""\n') == winner_source.count('"""\n')


def test_a_trial_whose_record_says_otherwise_is_refused(searched: nas.Study) -> None:
    """As after a supernet was trained on: the module is right, but it is not what was evaluated."""
    accuracy = searched.evaluators[0]
    assert isinstance(accuracy, nas.Accuracy)
    arch = searched.arch(0)
    supernet = accuracy.weights.get(arch.space)
    head = dict(supernet.named_parameters())["head.weight"]
    with torch.no_grad():
        head.mul_(-1.0)
    try:
        with pytest.raises(StudyError, match=r"is not what was evaluated: .*where the record has .*has changed since"):
            take_home(searched, 0)
    finally:
        with torch.no_grad():
            head.mul_(-1.0)
    take_home(searched, 0)


@pytest.mark.parametrize("machine", MACHINES)
def test_it_is_taken_home_on_another_machine(searched: nas.Study, machine: str, tmp_path: Path) -> None:
    with MACHINES[machine]():
        winner = take_home(searched, int(searched.front().index[-1]))
        winner.write(tmp_path / "winner")
    assert set(winner.checked) == {"accuracy", "loss"}


def test_a_metric_that_rounding_moves_elsewhere_is_said_and_one_beyond_is_refused(
    searched: nas.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy, measured = searched.evaluators[0], nas.Accuracy.measure_module
    assert isinstance(accuracy, nas.Accuracy)
    record = searched.record.trial(0).measurements["accuracy"]
    modules: list[int] = []

    def stepping(self: nas.Accuracy, module: torch.nn.Module) -> dict[str, float]:
        """A sample or two of a hundred are on the border: on whose side depends on the last bits of the weights."""
        modules.append(id(module))
        return {**measured(self, module), "accuracy": record + 0.01 * (len(modules) % 3)}

    monkeypatch.setattr(nas.Accuracy, "measure_module", stepping)
    winner = take_home(searched, 0)
    assert f"accuracy {record + 0.01:.6g} here, {record:.6g} where it was evaluated, as rounding explains" in str(
        winner
    )
    assert len(modules) == 5
    assert len(set(modules)) > 1, "copies whose weights are moved"

    def beyond(self: nas.Accuracy, module: torch.nn.Module) -> dict[str, float]:
        return {**measured(self, module), "accuracy": record + 0.01}

    monkeypatch.setattr(nas.Accuracy, "measure_module", beyond)
    with pytest.raises(
        StudyError, match=r"accuracy is .* where the record has .*, and rounding on .* explains 0; the "
    ):
        take_home(searched, 0)


def test_samples_between_two_classes_may_fall_on_either_side_elsewhere(searched: nas.Study) -> None:
    accuracy = searched.evaluators[0]
    assert isinstance(accuracy, nas.Accuracy)
    module = accuracy.extract(searched.arch(0))
    weight, bias = module.head.weight, module.head.bias  # type: ignore[union-attr]
    with torch.no_grad():
        weight.copy_(weight[:1].expand_as(weight))  # type: ignore[arg-type, operator, index]
        bias.zero_()  # type: ignore[operator, union-attr]
    there, elsewhere = MACHINES["another processor"], MACHINES["another processor"]
    with there(1):
        record = accuracy.measure_module(module)
    with elsewhere(2):
        again = accuracy.measure_module(module)
    assert not math.isclose(record["accuracy"], again["accuracy"], rel_tol=1e-3)
    assert _wrong(accuracy, module, again, record) == []
    (said,) = _wrong(accuracy, module, again, {**record, "accuracy": record["accuracy"] + 0.5})
    assert "accuracy is" in said
    (said,) = _wrong(accuracy, module, again, {**record, "loss": record["loss"] * 1.01})
    assert "loss is" in said


def test_a_job_that_defines_its_own_model_goes_home_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(JOB)
    assert run(["run", "mine.py", "--workers", "1", "--quiet"]) == 2
    assert "nas train" in capsys.readouterr().err, "what to do about a supernet that is not trained"
    assert run(["train", "mine.py", "--quiet"]) == 0
    assert run(["run", "mine.py", "--workers", "1", "--quiet"]) == 0
    assert run(["extract", "mlp", "3", "--store", "mlp.db", "-o", "winner"]) == 0
    told = capsys.readouterr().out
    assert "the extracted module computes what was evaluated" in told
    (tmp_path / "mine.py").unlink()
    model = _load(tmp_path / "winner")
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_failed_trial_is_not_taken_home(searched: nas.Study, tmp_path: Path) -> None:
    by_hand = nas.Study(
        "hand", space=searched.space, objectives=["max accuracy"], store=tmp_path / "hand.db", algorithm="random"
    )
    (asked,) = by_hand.ask()
    with pytest.raises(StudyError, match="is RUNNING"):
        by_hand.extract(asked.number)
    by_hand.tell(asked.number, None, "no")
    with pytest.raises(StudyError, match="is FAILED"):
        by_hand.extract(asked.number)
