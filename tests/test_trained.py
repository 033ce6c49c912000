"""Candidates trained by themselves, from a supernet's weights, or taught."""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyglove as pg
import pytest
import torch

import nas
from nas.errors import EvaluationError, SpaceError
from nas.evaluate import Trained
from nas.study.take_home import take_home
from nas.train import Labels, Training, subnet_metrics
from tests.compressing import nets as compressing
from tests.conformance.evaluator import EvaluatorConformance
from tests.conformance.patience import PATIENCE_S, until
from tests.study.trainings import Noted, blobs, repeated, study
from tests.train.family import space, supernet

_EPOCHS = 3


def trained(path: Path, **options: Any) -> Trained:
    return Trained(blobs(), path, **{"epochs": _EPOCHS, "lr": 1e-2, **options})


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    made = Training(supernet(), blobs(), path=tmp_path_factory.mktemp("net"), steps=40, lr=1e-2)
    made.run(progress=False)
    return made


class Conformance(EvaluatorConformance):
    @pytest.fixture
    def space(self) -> nas.Space:
        return space()


class TestFromScratch(Conformance):
    @pytest.fixture
    def evaluator(self, tmp_path: Path) -> Trained:
        return trained(tmp_path)


class TestTaughtFromTheSupernetsWeights(Conformance):
    @pytest.fixture
    def evaluator(self, tmp_path: Path, training: Training) -> Trained:
        return trained(tmp_path, start=training, teacher=training, weight=0.7, temperature=2.0)


def test_epochs_come_one_after_the_other_and_are_not_made_twice(tmp_path: Path) -> None:
    evaluator = Noted(blobs(), tmp_path, epochs=_EPOCHS, lr=1e-2, notes=str(tmp_path / "notes"))
    arch = space().largest
    epochs = evaluator.each_epoch(arch)
    first = next(epochs)
    assert first["epochs"] == 1
    assert evaluator.progress(arch) == [first]
    epochs.close()  # as a scheduler stops it
    everything = list(evaluator.each_epoch(arch))
    assert [one["epochs"] for one in everything] == [1, 2, 3]
    assert everything[0] == first
    assert evaluator(arch) == everything[-1]
    assert repeated(tmp_path / "notes") == (3, 0)


def test_a_training_that_was_stopped_early_is_continued(tmp_path: Path) -> None:
    evaluator = Noted(blobs(), tmp_path, epochs=_EPOCHS, lr=1e-2, notes=str(tmp_path / "notes"))
    arch = space().largest
    short = evaluator.up_to(arch, 1)
    assert short["epochs"] == 1
    assert repeated(tmp_path / "notes") == (1, 0)
    assert evaluator(arch)["epochs"] == _EPOCHS
    assert repeated(tmp_path / "notes") == (_EPOCHS, 0)
    assert evaluator.up_to(arch, 1) == short, "also when the training has gone on"
    for far in (0, 1.5, 4):
        with pytest.raises(EvaluationError, match=f"of 3 epochs cannot stop after {far}; give a whole number from 1"):
            evaluator.up_to(arch, far)


def test_a_search_decides_how_far_candidates_are_trained(tmp_path: Path) -> None:
    """No epoch is trained twice; what was trained for an epoch is in no front."""
    searched = study(tmp_path, algorithm=nas.MultiFidelity(low=1, initial=5, candidates=32))
    searched.run(4, workers=2, progress=False)
    full, low = searched.trials(), searched.low.trials()
    assert full["epochs"].tolist() == [4] * 4
    assert set(low["epochs"]) == {1}
    assert len(low) > len(full)
    assert repeated(tmp_path / "notes.txt") == (len(low) + 3 * len(full), 0)
    short = {str(row.choices): row for row in low.itertuples()}
    for number, row in full.iterrows():
        trial = searched.record.trial(number)
        assert [step for step, _ in trial.curves["accuracy"]] == [1, 2, 3, 4]
        assert dict(trial.curves["accuracy"])[1] == short[str(row["choices"])].accuracy
    assert set(take_home(searched, int(searched.front().index[0])).checked) == {"accuracy", "loss"}


def test_stopping_after_each_epoch_changes_nothing(tmp_path: Path) -> None:
    """A training in one piece, by hand, ends where the epochs of the evaluator end."""
    evaluator, arch = trained(tmp_path / "pieces"), space().largest
    whole = trained(tmp_path / "whole").training(arch)
    whole.run(progress=False)
    found = evaluator(arch)
    net = whole.supernet
    assert {"accuracy": found["accuracy"], "loss": found["loss"]} == subnet_metrics(net, net.space.largest, blobs())


