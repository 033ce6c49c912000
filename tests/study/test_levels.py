"""Studies whose search decides how far each arch is evaluated: two records, and neither takes the other's values for its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import nas
from nas.errors import StudyError
from nas.evaluate import Evaluator
from nas.space import Arch
from tests.conformance.patience import PATIENCE_S
from tests.study.landscapes import grid, trade_off

WHOLE = 9.0


class Quality(Evaluator):
    """Grows with the epochs, to that of `trade_off`; an arch that is told to stop after one has 20 less."""

    metrics = ("quality", "epochs")
    fidelity = ("epochs", WHOLE)

    def __init__(self, broken: int = 0) -> None:
        self.broken = broken  # epochs at which evaluations fail

    def describe(self) -> dict[str, Any]:
        return {"name": "Quality"}

    def __call__(self, arch: Arch) -> dict[str, float]:
        return self._at(arch, WHOLE)

    def up_to(self, arch: Arch, far: float) -> dict[str, float]:
        return self._at(arch, far)

    def _at(self, arch: Arch, epochs: float) -> dict[str, float]:
        if epochs == self.broken:
            raise RuntimeError("out of cheese")
        odd = 0.3 * (sum(arch.choices.values()) % 2)
        return {"quality": trade_off(arch)["quality"] - (WHOLE - epochs) * (2.5 + odd), "epochs": epochs}


class Cost(Evaluator):
    """The same however far an evaluation goes."""

    metrics = ("cost",)
    cost = "cheap"

    def __call__(self, arch: Arch) -> dict[str, float]:
        return {"cost": trade_off(arch)["cost"]}


def study(folder: Path, name: str = "s", *, evaluators: Any = None, algorithm: Any = None, **options: Any) -> nas.Study:
    return nas.Study(
        name,
        space=grid(),
        objectives=["max quality", "min cost"],
        evaluators=evaluators or [Quality(), Cost()],
        algorithm=algorithm or nas.MultiFidelity(initial=4, candidates=32),
        store=folder / "nas.db",
        **options,
    )


def rows(frame: pd.DataFrame) -> list[str]:
    return [str(choices) for choices in frame["choices"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_values_of_low_evaluations_are_in_a_study_of_their_own(tmp_path: Path, workers: int) -> None:
    one = study(tmp_path)
    summary = one.run(10, workers=workers, progress=False)
    full, low = one.trials(), one.low.trials()
    assert one.low.name == "s@1"
    assert len(full) == summary.counts["COMPLETED"] == summary.evaluated == 10
    assert set(full["epochs"]) == {WHOLE}
    assert set(low["epochs"]) == {1.0}
    assert f"10 trials, {len(low)} low evaluations (study 's@1')" in str(summary)
    by_arch = {str(row.choices): row for row in low.itertuples()}
    for row in full.itertuples():
        arch = one.arch(row.Index)
        assert row.quality == trade_off(arch)["quality"]
        assert by_arch[str(row.choices)].quality < row.quality - 19
        assert by_arch[str(row.choices)].cost == row.cost
    assert set(one.front().index) <= set(full.index)
    assert one.best()["epochs"] == WHOLE


def test_a_study_that_is_stopped_and_resumed_decides_as_one_that_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = study(tmp_path / "a")
    whole.run(14, workers=0, progress=False)
    for trials in (2, 5, 9, 14):
        parts = study(tmp_path / "b")
        parts.run(trials, workers=0, progress=False)
        parts.close()
    parts = study(tmp_path / "b")
    assert rows(parts.trials()) == rows(whole.trials())
    assert rows(parts.low.trials()) == rows(whole.low.trials())


def test_evaluations_that_a_killed_run_had_begun_are_made_at_their_level(tmp_path: Path) -> None:
    one = study(tmp_path)
    one.run(4, workers=0, progress=False)
    driver = one.driver()
    low = one.low.driver_of(driver.algorithm.low_level)  # type: ignore[attr-defined]
    begun = low.tasks(1) or driver.tasks(1)
    assert len(begun) == 1
    low.release()
    driver.release()
    one = study(tmp_path)
    one.run(6, workers=0, progress=False)
    assert set(one.trials()["epochs"]) == {WHOLE}
    assert set(one.low.trials()["epochs"]) == {1.0}
    assert set(one.low.trials()["state"]) == {"COMPLETED"}


def test_constraints_on_what_varies_judge_full_evaluations_alone(tmp_path: Path) -> None:
    one = study(tmp_path, constraints=["quality >= -2", "cost <= 40"])
    one.run(12, workers=0, progress=False)
    low = one.low.trials()
    assert [str(constraint) for constraint in one.low.constraints] == ["cost <= 40"]
    assert set(low[low["cost"] <= 40]["state"]) == {"COMPLETED"}, "though all of them have a quality below -2"
    assert (one.front()["quality"] >= -2).all()
    assert (one.trials()["cost"] <= 40).all()


def test_low_evaluations_that_all_fail_stop_the_run_and_are_tried_again(tmp_path: Path) -> None:
    one = study(tmp_path, evaluators=[Quality(broken=1), Cost()], max_failures=4)
    with pytest.raises(StudyError, match="4 evaluations in a row failed, so study 's@1' stops.*out of cheese"):
        one.run(5, workers=0, progress=False)
    assert not len(one.trials())
    one = study(tmp_path)
    one.run(5, workers=0, progress=False, retry_failed=True)
    assert len(one.trials()) == 5
    assert set(one.low.trials()["state"]) == {"COMPLETED"}


def test_the_whole_space_can_be_evaluated(tmp_path: Path) -> None:
    one = nas.Study(
        "small",
        space=grid(3),
        objectives=["max quality"],
        evaluators=[Quality(), Cost()],
        algorithm=nas.MultiFidelity(initial=4, candidates=16),
        store=tmp_path / "nas.db",
    )
    summary = one.run(50, workers=0, progress=False)
    assert summary.counts["COMPLETED"] == 9
    assert "every arch of the space" in summary.message


class Unsaid(Quality):
    fidelity = None


class Nameless(Quality):
    metrics = None


class Elsewhere(Quality):
    metrics = ("loss", "epochs")


def plain(arch: Arch) -> Mapping[str, float]:
    return trade_off(arch)


@pytest.mark.parametrize(
    ("evaluators", "sentence"),
    [
        ([plain], "0 evaluators of study 's' have up_to, and 'multi-fidelity' needs exactly one"),
        ([Unsaid(), Cost()], "declares no fidelity, as in"),
        ([Nameless(), Cost()], "declares no metrics, as in"),
        ([Elsewhere(), plain], "no objective of study 's' is among what its evaluator that stops early yields"),
    ],
)
def test_what_the_search_needs_is_said_before_work_starts(tmp_path: Path, evaluators: Any, sentence: str) -> None:
    with pytest.raises(StudyError, match=sentence):
        study(tmp_path, evaluators=evaluators).run(3, workers=0, progress=False)


def test_a_study_is_not_asked_by_hand_how_far_its_evaluators_go(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be asked by hand"):
        study(tmp_path).ask()
    with pytest.raises(StudyError, match="its algorithm is 'random'"):
        assert study(tmp_path, "r", algorithm="random").low


def test_a_job_with_another_level_is_refused(tmp_path: Path) -> None:
    study(tmp_path).run(2, workers=0, progress=False)
    with pytest.raises(StudyError, match="begun with algorithm"):
        study(tmp_path, algorithm=nas.MultiFidelity(2, initial=4, candidates=32)).run(3, workers=0, progress=False)


def test_a_study_under_another_name_has_low_evaluations_of_its_own(tmp_path: Path) -> None:
    one = study(tmp_path)
    assert one.low.name == "s@1"
    one.rename("t")
    assert one.low.name == "t@1"


def test_a_study_that_is_renamed_in_the_database_goes_on_with_its_low_evaluations(tmp_path: Path) -> None:
    one = study(tmp_path)
    one.run(5, workers=0, progress=False)
    before = rows(one.low.trials())
    one.store.rename_study("s", "t")
    assert one.store.names() == ["t", "t@1"]
    again = study(tmp_path, "t")
    again.run(6, workers=0, progress=False)
    assert rows(again.low.trials())[: len(before)] == before
    driver = again.low.driver_of(again.driver().algorithm.low_level)  # type: ignore[attr-defined]
    assert driver.finished >= len(before)
    again.store.delete_study("t")
    assert again.store.names() == []


def test_a_study_in_another_database_has_its_low_evaluations_there(tmp_path: Path) -> None:
    one = study(tmp_path)
    assert one.low.place == one.place
    one.rename("s", tmp_path / "other.db")
    assert one.low.place == one.place == str(tmp_path / "other.db")


def test_a_study_of_ones_own_that_is_called_so_is_not_taken_for_low_evaluations(tmp_path: Path) -> None:
    own = study(tmp_path, "s@1", algorithm="random")
    own.run(3, workers=0, progress=False)
    one = study(tmp_path)
    with pytest.raises(StudyError, match="study 's@1' was begun with"):
        one.run(3, workers=0, progress=False)
    assert one.store.levels("s") == []
    one.store.delete_study("s")
    assert one.store.names() == ["s@1"]
    assert len(own.trials()) == 3


@pytest.mark.ray
def test_both_levels_are_evaluated_by_ray_actors(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    one = study(tmp_path)
    summary = one.run(5, workers=2, ray=True, progress=False)
    assert summary.counts["COMPLETED"] == 5
    assert set(one.trials()["epochs"]) == {WHOLE}
    low = one.low.trials()
    assert set(low["epochs"]) == {1.0}
    assert len(low) >= 8
    workers = {*one.trials()["worker"], *low["worker"]}
    assert len(workers) == 2, "the levels share the actors"


def paced(folder: Path) -> nas.Study:
    return study(folder, evaluators=[Slow(), Cost()])


class Slow(Quality):
    def _at(self, arch: Arch, epochs: float) -> dict[str, float]:
        time.sleep(0.01 * epochs)
        return super()._at(arch, epochs)


def begin(folder: str) -> None:
    paced(Path(folder)).run(8, workers=0, progress=False)


def test_two_drivers_share_both_levels(tmp_path: Path) -> None:
    one = paced(tmp_path)
    assert (one.record.counts()["COMPLETED"], one.low.record.counts()["COMPLETED"]) == (0, 0)  # both are created
    processes = [multiprocessing.get_context("spawn").Process(target=begin, args=(str(tmp_path),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [0, 0]
    full, low = one.trials(), one.low.trials()
    assert full["epochs"].tolist() == [WHOLE] * 8
    assert set(low["epochs"].dropna()) == {1.0}
