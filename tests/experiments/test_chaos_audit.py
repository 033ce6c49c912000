"""The audit of `experiments/chaos` sees what it is there to see."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHAOS = Path(__file__).parents[2] / "experiments" / "chaos"
CLEAN = {"trials": 9, "lost": 0, "double": 0, "invented": 0, "running": 0, "failed": 0}


@pytest.fixture
def chaos(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(CHAOS))
    known = set(sys.modules)
    import audit  # type: ignore[import-not-found]

    yield audit
    for name in set(sys.modules) - known:
        if str(CHAOS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def study(chaos: Any, tmp_path: Path) -> Any:
    """Nine archs, evaluated without disturbance, with the files that processes write."""
    (tmp_path / "calm").touch()
    study = chaos.jobs.search(tmp_path, f"sqlite:///{tmp_path}/nas.db", side=3, axes=2)
    chaos.jobs.acknowledged(tmp_path, study)
    study.run(workers=0, progress=False)
    return study


def found(chaos: Any, study: Any, folder: Path) -> dict[str, int]:
    figures = chaos.audit(study, folder)
    return {name: figures[name] for name in CLEAN}


def test_nothing_is_wrong_with_an_undisturbed_study(chaos: Any, study: Any, tmp_path: Path) -> None:
    assert found(chaos, study, tmp_path) == CLEAN
    assert chaos.audit(study, tmp_path)["acknowledged"] == 9


def test_a_result_that_is_not_stored_as_it_was_acknowledged_is_lost(chaos: Any, study: Any, tmp_path: Path) -> None:
    lines = (tmp_path / "acknowledged").read_text().splitlines()
    number, state, why, measured = json.loads(lines[4])
    lines[4] = json.dumps([number, state, why, {**measured, "cost": measured["cost"] + 1}])
    lines.append(json.dumps([77, "COMPLETED", "", measured]))
    (tmp_path / "acknowledged").write_text("\n".join(lines))
    assert found(chaos, study, tmp_path) == {**CLEAN, "lost": 2}


def test_a_result_that_was_new_twice_is_double_and_one_that_nobody_noted_invented(
    chaos: Any, study: Any, tmp_path: Path
) -> None:
    lines = (tmp_path / "acknowledged").read_text().splitlines()
    again = json.loads(lines[0])
    again[2] = "already recorded"
    (tmp_path / "acknowledged").write_text("\n".join([*lines, lines[3], json.dumps(again)]))
    noted = (tmp_path / "evaluations").read_text().splitlines()
    (tmp_path / "evaluations").write_text("\n".join(noted[2:]))
    assert found(chaos, study, tmp_path) == {**CLEAN, "double": 1, "invented": 2}


def test_an_arch_without_a_trial_is_lost(chaos: Any, study: Any, tmp_path: Path) -> None:
    wider = chaos.jobs.search(tmp_path, f"sqlite:///{tmp_path}/nas.db", side=3, axes=2)
    wider.trials_wanted = 10  # the space has nine
    assert found(chaos, wider, tmp_path) == {**CLEAN, "lost": 1}


def test_epochs_that_begin_again_after_their_end_are_repeated(chaos: Any, tmp_path: Path) -> None:
    (tmp_path / "epochs").write_text("begin a 1\nbegin a 1\nend a 1\nbegin a 2\nbegin a 1\nend a 2\n")
    assert chaos.epochs(tmp_path / "epochs") == {"epochs": 2, "epochs_repeated": 1}
