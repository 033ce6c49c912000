"""A second call in the folder: what was made with the same options is used again, and the rest is made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.compressing import Compressed
from nas.errors import StudyError, TrainError
from nas.store import open_store
from tests.compressing.nets import supernet, task, trained
from tests.compressing.test_refusing import silent, without_loss


def compressed(folder: Path, budget: Any = "macs <= 50%", **options: Any) -> Compressed:
    few = {
        "epochs": 3,
        "warmup": 1,
        "trials": 8,
        "batches": 2,
        "lr": 3e-3,
        "progress": False,
        "fill": False,  # see test_filling.py
        "data": task(),
        **options,
    }
    return nas.compress(trained(), few.pop("data"), budget, folder=folder, **few)


def trainings(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.rglob("state.json")}


def studies(folder: Path) -> set[str]:
    return set(open_store(folder / "compress.db").names())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "net"
    compressed(folder)
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "net"))


@pytest.mark.parametrize(
    ("options", "trained_again", "searched_again"),
    [
        ({}, 0, 0),
        ({"lr": 1e-3}, 3, 5),  # warm-up, what was found and uniform scaling; searches and studies of what was tuned
        pytest.param({"teacher": 0.0}, 3, 5, marks=pytest.mark.slow),  # as the rate
        ({"epochs": 5, "candidates": 1}, 2, 2),  # the same warm-up and search
        ({"best": "max accuracy"}, 0, 3),  # the same trainings, judged otherwise
        ({"algorithm": nas.RandomSearch()}, None, None),
        pytest.param({"batches": 1}, None, None, marks=pytest.mark.slow),  # as the search
    ],
)
def test_what_options_decide_is_made_again(
    folder: Path, options: Mapping[str, Any], trained_again: int | None, searched_again: int | None
) -> None:
    before, known = trainings(folder), studies(folder)
    again = compressed(folder, **options)
    assert before <= trainings(folder), "nothing is lost"
    made, searched = trainings(folder) - before, studies(folder) - known
    if trained_again is None:
        assert {name.partition("-")[0] for name in searched} >= {"search", "within"}
        assert not any(name.startswith("warmed") for name in made)
    else:
        assert (len(made), len(searched)) == (trained_again, searched_again)
    assert again.choices[0].chosen.measured["macs"] <= again.choices[0].bound
    fresh = compressed(folder.with_name("fresh"), **options)
    assert dict(again.choices[0].chosen.measured) == pytest.approx(dict(fresh.choices[0].chosen.measured))


def test_another_order_or_task_needs_another_folder(folder: Path) -> None:
    with pytest.raises(StudyError, match="holds the compression of another order; give another folder="):
        compressed(folder, order="magnitude")
    with pytest.raises(StudyError, match="of another task"):
        compressed(folder, data=nas.digits(batch=16))


class Acting(nn.Module):
    """Of equal weights, whatever it does with them."""

    def __init__(self, act: str = "relu") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.act = nn.Linear(8, 24), nn.Linear(24, 3), act

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(getattr(torch, self.act)(self.first(x)))
        return found


def points() -> nas.Task:
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(1)
    return nas.Task.of((x[:40], y[:40]), (x[40:], y[40:]), loss="cross_entropy", batch=20)


def test_a_model_of_equal_weights_that_computes_something_else_needs_another_folder(tmp_path: Path) -> None:
    few: dict[str, Any] = {"epochs": 1, "trials": 4, "batches": 1, "progress": False, "fill": False}
    nas.compress(Acting(), points(), "macs <= 60%", folder=tmp_path, **few)
    nas.compress(Acting(), points(), "macs <= 60%", folder=tmp_path, **few)
    with pytest.raises(StudyError, match="holds the compression of another model; give another folder="):
        nas.compress(Acting("tanh"), points(), "macs <= 60%", folder=tmp_path, **few)
    note = tmp_path / "compress.json"  # as an earlier version wrote it
    record = json.loads(note.read_text())
    del record["model"]["identity"]
    note.write_text(json.dumps(record))
    nas.compress(Acting(), points(), "macs <= 60%", folder=tmp_path, **few)


def test_sensitivities_of_a_model_that_computes_something_else_are_measured(tmp_path: Path) -> None:
    def lost(act: str, folder: Path) -> list[float]:
        model = Acting(act).eval()
        net = nas.Supernet(nas.elastic(model, points().example), example=points().example, weights=model)
        net.save(tmp_path / act)
        found = nas.sensitivities(net, points(), batches=1, folder=folder, progress=False)
        return [float(one) for one in found.table["lost"]]

    lost("relu", tmp_path / "kept")
    assert lost("sigmoid", tmp_path / "kept") == lost("sigmoid", tmp_path / "fresh")


def test_times_that_decide_are_measured_once(tmp_path: Path) -> None:
    def compress() -> Compressed:
        return compressed(tmp_path, "latency_ms <= 0.8 * original", device="cpu", warmup=0, epochs=1, trials=4)

    one = compress()
    before = trainings(tmp_path), studies(tmp_path)
    two = compress()
    assert one.choices[0].bound == two.choices[0].bound
    assert (trainings(tmp_path), studies(tmp_path)) == before
    assert dict(one.choices[0].chosen.measured) == dict(two.choices[0].chosen.measured)


def test_a_training_that_diverges_is_one_sentence_and_a_lower_rate_goes_on(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"^warm-up: .*lower lr.*kept in '.*', where the same call goes on") as caught:
        compressed(tmp_path, lr=1e12, clip=None)
    assert "\n" not in str(caught.value)
    with pytest.raises(TrainError, match=r"^(race|tuning): .*lower lr"):
        compressed(tmp_path, lr=1e12, clip=None, warmup=0)
    assert compressed(tmp_path).choices[0].chosen.measured["macs"] > 0


def test_a_tuning_that_makes_a_network_worse_is_told(tmp_path: Path) -> None:
    options = {"warmup": 0, "candidates": 1, "epochs": 1, "trials": 4}
    worse = compressed(tmp_path / "high", "macs <= 80%", lr=3.0, optimizer="sgd", clip=None, divergence=1e9, **options)
    choice, told = worse.choices[0], "the found network was better before it was tuned, loss"
    assert choice.untuned is not None
    assert choice.untuned.measured["loss"] < choice.found.measured["loss"]
    assert choice.is_untuned
    assert choice.chosen is choice.untuned
    alone = nas.Accuracy(supernet(), task()).measure_module(worse.model)
    assert alone["loss"] == pytest.approx(choice.untuned.measured["loss"], rel=0.02), "with statistics of its own"
    assert any(told in note and "is chosen as it was; give a lower lr=" in note for note in worse.notes)
    card = (tmp_path / "high" / "README.md").read_text()
    assert told in card
    assert "as it was before it was tuned" in card
    better = compressed(tmp_path / "low", **options)
    assert not any(told in note for note in better.notes)


def test_a_budget_that_the_original_meets_has_the_original_and_trains_nothing(tmp_path: Path) -> None:
    result = compressed(tmp_path, "macs <= 1000000000")
    choice = result.choices[0]
    assert choice.is_original
    assert choice.uniform is None
    assert choice.chosen.arch == supernet().space.largest
    assert choice.chosen.measured["loss"] == pytest.approx(result.original["loss"])
    assert "the original, with macs" in result.notes[-1]
    assert "is chosen; nothing was trained" in result.notes[-1]
    assert not trainings(tmp_path)
    assert len(result.front) == 1
    x = task().example
    with torch.no_grad():
        assert torch.allclose(result.model(x), trained().eval()(x), atol=1e-4)


def test_other_budgets_beside_it_are_searched(folder: Path) -> None:
    before = trainings(folder)
    result = compressed(folder, ["macs <= 50%", "params <= 1000000000"])
    assert [choice.is_original for choice in result.choices] == [False, True]
    assert trainings(folder) == before


def test_a_task_without_a_loss_or_a_comparison_is_decided_by_what_it_has(tmp_path: Path) -> None:
    result = compressed(tmp_path / "one", data=without_loss(), best="max accuracy", epochs=1, warmup=0)
    assert "accuracy" in result.notes[-1]
    quiet = compressed(tmp_path / "two", data=silent(), epochs=1, warmup=0)
    assert any("labels alone teach" in note for note in quiet.notes)
    assert quiet.choices[0].chosen.measured["loss"] > 0


def test_why_no_network_was_measured_is_told(tmp_path: Path) -> None:
    class Failing(type(task())):  # type: ignore[misc]
        """Its training batches run out after those that the first look at the data and the size of stored outputs take."""

        def train_batches(self, epoch: int) -> Iterator[Any]:
            return iter(()) if asked.append(1) or len(asked) > 2 else super().train_batches(epoch)  # type: ignore[func-returns-value]

    asked: list[int] = []
    with pytest.raises(StudyError, match=r"^search: .*no training batch to calibrate with"):
        compressed(
            tmp_path,
            data=Failing(task().train, task().valid, batch=32),
            order="magnitude",
            warmup=0,
            epochs=1,  # type: ignore[attr-defined]
        )
