"""A training on several processes of this machine: killed, interrupted, given what cannot be."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyglove as pg
import pytest
import torch

import nas
import nas.distributed
from nas.distributed.work import ROOM, ROOM_BYTES, STOP, TOKEN, Order, failure, leave, make_steps
from nas.errors import DeviceError, RunnerError, TrainError
from nas.train import Training, TrainResult, state
from tests.conformance.patience import PATIENCE_S, until
from tests.distributed.jobs import Broken, Mortal, study, training
from tests.train import family

ROOT = Path(__file__).parents[2]


def run(given: Training, workers: int = 2, **options: Any) -> TrainResult:
    return nas.distributed.run(given, workers, progress=False, **options)


def same(left: TrainResult, right: TrainResult) -> bool:
    ours, theirs = left.supernet.state_dict(), right.supernet.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def children() -> set[int]:
    """Python's own; other tests' servers may live beside them."""
    found = psutil.Process().children(recursive=True)
    lines = {one.pid: " ".join(one.cmdline()) for one in found if one.status() != "zombie"}
    return {pid for pid, line in lines.items() if "spawn_main" in line}


def plain(path: Path, **options: Any) -> Training:
    """Without dropout, so that it does not matter how many processes there are."""
    space = nas.Space(family.mlp(width=pg.oneof([8, 32]), depth=pg.oneof([0, 1]), dropout=0.0), name="mlp")
    sampler = Mortal(folder=str(path.parent), at=9)
    settings = {"steps": 12, "lr": 0.05, "optimizer": "sgd", "checkpoint_every": 4, "sampler": sampler, **options}
    return Training(nas.Supernet(space), family.blobs(), path=path, **settings)


def test_a_killed_process_is_replaced_and_the_result_is_that_of_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = children()
    (tmp_path / "kill-1-1").touch()
    killed = nas.distributed.run(plain(tmp_path / "killed"), 2).supernet.state_dict()
    shown = capsys.readouterr().err
    assert "process 1 was ended by SIGKILL; going on from step 8" in shown
    assert "step 12/12  epoch 3/3  loss" in shown
    whole = plain(tmp_path / "whole").run(progress=False).supernet.state_dict()
    assert all(torch.allclose(killed[name], whole[name], atol=1e-5) for name in whole)
    assert children() <= before


@pytest.mark.slow
def test_a_killed_process_changes_not_a_bit(tmp_path: Path) -> None:
    """With dropout, whose random numbers are those of the step."""
    whole = run(training(tmp_path / "whole"))
    (tmp_path / "kill-1-0").touch()
    killed = run(training(tmp_path / "killed"))
    assert same(killed, whole)
    assert killed.history["loss"].tolist() == whole.history["loss"].tolist()
    assert same(run(training(tmp_path / "killed")), whole)  # which is finished


@pytest.mark.slow
def test_attempts_without_a_new_checkpoint_are_limited(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"kill-{number}-0").touch()
    # The first ends with a new checkpoint, which the limit does not count.
    with pytest.raises(
        RunnerError, match=r"2 attempts in a row ended .* process 0 was ended by SIGKILL; '.*' keeps step 5"
    ):
        run(training(tmp_path / "killed"), attempts=2)
    assert len(list(tmp_path.glob("kill-*"))) == 1


@pytest.mark.slow
def test_what_a_process_cannot_do_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="ZeroDivisionError: out of cheese") as raised:
        run(training(tmp_path / "broken", sampler=Broken()))
    assert "\n" not in str(raised.value)
    result = run(training(tmp_path / "broken"), resume=False)  # and is forgotten when it is mended
    assert result.steps == 20


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """One, three, two: without dropout the result is that of one, up to rounding."""

    plain(tmp_path / "changed").run(progress=False, until=4)
    for number in range(2):  # the first time there is a new checkpoint to go on from
        (tmp_path / f"kill-{number}-2").touch()
    with pytest.raises(RunnerError, match="'.*' keeps step 8"):
        run(plain(tmp_path / "changed"), 3, attempts=1)
    changed = run(plain(tmp_path / "changed"), 2).supernet.state_dict()
    whole = plain(tmp_path / "whole").run(progress=False).supernet.state_dict()
    assert all(torch.allclose(changed[name], whole[name], atol=1e-5) for name in whole)


JOB = """
from pathlib import Path
from tests.distributed.jobs import study as make

