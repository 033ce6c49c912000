"""`nas.compress`, from a trained model to a tuned network within a budget."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nas
from nas import files
from nas.compressing import Compressed, recipe
from nas.errors import MetricError, StudyError
from tests.compressing.nets import Net, supernet, task, trained


def compressed(folder: Path, budget: Any = "macs <= 50%", **options: Any) -> Compressed:
    few = {"epochs": 3, "trials": 24, "batches": 2, "lr": 3e-3, "progress": False, "fill": False, **options}
    return nas.compress(trained(), task(), budget, folder=folder, **few)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    return compressed(tmp_path_factory.mktemp("once") / "net")


def test_the_network_is_within_the_budget_and_of_the_models_class(result: Compressed) -> None:
    network = result.model
    assert type(network) is Net
    assert not network.training
    assert result.choices[0].chosen.measured["macs"] <= 0.5 * result.original["macs"]
    assert sum(one.numel() for one in network.parameters()) == result.choices[0].chosen.measured["params"]
    accuracy = nas.Accuracy(supernet(), task()).measure_module(network)["accuracy"]
    assert accuracy == pytest.approx(result.choices[0].chosen.measured["accuracy"], abs=0.005)


def test_the_model_is_left_as_it_is(result: Compressed) -> None:
    before = {name: tensor.clone() for name, tensor in trained().state_dict().items()}
    assert result.choices
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained().state_dict().items())


def test_uniform_scaling_had_as_many_passes_and_the_better_one_is_chosen(result: Compressed) -> None:
    choice = result.choices[0]
    assert choice.uniform is not None
    assert choice.uniform.measured["epochs"] == 3
    assert choice.found.measured["epochs"] == 2, "one of the epochs was that of the candidate that lost the race"
    for one in (choice.uniform, choice.found):
        assert one.measured["macs"] <= choice.bound
        assert choice.chosen.measured["loss"] <= one.measured["loss"]
    assert choice.is_uniform == (choice.chosen is choice.uniform)


def test_ranks_are_searched_where_they_are_asked_for(tmp_path: Path) -> None:
    made = compressed(tmp_path / "net", "params <= 95%", options={"rank": (3, 6), "width": (1.0, 1.0), "depth": False})
    net = nas.Supernet.load(tmp_path / "net" / "supernet", made.choices[0].found.study.space)
    assert any("layers may be two factors" in note for note in made.notes)
    assert {name.split(".")[-2] for name, _ in net.named_parameters() if "blocks.0.last" in name} >= {"down", "up"}
    chosen = made.choices[0].chosen
    assert sum(one.numel() for one in made.model.parameters()) == chosen.measured["params"] <= made.choices[0].bound
    assert any(isinstance(one, torch.nn.Sequential) and hasattr(one, "down") for one in made.model.modules())


def test_linear_maps_are_fitted_and_searched_where_they_are_asked_for(tmp_path: Path) -> None:
    made = compressed(tmp_path / "net", "macs <= 45%", options={"linear": True, "width": (1.0, 1.0)})
    assert any("2 blocks may be linear maps" in note for note in made.notes)
    rows = made.search.trials()
    mapped = rows["choices"].map(lambda choices: "linear" in choices.values())
    assert mapped.any()
    assert rows.loc[mapped, "divergence"].notna().all()


def test_every_number_is_a_row_of_a_study(result: Compressed) -> None:
    chosen = result.choices[0].chosen
    tuned = chosen.study.record.trial(chosen.number)
    assert dict(tuned.measurements) == dict(chosen.measured)
    assert set(result.front.columns) >= {"divergence", "macs", "params"}
    assert "macs <= 0.5 * original: loss" in result.notes[-1]


def test_a_second_call_measures_and_trains_nothing_again(result: Compressed) -> None:
    folder = result.folder
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*.safetensors"))
    again = compressed(folder)
    assert again.choices[0].chosen.measured == result.choices[0].chosen.measured
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*.safetensors")) == before


def test_the_original_runs_once_for_all_networks_and_decides_the_same(result: Compressed, tmp_path: Path) -> None:
    per_epoch, epochs = task().steps_per_epoch, 3
    assert len(list((result.folder / "outputs").glob("*/*.out"))) == per_epoch * epochs
    running = compressed(tmp_path, stored=False, trials=2)
    assert not (tmp_path / "outputs").exists()
    one, other = (found.choices[0].uniform for found in (result, running))
    assert one is not None
    assert other is not None
    assert one.arch == other.arch
    assert dict(one.measured) == dict(other.measured), "to the bit"


def test_the_original_teaches_with_the_statistics_that_it_came_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers: list[torch.nn.Module] = []

    def noted(module: torch.nn.Module, **options: Any) -> nas.Teacher:
        teachers.append(module)
        return nas.Teacher(module, **options)

    monkeypatch.setattr("nas.evaluate.trained.Teacher", noted)
    compressed(tmp_path, epochs=1, trials=2, order="magnitude")
    theirs = {name: one for name, one in trained().named_buffers() if "running" in name}
    for teacher in teachers:
        ours = dict(teacher.named_buffers())
        assert all(torch.equal(ours[name].sort().values, one.sort().values) for name, one in theirs.items())
    assert teachers


def test_a_disk_that_fills_with_outputs_loses_nothing(
    result: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write

    def full(target: Path, *rest: Any, **options: Any) -> None:
        if Path(target).suffix == ".out":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(target, *rest, **options)

    monkeypatch.setattr(files, "write", full)
    with pytest.warns(UserWarning, match="No space left on device") as warned:
        running = compressed(tmp_path, trials=2)
    assert len(warned) == 1
    assert not list((tmp_path / "outputs").glob("*/*.out"))
    one, other = (found.choices[0].uniform for found in (result, running))
    assert one is not None
    assert other is not None
    assert dict(one.measured) == dict(other.measured)


def test_outputs_that_take_much_are_stored_where_asked_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "STORED_GIB", 1e-9)
    running = compressed(tmp_path / "auto", epochs=1, trials=4)
    assert any("the original runs for every network: its outputs would take 0.0 GiB" in one for one in running.notes)
    assert not (tmp_path / "auto" / "outputs").exists()
    compressed(tmp_path / "asked", epochs=1, trials=4, stored=True)
    assert len(list((tmp_path / "asked" / "outputs").glob("*/*.out"))) == task().steps_per_epoch


def test_the_report_says_what_it_was_made_with(result: Compressed) -> None:
    assert dict(result.asked) == {"epochs": 3, "trials": 24, "batches": 2, "lr": 3e-3, "fill": False}
    call = f"folder={str(result.folder)!r}, epochs=3, trials=24, batches=2, fill=False, lr=0.003)"
    assert f"nas.compress(model, task, 'macs <= 0.5 * original', {call}" in (result.folder / "README.md").read_text()


def test_several_budgets_are_searched_at_once(result: Compressed) -> None:
    wider = compressed(result.folder, ["macs <= 50%", "macs <= 80%"])
    assert [choice.budget.share for choice in wider.choices] == [0.5, 0.8]
    assert wider.choices[1].chosen.measured["macs"] <= 0.8 * wider.original["macs"]
    for choice in wider.choices:
        assert sum(one.numel() for one in choice.model.parameters()) == choice.chosen.measured["params"]
    with pytest.raises(
        StudyError, match=r"2 budgets, each .*: result.choices\[0\].model for macs <= 0.5 .*not offered"
    ):
        _ = wider.model


def test_latencies_of_what_is_chosen_are_measured_in_turns_with_the_original(tmp_path: Path) -> None:
    made = compressed(tmp_path / "net", "latency_ms <= 99%", device="cpu", trials=6)
    choice = made.choices[0]
    assert choice.turns is not None
    assert choice.turns.original > 0
    assert (choice.turns.uniform is None) == (choice.uniform is None)
    assert "in turns" in (tmp_path / "net" / "README.md").read_text()
    again = compressed(tmp_path / "net", "latency_ms <= 99%", device="cpu", trials=6)
    assert again.choices[0].turns == choice.turns


SEEN: set[int] = set()


def hasty(module: nn.Module, _: Any) -> float:
    """Milliseconds: a microsecond a parameter, and at its first sight of a smaller network 0.7 of that."""
    params = sum(one.numel() for one in module.parameters())
    whole = params == sum(one.numel() for one in trained().parameters())
    again = whole or params in SEEN
    SEEN.add(params)
    return params / 1000 * (1.0 if again else 0.7)


def test_a_network_whose_first_time_was_too_short_is_not_tuned(tmp_path: Path) -> None:
    made = compressed(tmp_path / "net", "latency_ms <= 60%", device=nas.Custom("hasty", hasty))
    assert made.choices[0].found.measured["params"] <= 0.6 * made.original["params"]


def test_a_folder_of_another_model_is_refused(result: Compressed) -> None:
    with pytest.raises(StudyError, match="holds the compression of another model"):
        nas.compress(Net(hidden=24), task(), "50%", folder=result.folder, progress=False)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("params <= 1", "below the smallest network of space 'Net'"),
        ("latency_ms <= 50%", "nothing measures here"),
        ("small", "not understood"),
        ("macs <= 50% & params <= 20%", "several bounds at once is not offered here; a study finds one"),
        ("macs <= 50% and params <= 20%", "is of several bounds"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused_before_the_search(tmp_path: Path, budget: str, said: str) -> None:
    with pytest.raises(MetricError, match=said):
        compressed(tmp_path / "net", budget)
    assert not (tmp_path / "net" / "compress.db").exists()


NARROW = {"depth": False}


def only_the_smallest() -> str:
    """A budget that one network is within."""
    space = nas.elastic(trained(), task().example, **NARROW)
    return f"params <= {nas.Supernet(space, example=task().example, weights=trained()).params(space.smallest)}"


def test_a_race_that_does_not_take_place_takes_no_epoch(tmp_path: Path) -> None:
    made = compressed(tmp_path / "net", only_the_smallest(), epochs=5, candidates=4, trials=4, options=NARROW)
    (choice,) = made.choices
    assert choice.uniform is not None
    assert choice.found.arch == choice.uniform.arch
    assert choice.found.measured["epochs"] == choice.uniform.measured["epochs"] == 5
    assert choice.is_same
    assert "the found network and uniform scaling are one network, which is chosen" in made.notes[-1]
    assert "better" not in made.notes[-1]
    assert "both are one network, which is chosen" in (tmp_path / "net" / "README.md").read_text()


def test_each_budget_has_as_many_passes_as_its_race_leaves(tmp_path: Path) -> None:
    made = compressed(tmp_path / "net", [only_the_smallest(), "params <= 60%"], trials=8, options=NARROW)
    assert [one.found.measured["epochs"] for one in made.choices] == [3, 2]
    assert all(one.uniform is not None and one.uniform.measured["epochs"] == 3 for one in made.choices)
