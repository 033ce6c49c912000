"""A training that is killed with -9 at any moment, and resumed, ends with the very weights of one that was not."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from nas import files
from nas.supernet import Supernet, tensors
from nas.train import Training, TrainResult, state
from tests.conformance.patience import until
from tests.train.family import blobs, supernet

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from tests.train.test_resume import training
training(sys.argv[1]).run(progress=False)
print("finished")
"""


def training(path: str | Path, steps: int = 60) -> Training:
    return Training(supernet(), blobs(), path=path, steps=steps, lr=1e-2, checkpoint_every=4, validate_every=20)


def start(path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(path)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted_to_the_bit(tmp_path: Path, kills: int) -> None:
    whole = training(tmp_path / "whole").run(progress=False)
    path, draw, interrupted, longest = tmp_path / "killed", random.Random(kills), 0, 0.5
    while interrupted < kills:
        with start(path) as process:
            log = path / "log.csv"
            # It is importing; kill it at work.
            until(lambda log=log, process=process: log.exists() or process.poll() is not None, "it does not begin")
            time.sleep(draw.uniform(0.0, longest))
            process.kill()
            done = process.wait() != -9
        log.unlink(missing_ok=True)
        interrupted += not done
        if done:  # this machine was too fast for the kill: begin anew, and kill sooner
            shutil.rmtree(path)
            longest /= 2
    equal(whole, training(path).run(progress=False))


CALLS = ((Supernet, "save"), (tensors, "save"), (files.Scratch, "put"), (state.shutil, "rmtree"))


class Killed(BaseException):
    """Nobody handles it, as nobody handles a kill."""


def dying(real: Callable[..., Any], calls: Iterator[int], fatal: int) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == fatal:
            raise Killed
        return real(*args, **kwargs)

    return call


def test_a_kill_between_any_two_writes_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = training(tmp_path / "whole", steps=9).run(progress=False)
    deaths = 0
    for fatal in range(80):
        calls = itertools.count()

        with monkeypatch.context() as patch:
            for owner, name in CALLS:
                patch.setattr(owner, name, dying(getattr(owner, name), calls, fatal))
            try:
                training(tmp_path / str(fatal), steps=9).run(progress=False)
            except Killed:
                deaths += 1
        equal(whole, training(tmp_path / str(fatal), steps=9).run(progress=False))
        if next(calls) <= fatal:
            break
    assert deaths == fatal >= 15


def equal(whole: TrainResult, resumed: TrainResult) -> None:
    expected, found = whole.supernet.state_dict(), resumed.supernet.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    columns = [name for name in whole.history if name != "seconds"]
    pd.testing.assert_frame_equal(whole.history[columns], resumed.history[columns])