study = make(Path({folder!r}), steps={steps})
"""


def command(folder: Path, steps: int, *options: str) -> subprocess.Popen[str]:
    """`nas train` as a process of its own."""
    job = folder / "job.py"
    job.write_text(JOB.format(folder=str(folder), steps=steps))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "nas", "train", str(job), *options]
    return subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(file: Path, process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a command, once the file is there."""
    until(lambda: file.exists() or process.poll() is not None, f"{file} does not come")
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_command_leaves_a_checkpoint_when_everything_is_told_to_end(
    tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    where = tmp_path / "supernet"
    (tmp_path / "hold").write_text("40")
    with command(tmp_path, 300, "--workers", str(workers)) as process:
        ranks = wait_for(where / "state.json", process)  # all ranks make steps
        for one in (process, *ranks):  # as systemd and Slurm do
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.send_signal(number)
        said = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert f"nas: ended by {number.name}; the same command goes on" in said
    assert psutil.wait_procs(ranks, timeout=PATIENCE_S)[1] == []
    stopped = json.loads((where / "state.json").read_text())["step"]
    assert f"interrupted after step {stopped} of 300" in said


@pytest.mark.slow
def test_the_command_is_interrupted_killed_and_goes_on(tmp_path: Path) -> None:
    where = tmp_path / "supernet"
    (tmp_path / "hold").write_text("40")
    with command(tmp_path, 300, "--workers", "2") as process:
        ranks = wait_for(where / "log.csv", process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 130, said
    assert "interrupted after step" in said
    assert psutil.wait_procs(ranks, timeout=PATIENCE_S)[1] == []
    stopped = json.loads((where / "state.json").read_text())["step"]
    assert 0 < stopped < 300
    (tmp_path / "hold").unlink()
    with command(tmp_path, 300, "--workers", "2", "--quiet") as process:
        (where / "log.csv").unlink()
        ranks = wait_for(where / "log.csv", process)
        process.kill()
    assert len(ranks) >= 2
    assert psutil.wait_procs(ranks, timeout=PATIENCE_S)[1] == []
    with command(tmp_path, 300, "--workers", "2", "--quiet") as process:
        assert process.wait(timeout=PATIENCE_S) == 0
    undisturbed = run(study(tmp_path / "undisturbed", steps=300).training)
    assert same(study(tmp_path, steps=300).training.run(progress=False), undisturbed)


@pytest.mark.parametrize("asked", [True, False])
def test_a_process_that_is_asked_to_stop_has_not_failed(
    tmp_path: Path, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / TOKEN).write_text("mine")
    (tmp_path / ROOM).write_bytes(b" " * ROOM_BYTES)
    monkeypatch.setattr("nas.train.ranks.Group", lambda interrupted: interrupted)

    def stop(**_: Any) -> None:
        if asked:
            (tmp_path / STOP).touch()
        raise KeyboardInterrupt

    payload: Any = SimpleNamespace(unpack=lambda: (None, SimpleNamespace(run=stop)))
    with pytest.raises(KeyboardInterrupt):
        make_steps(Order(payload, str(tmp_path), "mine"), "cpu")
    assert (failure(tmp_path) is None) == asked


def test_what_the_first_process_cannot_do_is_kept(tmp_path: Path) -> None:
    (tmp_path / ROOM).write_bytes(b" " * ROOM_BYTES)
    assert failure(tmp_path) is None
    leave(tmp_path, DeviceError("the first"))
    leave(tmp_path, ValueError("the second"))
    found = failure(tmp_path)
    assert isinstance(found, DeviceError)
    assert str(found) == "the first"


def test_the_command_says_what_is_wrong_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nas.cli.app import run as nas_command

    (tmp_path / "job.py").write_text(JOB.format(folder=str(tmp_path), steps=20))
    assert nas_command(["train", str(tmp_path / "job.py"), "--workers", "17"]) == 2
    assert capsys.readouterr().err.startswith("nas: 17 workers cannot share a batch of 16 samples")


def bad(path: Path) -> dict[str, tuple[Training, dict[str, Any], type[Exception], str]]:
    made = training(path)
    no_gpu = training(path)
    no_gpu.device = torch.device("cuda")
    return {
        "workers": (
            made,
            {"workers": 17},
            TrainError,
            "17 workers cannot share a batch of 16 samples; give at most 16",
        ),
        "none": (made, {"workers": 0}, TrainError, "workers is 0; give a whole number, 1 or more"),
        "attempts": (made, {"attempts": 0}, TrainError, "attempts is 0"),
        "path": (training(None), {}, TrainError, "has no path; give it one"),
        "resources": (made, {"resources": {"gpu": 1}}, TrainError, "resources are reserved on Ray alone"),
        "gpu": (no_gpu, {}, DeviceError, "2 workers need 2 GPUs, and this machine has 0"),
    }


@pytest.mark.parametrize("case", list(bad(Path("nowhere"))))
def test_bad_input_is_one_sentence_before_work_starts(case: str, tmp_path: Path) -> None:
    if case == "gpu" and torch.cuda.device_count() > 1:
        pytest.skip("this machine has the GPUs")
    given, options, kind, says = bad(tmp_path / "training")[case]
    before = children()
    with pytest.raises(kind, match=says) as raised:
        run(given, **options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "training").exists()
    assert children() <= before


def test_a_folder_that_is_in_use_is_refused_at_once(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "launch"):  # by a training, by somebody who is about to start one
        with state.locked(folder), pytest.raises(TrainError, match="another process is training into"):
            run(training(tmp_path))
