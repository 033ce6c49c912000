"""Trying failed trials again, other objectives, and what a run says that found nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Nas = Callable[..., Any]

GATED = """
import nas
from tests.study.landscapes import grid
from tests.study.test_gated import Accurate, Timed

study = nas.Study(
    "gated", space=grid(6, 4), objectives=["max accuracy", "min latency_ms"], algorithm="random", store="nas.db", trials=4,
    evaluators=[Accurate(), nas.Gated(Timed(strict=False), where="{where}")],
)
"""
LEVELS = """
import nas
from tests.study.landscapes import grid
from tests.study.test_levels import Cost, Quality

study = nas.Study(
    "s", space=grid(), objectives=["max quality", "min cost"], evaluators=[Quality(), Cost()], store="nas.db", trials=5,
    algorithm=nas.MultiFidelity(initial=4, candidates=32),
)
"""
JOB = """
import nas
from tests.study.landscapes import grid, trade_off

def evaluate(arch):
    {fault}
    return trade_off(arch)

study = nas.Study(
    "grid", space=grid(), objectives=["max quality", "min cost"], evaluators=[evaluate], algorithm=nas.RandomSearch(seed=0),
    store="nas.db", trials={trials}, max_failures={failures},
)
"""
FAULT = 'raise OSError("no room on the disk")'
SOME = 'assert arch.choices["x0"] > 3, "too small"'


@pytest.fixture
def nas(command: Nas) -> Nas:
    return command


def write(fault: str = "pass", trials: int = 6, failures: int = 20) -> None:
    Path("job.py").write_text(JOB.format(fault=fault, trials=trials, failures=failures))


def search(nas: Nas, *more: object) -> Any:
    return nas("run", "job.py", "--workers", "0", "--quiet", *more)


def states(nas: Nas) -> dict[str, int]:
    return {
        s: n for s, n in json.loads(nas("studies", "--format", "json").out)[0]["trials"].items() if n and s != "WAITING"
    }


def test_a_run_that_finds_nothing_fails_with_the_first_reason(nas: Nas) -> None:
    write(FAULT)
    done = search(nas)
    assert done.code == 2
    assert "no trial of study 'grid' succeeded: 6 FAILED; the first, trial 0, with: OSError: no room on the" in done.err
    assert "give the same command again" in done.err
    assert "no trial of study 'grid' succeeded: 6 FAILED; the first, trial 0, with: OSError" in nas("front", "grid").out


def test_the_same_command_tries_again_what_a_mended_job_failed_with(nas: Nas) -> None:
    write(FAULT)
    assert search(nas).code == 2
    write()
    done = search(nas)
    assert done.code == 0
    assert "6 FAILED trials are tried again (the job changed), which failed with: OSError: no room" in done.err
    assert states(nas) == {"COMPLETED": 6}
    assert "again" not in search(nas).err


def test_what_stopped_a_run_is_tried_again_once_and_never_for_ever(nas: Nas) -> None:
    write(trials=4)
    assert search(nas).code == 0
    write(FAULT, trials=30, failures=5)
    first = search(nas)
    assert first.code == 2
    assert "5 evaluations in a row failed" in first.err
    again = search(nas)
    assert "5 FAILED trials are tried again (the run was stopped by failures)" in again.err
    assert states(nas) == {"COMPLETED": 4, "FAILED": 5}
    third = search(nas)
    assert "5 trials that stopped the last run stay FAILED" in third.err
    assert states(nas) == {"COMPLETED": 4, "FAILED": 10}
    write(trials=14)
    assert "5 FAILED trials are tried again (the job changed)" in search(nas).err
    assert states(nas) == {"COMPLETED": 9, "FAILED": 5}
    assert search(nas, "--retry-failed").code == 0
    assert states(nas) == {"COMPLETED": 14}


def test_retry_chooses_by_filter_and_reason_and_changes_nothing_when_dry(nas: Nas) -> None:
    write(SOME, trials=12)
    assert search(nas).code == 0
    failed = states(nas)["FAILED"]
    shown = nas("retry", "grid", "--reason", "TOO SMALL", "--where", "x0 == 3", "--dry-run")
    assert "would be tried again" in shown.out
    assert "AssertionError: too small" in shown.out
    assert states(nas)["FAILED"] == failed
    done = nas("retry", "grid", "--reason", "too small")
    assert f"{failed} trials of study 'grid' wait to be tried again" in done.out
    assert "nas run" in done.out
    assert states(nas) == {"COMPLETED": 12 - failed}
    assert "has no FAILED trial for a reason with 'xyz'" in nas("retry", "grid", "--reason", "xyz").out


def test_objectives_of_a_study_change_where_its_trials_allow(nas: Nas) -> None:
    write()
    search(nas)
    refused = nas("objectives", "grid", "max quality, min size")
    assert refused.code == 2
    assert "metric 'size' was not measured in study 'grid'" in refused.err
    done = nas("objectives", "grid", "max cost")
    assert "study 'grid' had max quality, min cost and has max cost now; 1 trials are on the front" in done.out
    assert "nas objectives grid 'max quality, min cost'" in search(nas).err


def test_more_trials_go_on_with_a_finished_study(nas: Nas) -> None:
    write()
    search(nas)
    assert "6 of 6 trials already, and more of them (--trials)" in search(nas).out
    search(nas, "--trials", "9")
    assert states(nas) == {"COMPLETED": 9}


@pytest.mark.parametrize("words", [("rename",), ("db", "rename")])
def test_a_study_is_renamed_and_deleted_by_both_spellings(nas: Nas, words: tuple[str, ...]) -> None:
    write()
    search(nas)
    assert "is now called 'other'" in nas(*words, "grid", "other").out
    assert nas(*words[:-1], "delete", "other", "--yes").code == 0
    assert "rename" not in nas("db", "--help").out


def test_low_evaluations_are_shown_renamed_and_deleted_with_their_study(nas: Nas) -> None:
    Path("job.py").write_text(LEVELS)
    assert search(nas).code == 0
    listed = json.loads(nas("studies", "--format", "json").out)
    assert [(one["study"], one["level_of"]) for one in listed] == [("s", None), ("s@1", "s")]
    assert "s@1 (low evaluations)" in nas("studies").out
    assert "levels:      s@1" in nas("show", "s").out
    assert "level of:    s\n" in nas("show", "s@1").out
    assert json.loads(nas("show", "s", "--format", "json").out)["levels"] == ["s@1"]
    assert "levels" not in json.loads(nas("show", "s@1", "--format", "json").out)
    assert "were evaluated differently" in nas("compare", "s", "s@1").err
    for words in (("rename", "s@1", "t"), ("delete", "s@1", "--yes"), ("objectives", "s@1", "max cost")):
        refused = nas(*words)
        assert refused.code == 2
        assert "study 's@1' holds the low evaluations of study 's'" in refused.err
    assert "study 's' is now called 't', its low evaluations 't@1'" in nas("rename", "s", "t").out
    assert nas("run", "job.py", "--name", "t", "--workers", "0", "--quiet", "--trials", "6").code == 0
    low = sum(json.loads(nas("studies", "--format", "json").out)[1]["trials"].values())
    kept = nas("delete", "t")
    assert f"with its 6 trials and its {low} low evaluations (study 't@1') from nas.db? [y/N]" in kept.err
    assert kept.code == 2
    assert "and its" in nas("delete", "t", "--yes").out
    assert json.loads(nas("studies", "--format", "json").out) == []


def test_a_dry_run_says_which_evaluator_is_not_asked(nas: Nas) -> None:
    Path("job.py").write_text(GATED.format(where="accuracy >= 0.99"))
    told = json.loads(nas("run", "job.py", "--dry-run").out)
    assert (told["state"], list(told["measurements"])) == ("INFEASIBLE", ["accuracy"])
    assert told["reason"].endswith("not >= 0.99, so 'Timed' is not asked")
    Path("other.py").write_text(GATED.format(where="acuracy >= 0.7"))
    refused = nas("run", "other.py", "--dry-run")
    assert refused.code == 2
    assert "'Timed' is asked only where acuracy >= 0.7, and none before it gives 'acuracy'" in refused.err
    assert search(nas).code == 0
    assert "none of 4 archs met accuracy >= 0.99; closest was trial" in search(nas).out
