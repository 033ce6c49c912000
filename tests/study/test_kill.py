"""kill -9 of the driver, of workers, of both, at random moments: nothing finished is lost or done twice, the search goes on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import nas.search
import nas.study.curves
import nas.study.driver
from nas.errors import StoreError
from nas.store import NewTrial, open_store
from nas.study.owner import is_gone, owner_id
from tests.conformance.patience import PATIENCE_S, until
from tests.study import trainings
from tests.study.landscapes import grid, slow_trade_off, study, suicidal

_DRIVER = """
import sys
sys.path.insert(0, ".")
from tests.study.landscapes import grid, slow_trade_off, study
if __name__ == "__main__":
    study(sys.argv[1], "killed", space=grid(8, 4), evaluators=[slow_trade_off], trials=150).run(workers=2)
"""


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize("victims", ["driver", "worker", pytest.param("both", marks=pytest.mark.slow)])
def test_a_search_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path: Path, victims: str) -> None:
    rng = random.Random(victims)
    store, script = tmp_path / "nas.db", tmp_path / "driver.py"
    script.write_text(_DRIVER)
    seen: dict[int, object] = {}
    for _ in range(4):
        with subprocess.Popen([sys.executable, str(script), str(store)], stderr=subprocess.DEVNULL) as driver:
            _wait_for_trials(store, driver, len(seen) + rng.randrange(1, 25))
            children = _children(driver.pid)
            if victims != "driver" and children:
                _kill(rng.choice(children))
            if victims != "worker":
                driver.kill()
            else:
                time.sleep(0.2)
                driver.kill()
        now = _finished(store)
        assert all(now[number] == result for number, result in seen.items()), "a finished trial was lost or changed"
        seen = now
    survivor = study(store, "killed", space=grid(8, 4), evaluators=[slow_trade_off], trials=150)
    survivor.run(workers=2, progress=False)
    assert survivor.record.counts() == {**survivor.record.counts(), "COMPLETED": 150, "RUNNING": 0, "WAITING": 0}
    calm = study(store, "calm", space=grid(8, 4), trials=150)
    calm.run(workers=0, progress=False)
    assert (
        survivor.front()[["quality", "cost"]].to_numpy().tolist()
        == calm.front()[["quality", "cost"]].to_numpy().tolist()
    )
    assert len({str(choices) for choices in survivor.trials()["choices"]}) == 150


def test_ctrl_c_gives_back_what_was_begun_and_leaves_no_worker(tmp_path: Path) -> None:
    store, job = tmp_path / "nas.db", tmp_path / "job.py"
    job.write_text(
        "from tests.study.landscapes import *\n"
        f"study = study({str(store)!r}, 'killed', space=grid(8, 4), evaluators=[slow_trade_off], trials=5000)\n"
    )
    command = [sys.executable, "-m", "nas", "run", str(job)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        _wait_for_trials(store, driver, 5)
        workers = _children(driver.pid)
        driver.send_signal(signal.SIGINT)
        assert driver.stderr is not None
        said = driver.stderr.read()
        assert driver.wait(PATIENCE_S) == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
    counts = study(store, "killed", space=grid(8, 4), evaluators=[slow_trade_off]).record.counts()
    assert counts["RUNNING"] == 0
    assert counts["COMPLETED"] >= 5
    _wait_until_gone(workers)


def test_workers_that_kill_themselves_cost_no_trial(tmp_path: Path) -> None:
    search = study(tmp_path / "nas.db", space=grid(8, 4), evaluators=[suicidal], trials=60)
    summary = search.run(workers=2, progress=False)
    assert summary.counts["COMPLETED"] >= 58  # three deaths of one trial in a row are possible, if hardly
    assert sum(summary.counts.values()) == 60


def test_a_claim_that_was_committed_after_it_was_given_up_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nas.study.driver, "owner_id", lambda: "me")
    search = study(tmp_path / "nas.db", space=grid(3, 2), algorithm=nas.search.Exhaustive(), trials=9)
    archs = list(search.space.enumerate())[4:7]
    search.record.add([NewTrial(arch.key, arch.row()) for arch in archs], worker="me", lease_s=10_000)
    assert search.run(workers=0, progress=False).counts["COMPLETED"] == 9


def test_an_owner_is_gone_when_its_process_is() -> None:
    assert not is_gone(owner_id())
    assert not is_gone("another-host/1/1")
    assert not is_gone("no owner at all")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100_000)"]) as process:
        start = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        host = owner_id().rsplit("/", 2)[0]
        owner = f"{host}/{process.pid}/{start}"
        assert not is_gone(owner)
        assert is_gone(f"{host}/{process.pid}/1")
        process.kill()
        process.wait()
        assert is_gone(owner)


def _wait_for_trials(store: Path, driver: subprocess.Popen[Any], count: int) -> None:
    until(
        lambda: driver.poll() is not None or (store.exists() and _completed(store) >= count),
        "the driver makes no progress",
    )


def _completed(store: Path) -> int:
    """How many trials are finished as another process sees it."""
    try:
        with open_store(store, create=False) as opened:
            return opened.open_study("killed").counts()["COMPLETED"]
    except StoreError:
        return 0  # the driver is still creating it


def _finished(store: Path) -> dict[int, object]:
    """Finished trials as another process sees them."""
    try:
        with open_store(store, create=False) as opened:
            frame = opened.open_study("killed").trials(where="state == 'COMPLETED'")
    except StoreError:
        return {}  # the driver is still creating it
    return {int(number): (row["quality"], row["cost"], str(row["choices"])) for number, row in frame.iterrows()}


def _wait_until_gone(pids: list[int]) -> None:
    """No process of these runs any more; one that nobody has waited for yet (a zombie) does not."""

    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
        except OSError:
            return False

    until(lambda: not any(runs(pid) for pid in pids), "orphans")


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_training_that_goes_on_may_cost_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nas.study.curves, "EVERY_S", 0.0)
    search = trainings.study(tmp_path, trials=1, kind=trainings.Dying)
    assert search.run(workers=1, progress=False).counts["COMPLETED"] == 1
    assert len(list(tmp_path.glob("died-*"))) == 3
    assert trainings.repeated(tmp_path / "notes.txt") == (4, 0)
