"""Several drivers of one study, and readers beside them, as real processes on both databases."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.study import Study
from tests.conformance.patience import PATIENCE_S, until
from tests.conformance.postgres_server import PostgresServer
from tests.conformance.store_tools import slow_front
from tests.study.landscapes import grid, slow_trade_off, study

ROOT = Path(__file__).parents[2]
TRIALS = 120
_DRIVER = f"""
import itertools, json, os, sys, time
from pathlib import Path
from types import SimpleNamespace
from tests.study import landscapes
from tests.study.landscapes import grid, slow_trade_off, study
begun, calls = Path(sys.argv[3]), itertools.count(1)
def sleep(seconds):
    time.sleep(seconds)
    if next(calls) == {TRIALS // 6}:  # nobody goes on before both have had so many, however the machine treats them
        (begun / str(os.getpid())).touch()
        while len(list(begun.iterdir())) < 2:
            time.sleep(0.01)
landscapes.time = SimpleNamespace(sleep=sleep)
if __name__ == "__main__":
    mine = study(sys.argv[1], "shared", space=grid(6, 4), evaluators=[slow_trade_off], trials={TRIALS})
    done = mine.run(workers=int(sys.argv[2]), progress=False)
    print(json.dumps([done.evaluated, done.counts, sorted(mine.front().index.tolist())]))
"""
_READER = """
import sys
from nas.store import open_store
with open_store(sys.argv[1], create=False, read_only=True) as store:
    study, last = store.open_study("shared"), 0
    while True:
        front, history = study.front(), study.history()
        assert history.last >= last and set(front.index) <= set(history.numbers.tolist())
        last = history.last
        print(last, flush=True)
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/nas.db"
        return
    server: PostgresServer = request.getfixturevalue("server")
    url = server.database()
    yield url
    server.drop(url)


def _start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _shared(url: str) -> Study:
    return study(url, "shared", space=grid(6, 4), evaluators=[slow_trade_off], trials=TRIALS)


def _check(mine: Study) -> list[int]:
    """Every evaluation once, nothing left over, the front of all of them; its trials."""
    history = mine.record.history()
    assert mine.record.counts() == {"WAITING": 0, "RUNNING": 0, "COMPLETED": TRIALS, "INFEASIBLE": 0, "FAILED": 0}
    assert len(set(history.keys)) == TRIALS
    front = set(mine.front().index)
    values = history.values
    assert front == slow_front(history.numbers.tolist(), values)  # quality is maximised, cost minimised
    return sorted(front)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder where drivers say that they have worked.

    Their turns to measure are among themselves: a driver that waits for the other in the middle of an evaluation, and another
    test that waits to measure alone and lets nobody in before, would wait for each other for ever.
    """
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "begun").mkdir()
    return str(tmp_path / "begun")


def test_two_drivers_begin_one_study_at_once_and_share_it(url: str, begun: str) -> None:
    with _start(_DRIVER, url, "0", begun) as first, _start(_DRIVER, url, "0", begun) as second:
        results = [json.loads(driver.communicate(timeout=PATIENCE_S)[0]) for driver in (first, second)]
    assert sum(evaluated for evaluated, _, _ in results) == TRIALS
    assert min(evaluated for evaluated, _, _ in results) > TRIALS // 10, "one did all the work"
    mine = _shared(url)
    front = _check(mine)
    assert all(theirs == front for _, _, theirs in results)
    mine.store.close()


def test_a_driver_takes_over_from_one_that_is_killed_while_others_read(url: str, begun: str) -> None:
    mine = _shared(url)
    assert mine.record.counts()["COMPLETED"] == 0
    with (
        _start(_DRIVER, url, "0", begun) as first,
        _start(_DRIVER, url, "0", begun) as second,
        _start(_READER, url) as reader,
    ):
        try:
            until(lambda: len(list(Path(begun).iterdir())) == 2, "the drivers make no progress")
            second.send_signal(signal.SIGKILL)
            evaluated, _, front = json.loads(first.communicate(timeout=PATIENCE_S)[0])
            assert reader.stdout is not None
            last = TRIALS // 3  # of what it saw, later than the kill; where it found what must not be its lines end
            assert any(int(line) > last for line in reader.stdout), "the reader was held up"
        finally:
            for process in (first, second, reader):
                process.kill()
    assert evaluated < TRIALS
    assert front == _check(mine)
    mine.store.close()