def test_weights_of_the_supernet_and_a_teacher_count(tmp_path: Path, training: Training) -> None:
    arch = space().largest
    net = training.load()
    before = subnet_metrics(net, arch, blobs())
    start = trained(tmp_path, start=training)
    # The step of a learning rate that is almost nothing stays where it starts.
    still = trained(tmp_path, start=training, epochs=1, lr=1e-9, weight_decay=0.0)
    assert still(arch)["accuracy"] == pytest.approx(before["accuracy"], abs=0.05)
    losses = [
        one(arch)["loss"] for one in (trained(tmp_path), start, trained(tmp_path, start=training, teacher=training))
    ]
    assert len(set(losses)) == 3
    assert losses[1] < losses[0]


def test_a_teacher_runs_once_for_all_candidates(tmp_path: Path, training: Training) -> None:
    outputs = nas.TeacherOutputs(tmp_path / "outputs")
    running, stored = (
        trained(tmp_path / str(one), start=training, teacher=training, outputs=one) for one in (None, outputs)
    )
    for arch in (space().smallest, space().largest):
        assert running(arch) == stored(arch)
        assert running.folder(arch).name == stored.folder(arch).name, "one goes on with what the other began"
    assert len(list(outputs.folder.glob("*/*.out"))) == _EPOCHS * blobs().steps_per_epoch
    few = trained(tmp_path, teacher=training, outputs=nas.TeacherOutputs(tmp_path / "outputs", top=3))
    assert few.folder(space().largest).name != running.folder(space().largest).name


def test_a_module_teaches_as_it_is(tmp_path: Path, training: Training) -> None:
    net = training.load()
    module = net.extract(net.space.largest)
    taught = trained(tmp_path, start=training, teacher=module, epochs=1)
    loss = taught.training(space().smallest).loss
    assert isinstance(loss, nas.Teacher)
    assert loss.module is module, "with the BatchNorm statistics that it has"
    calibrated = trained(tmp_path, start=training, teacher=training, epochs=1)
    assert taught.folder(space().smallest).name != calibrated.folder(space().smallest).name
    assert set(taught(space().smallest)) == {"accuracy", "loss", "epochs"}


def test_hidden_states_are_taught_where_shapes_allow(tmp_path: Path) -> None:
    start = compressing.supernet()
    whole = dict(start.space.largest.choices)
    narrow = start.space.arch({**whole, "blocks[0].hidden": 8})
    cut = start.space.arch({**whole, "width": 8})

    def one(hidden: float | None) -> Trained:
        options: dict[str, Any] = {"start": start, "teacher": start, "hidden": hidden, "epochs": 1, "lr": 3e-3}
        return Trained(compressing.task(), tmp_path, **options)

    plain, taught = one(None), one(5.0)
    loss = taught.training(narrow).loss
    assert isinstance(loss, nas.train.Features)
    assert list(loss.pairs) == ["blocks.0", "blocks.1"]
    assert loss.weight == 2.5
    assert isinstance(taught.training(cut).loss, nas.Teacher), "no layer is as wide as the teacher's"
    assert plain.folder(narrow).name != taught.folder(narrow).name
    x = compressing.task().example
    near = {}
    for each in (plain, taught):
        each(narrow)
        teacher, student = start.extract(start.space.largest), each.extract(narrow)
        with torch.no_grad():
            ours, theirs = (net.blocks(torch.relu(net.stem(x))) for net in (student, teacher))  # type: ignore[operator]
        near[each] = float((ours - theirs).square().mean() / theirs.square().mean())
    assert near[taught] < near[plain]


def test_settings_and_archs_have_folders_of_their_own(tmp_path: Path) -> None:
    one, other = trained(tmp_path), trained(tmp_path, lr=2e-2)
    assert len({e.folder(arch) for e in (one, other) for arch in (space().smallest, space().largest)}) == 4
    assert trained(tmp_path).folder(space().largest) == one.folder(space().largest)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epochs": 0}, "epochs=0; it is a whole number, 1 or more"),
        ({"lrr": 0.1}, "has no option 'lrr'.*did you mean 'lr'"),
        ({"steps": 10}, "decides steps of its trainings itself"),
        ({"weight": 0.5}, "no effect without a teacher"),
        ({"hidden": 1.0}, "hidden=1 has no effect without a teacher"),
        ({"hidden": -1.0, "teacher": "nowhere"}, "hidden=-1"),
        ({"outputs": nas.TeacherOutputs("outputs")}, "has no effect without a teacher"),
        ({"teacher": "nowhere", "loss": Labels()}, "give one of them"),
        ({"loss": "labels"}, "loss='labels'; it is a nas.train.Loss or None"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EvaluationError, match=sentence):
        trained(tmp_path, **options)


