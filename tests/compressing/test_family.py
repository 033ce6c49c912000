"""`nas.compress(…, tune="family")`: the networks of the search tuned together, as one supernet."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

import nas
from nas.compressing import Compressed, Members
from nas.errors import DeviceError, EvaluationError, TrainError
from nas.train import Training
from tests.compressing.nets import Net, supernet, task, trained


def compressed(folder: Path, budget: Any = "macs <= 50%, macs <= 80%", **options: Any) -> Compressed:
    few = {"epochs": 2, "trials": 16, "batches": 2, "lr": 3e-3, "progress": False, "tune": "family", **options}
    return nas.compress(trained(), task(), budget, folder=folder, algorithm=nas.RandomSearch(), **few)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    return compressed(tmp_path_factory.mktemp("family") / "net")


def test_all_networks_share_one_supernet_that_is_kept(result: Compressed) -> None:
    family = result.family
    assert family is not None
    rows = family.study.trials()
    assert len(rows) > 2
    assert (rows["state"] == "COMPLETED").all()
    assert result.front.equals(family.study.front())
    again = nas.Supernet.load(family.folder, supernet().space)
    number = int(rows.index[-1])
    arch, measured = family.study.arch(number), family.study.record.trial(number).measurements
    assert measured["loss"] == pytest.approx(nas.Accuracy(again, task())(arch)["loss"])
    assert measured["loss"] != pytest.approx(nas.Accuracy(supernet(), task())(arch)["loss"]), "it is tuned"
    inputs = task().calibration_inputs()
    switching = nas.ElasticModel(family.supernet, result.front, objective="max accuracy", calibration=inputs)
    assert switching(task().example).shape == (1, 10)


def test_the_best_of_each_budget_is_chosen_beside_uniform_scaling(result: Compressed) -> None:
    assert result.family is not None
    for choice in result.choices:
        assert choice.found.study is result.family.study
        assert choice.found.measured["macs"] <= choice.bound
        within = result.family.study.trials(f"macs <= {choice.bound!r}")
        assert choice.found.measured["loss"] == within["loss"].min()
        assert choice.uniform is not None
        assert choice.uniform.measured["epochs"] == 2
    network = result.choices[0].model
    assert type(network) is Net
    accuracy = nas.Accuracy(supernet(), task()).measure_module(network)["accuracy"]
    assert accuracy == pytest.approx(result.choices[0].chosen.measured["accuracy"], abs=0.005)


def test_the_page_and_the_card_show_the_family(result: Compressed) -> None:
    assert result.family is not None
    card, page = (result.folder / name for name in ("README.md", "report.html"))
    assert "## Family" in card.read_text()
    assert "<h2>Family</h2>" in page.read_text()
    assert f"nas front {result.family.study.name} --store" in card.read_text()
    assert any(note.startswith("family: ") for note in result.notes)


def test_a_second_call_makes_nothing_again_and_a_single_network_beside_it(result: Compressed) -> None:
    def weights() -> list[tuple[Path, int]]:
        return sorted((path, path.stat().st_mtime_ns) for path in result.folder.rglob("*.safetensors"))

    before = weights()
    again = compressed(result.folder)
    assert weights() == before
    assert [one.chosen.measured for one in again.choices] == [one.chosen.measured for one in result.choices]
    single = compressed(result.folder, tune="network")
    assert single.family is None
    assert single.choices[0].found.measured["epochs"] == 2
    assert set(before) <= set(weights())


def test_a_killed_family_goes_on(result: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    run = Training.run

    def until(self: Training, *arguments: Any, **options: Any) -> Any:
        if isinstance(self.sampler, Members):
            run(self, progress=False, until=7)
            raise Killed
        return run(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "run", until)
        with pytest.raises(Killed):
            compressed(tmp_path / "net")
    resumed = compressed(tmp_path / "net")
    assert resumed.family is not None
    assert result.family is not None
    ours, theirs = (one.supernet.state_dict() for one in (resumed.family, result.family))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_family_that_diverges_is_one_sentence_and_a_lower_rate_goes_on(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"^tuning: .*lower lr.*kept in '.*', where the same call goes on") as caught:
        compressed(tmp_path, lr=1e12, clip=None)
    assert "\n" not in str(caught.value)
    assert compressed(tmp_path).family is not None


def test_each_member_has_its_turn() -> None:
    space = supernet().space
    archs = [space.sample(random.Random(seed)) for seed in range(5)]
    sampler = Members(archs)
    for turn in range(3):
        drawn = [sampler.archs(space, step, random.Random(step)) for step in range(5 * turn, 5 * turn + 5)]
        assert all(len(one) == 1 for one in drawn)
        assert {one[0] for one in drawn} == set(archs)
    assert sampler.describe() != Members(archs[:4]).describe()


def test_a_race_means_nothing_for_a_family(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="candidates=2 has no effect with tune='family'"):
        compressed(tmp_path / "net", candidates=2)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("device", ["cuda:9", "meta", "gpu"])
def test_a_device_that_is_not_there_is_told_before_any_work(tmp_path: Path, device: str) -> None:
    with pytest.raises(DeviceError, match=f"device '{device}' is not there; there are: cpu"):
        compressed(tmp_path / "net", train_device=device)
    assert not (tmp_path / "net").exists()
    with pytest.raises(DeviceError, match="is not there"):
        nas.Calibration(supernet(), task(), device=device)