def test_what_is_missing_is_said_before_work_starts(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="there is no supernet in 'nowhere'"):
        trained(tmp_path, start="nowhere").check(space())
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="no folder that can be written"):
        trained(tmp_path / "file").check(space())
    numbers = nas.Space(pg.Dict(x=pg.oneof([1, 2])), name="numbers")
    with pytest.raises(SpaceError, match="cannot be trained"):
        trained(tmp_path).check(numbers)
    with pytest.raises(EvaluationError, match="no epoch of arch"):
        trained(tmp_path / "empty").extract(space().largest)


def test_a_study_keeps_the_curves_and_takes_the_winner_home(tmp_path: Path) -> None:
    searched = study(tmp_path)
    searched.run(workers=0, progress=False)
    for number in range(3):
        trial = searched.record.trial(number)
        assert trial.state == "COMPLETED"
        assert set(trial.curves) == {"accuracy", "loss"}
        assert [step for step, _ in trial.curves["accuracy"]] == [1, 2, 3, 4]
        assert trial.curves["accuracy"][-1][1] == trial.measurements["accuracy"]
    winner = take_home(searched, int(searched.front().index[0]))
    assert set(winner.checked) == {"accuracy", "loss"}
    assert isinstance(winner.module, torch.nn.Module)


def test_the_readme_declares_a_study_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = readme_blocks("nas.Trained(")
    names: dict[str, Any] = {"nas": nas, "space": space()}
    exec(block, names)
    names["search"].run(1, workers=0, progress=False)
    assert names["search"].trials()["epochs"].tolist() == [9]
    (block,) = readme_blocks("nas.MultiFidelity(")
    exec(re.sub(r"cheaper.run\(10\)", "cheaper.run(2, workers=0, progress=False)", block), names)
    assert names["cheaper"].trials()["epochs"].tolist() == [9, 9]
    assert set(names["cheaper"].low.trials()["epochs"]) == {1}


def readme_blocks(needle: str) -> list[str]:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    return [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if needle in block]


_DRIVER = """
import sys
from pathlib import Path
from tests.study.trainings import study
if __name__ == "__main__":
    study(Path(sys.argv[1]), pause=0.05).run(workers=2, progress=False)
"""


@pytest.mark.slow
def test_a_killed_study_repeats_no_finished_epoch_and_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    folder, draw = tmp_path / "killed", random.Random(0)
    folder.mkdir()
    script, notes = tmp_path / "driver.py", folder / "notes.txt"
    script.write_text(_DRIVER)
    for seen in (1, 5):
        with subprocess.Popen([sys.executable, str(script), str(folder)], env=_environment()) as driver:
            until(lambda seen=seen: _lines(notes) >= 2 * seen or driver.poll() is not None, "no epoch was finished")
            time.sleep(draw.uniform(0, 0.05))
            workers = psutil.Process(driver.pid).children(recursive=True)
            driver.kill()
        assert psutil.wait_procs(workers, timeout=PATIENCE_S)[1] == [], "workers see that their driver is gone"
    went_on = study(folder)
    went_on.run(workers=0, progress=False)
    noted, again = repeated(notes)
    begun = {tuple(line.split()[1:]) for line in notes.read_text().splitlines() if line.startswith("begin ")}
    assert (len(begun), again) == (12, 0)
    assert noted >= 12 - 2 * 2, "a kill may fall between the commit of an epoch and its note, in each of two workers"
    (tmp_path / "whole").mkdir()
    whole = study(tmp_path / "whole")
    whole.run(workers=0, progress=False)
    columns = ["accuracy", "loss", "params", "epochs"]
    assert went_on.trials()[columns].equals(whole.trials()[columns])
    assert [went_on.record.trial(n).curves for n in range(3)] == [whole.record.trial(n).curves for n in range(3)]


def _lines(notes: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return len(notes.read_text().splitlines())
    return 0


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
