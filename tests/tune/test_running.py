from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

import nas
from nas.errors import RunnerError, StudyError
from nas.search.insight import Insight
from nas.train import Training
from tests.conformance.patience import PATIENCE_S, until
from tests.study.landscapes import study as landscape
from tests.study.trainings import Dying, Noted, blobs, repeated, study
from tests.test_trained import readme_blocks
from tests.train.family import space

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

COLUMNS = ["state", "accuracy", "loss", "params", "epochs"]


def run(searched: nas.Study, **options: Any) -> Any:
    from nas.tune import run as on_tune

    return on_tune(searched, progress=False, **options)


def asha(**options: Any) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(max_t=4, grace_period=1, reduction_factor=2, **options)


class Mortal(Noted):
    """Its process is killed in the middle of the third epoch, once."""

    def _train(self, training: Training, epoch: int) -> None:
        mark = Path(self.notes).with_name("died")
        if epoch == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super()._train(training, epoch)


class Broken(Noted):
    def _train(self, training: Training, epoch: int) -> None:
        raise RuntimeError("out of cheese")


@pytest.mark.slow
def test_without_a_scheduler_tune_gives_what_workers_give(tmp_path: Path, cluster: None) -> None:
    (tmp_path / "here").mkdir()
    on_tune, here = study(tmp_path), study(tmp_path / "here")
    summary = run(on_tune)
    assert summary.counts["COMPLETED"] == 3
    here.run(workers=0, progress=False)
    assert on_tune.trials()[COLUMNS].equals(here.trials()[COLUMNS])
    assert [on_tune.record.trial(n).curves for n in range(3)] == [here.record.trial(n).curves for n in range(3)]
    assert "already" in run(on_tune).message
    run(on_tune, trials=4)
    assert len(on_tune.trials()) == 4


def test_a_scheduler_stops_and_the_record_says_how_far_a_trial_came(tmp_path: Path, cluster: None) -> None:
    searched = study(tmp_path, trials=5)
    run(searched, scheduler=asha(), workers=1)
    epochs = searched.trials()["epochs"].tolist()
    assert max(epochs) == 4
    assert min(epochs) < 4
    assert repeated(tmp_path / "notes.txt") == (sum(epochs), 0)
    for number, count in enumerate(epochs):
        trial = searched.record.trial(number)
        assert [step for step, _ in trial.curves["accuracy"]] == list(range(1, int(count) + 1))
        assert trial.curves["accuracy"][-1][1] == trial.measurements["accuracy"]
    assert set(searched.front("epochs == 4")["epochs"]) == {4}


class Recording(nas.RandomSearch):
    """Remembers what it was told that can be known without evaluations."""

    told: ClassVar[list[Insight]] = []

    def inform(self, insight: Insight) -> None:
        self.told.append(insight)


def test_a_run_on_tune_begins_with_what_its_study_knows(tmp_path: Path, cluster: None) -> None:
    earlier = study(tmp_path, name="earlier", trials=1, epochs=1)
    earlier.run(workers=0, progress=False)
    searched = study(tmp_path, trials=1, epochs=1)
    searched.algorithm = nas.Transfer(Recording(seed=1), ["earlier"])
    Recording.told.clear()
    assert run(searched).counts["COMPLETED"] == 1
    assert [source["study"] for source in searched.record.settings["sources"]] == ["earlier"]
    (insight,) = Recording.told
    assert set(insight.cheap) == {"params"}
    assert insight.fidelity == ("epochs", 1.0)
    assert insight.stored is not None


@pytest.mark.slow
def test_the_readme_runs_on_tune(tmp_path: Path, cluster: None) -> None:
    (block,) = readme_blocks("nas.tune.run(")
    searched = study(tmp_path, epochs=9)
    exec(block, {"search": searched})
    epochs = searched.trials()["epochs"].tolist()
    assert len(epochs) == 4
    assert max(epochs) == 9


@pytest.mark.slow
def test_several_objectives_stop_together_and_are_remembered(tmp_path: Path, cluster: None) -> None:
    from nas.tune import ParetoHalving

    def scheduler() -> ParetoHalving:
        return ParetoHalving(["max accuracy", "min params"], epochs=4, factor=2)

    searched = study(tmp_path, trials=5)
    first = scheduler()
    run(searched, trials=3, scheduler=first, workers=1)
    second = scheduler()
    run(searched, scheduler=second, workers=1)
    (tmp_path / "whole").mkdir()
    whole = study(tmp_path / "whole", trials=5)
    run(whole, scheduler=scheduler(), workers=1)
    assert searched.trials()[COLUMNS].equals(whole.trials()[COLUMNS])
    assert 1 in searched.trials()["epochs"].tolist()


@pytest.mark.slow
def test_a_trial_whose_process_dies_goes_on_behind_its_last_epoch(tmp_path: Path, cluster: None) -> None:
    evaluator = Mortal(blobs(), tmp_path / "c", epochs=4, lr=1e-2, notes=str(tmp_path / "notes"))
    searched = nas.Study(
        "mortal",
        space=space(),
        objectives=["max accuracy"],
        evaluators=[evaluator],
        store=tmp_path / "nas.db",
        trials=2,
    )
    run(searched, workers=1)
    assert (tmp_path / "died").exists()
    assert searched.trials()["state"].tolist() == ["COMPLETED"] * 2
    assert repeated(tmp_path / "notes") == (8, 0)


class Unloadable(Noted):
    def __setstate__(self, state: dict[str, Any]) -> None:
        raise RuntimeError("out of cheese")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Broken, "RuntimeError: out of cheese"),
        (Unloadable, "a worker cannot load the evaluation: RuntimeError: out of"),
    ],
)
def test_trainings_that_fail_say_why_and_too_many_stop_the_run(
    tmp_path: Path, cluster: None, kind: type[Noted], sentence: str
) -> None:
    evaluator = kind(blobs(), tmp_path / "c", epochs=4, notes=str(tmp_path / "notes"))
    searched = nas.Study(
        "broken",
        space=space(),
        objectives=["max accuracy"],
        evaluators=[evaluator],
        store=tmp_path / "nas.db",
        trials=6,
        max_failures=2,
    )
    with pytest.raises(StudyError, match=f"trainings in a row failed; the last: {sentence}"):
        run(searched, scheduler=asha(), workers=1)
    trials = searched.trials()
    assert trials["state"].tolist() == ["FAILED"] * 2
    assert "out of cheese" in trials["reason"][0]


@pytest.mark.slow
def test_what_violates_a_constraint_is_not_trained(tmp_path: Path, cluster: None) -> None:
    searched = study(tmp_path)
    bounded = nas.Study(
        "bounded",
        space=searched.space,
        objectives=["max accuracy"],
        constraints=["params <= 600"],
        evaluators=searched.evaluators,
        algorithm=nas.RandomSearch(seed=1),
        store=tmp_path / "nas.db",
        trials=3,
    )
    run(bounded, scheduler=asha(), workers=1)
    trials = bounded.trials()
    assert trials["state"].tolist() == ["INFEASIBLE", "COMPLETED", "INFEASIBLE"]
    assert repeated(tmp_path / "notes.txt")[0] <= 4


def test_what_waits_for_epochs_is_refused_and_what_they_wait_for_is_asked_first(tmp_path: Path) -> None:
    from nas.tune.candidate import Epochs

    trained, arch = study(tmp_path).evaluators[0], space().smallest
    late = nas.Evaluation([trained, nas.Gated(lambda arch: {"latency_ms": 1.0}, "accuracy >= 0.7")])
    with pytest.raises(StudyError, match="asked only where accuracy >= 0.7, and Tune asks it before the training"):
        Epochs(late)
    small = nas.Evaluation([lambda arch: {"size": 1.0}, nas.Gated(trained, "size <= 0.5")])
    epochs = Epochs(small)
    assert epochs.last == trained.epochs  # type: ignore[attr-defined]
    with pytest.raises(nas.Infeasible, match="size is 1, not <= 0.5"):
        next(epochs.each(arch))
    assert not (tmp_path / "notes.txt").exists()


def test_a_search_that_decides_how_far_to_train_is_refused(tmp_path: Path) -> None:
    from nas.tune import run as on_tune

    searched = study(tmp_path, algorithm=nas.MultiFidelity(low=1))
    with pytest.raises(StudyError, match="decides itself how far archs are trained; use study.run"):
        on_tune(searched, 1)


def test_what_cannot_run_is_refused_in_a_sentence(tmp_path: Path, cluster: None) -> None:
    from ray.tune.schedulers import PopulationBasedTraining

    with pytest.raises(RunnerError, match="asks for 1 CPU, 1 GPU and no node .* has 2 CPU, 0 GPU"):
        run(study(tmp_path), resources={"gpu": 1})
    with pytest.raises(StudyError, match="PopulationBasedTraining pauses trials or copies weights"):
        run(study(tmp_path), scheduler=PopulationBasedTraining(hyperparam_mutations={"a": [1, 2]}))
    with pytest.raises(StudyError, match="scheduler is a str"):
        run(study(tmp_path), scheduler="asha")
    with pytest.raises(StudyError, match="looks at 'acuracy'.*did you mean 'accuracy'"):
        run(study(tmp_path), scheduler=asha(metric="acuracy", mode="max"))
    with pytest.raises(StudyError, match="time_attr='epoch'"):
        run(study(tmp_path), scheduler=asha(time_attr="epoch"))
    with pytest.raises(StudyError, match="0 of the study's evaluators train in epochs"):
        run(landscape(tmp_path / "grid.db"))
    with pytest.raises(StudyError, match="workers is 0"):
        run(study(tmp_path), workers=0)


_DRIVER = """
import sys
from pathlib import Path
from tests.study.trainings import study
if __name__ == "__main__":
    import nas.tune
    nas.tune.run(study(Path(sys.argv[1]), trials=4, pause=0.1), progress=False)
"""


@pytest.mark.slow
def test_a_killed_run_repeats_no_finished_epoch(tmp_path: Path, cluster: None) -> None:
    folder, script = tmp_path / "killed", tmp_path / "driver.py"
    folder.mkdir()
    script.write_text(_DRIVER)
    notes = folder / "notes.txt"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, str(script), str(folder)], env=environment) as driver:
        until(lambda: _lines(notes) >= 9 or driver.poll() is not None, "no epoch was finished")
        rays = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
    assert psutil.wait_procs(rays, timeout=PATIENCE_S)[1] == [], "Ray's processes see that their driver is gone"
    went_on = study(folder, trials=4)
    run(went_on)
    assert went_on.trials()["epochs"].tolist() == [4] * 4
    assert repeated(notes) == (16, 0)


def _lines(notes: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return len(notes.read_text().splitlines())
    return 0


@pytest.mark.slow
def test_a_training_that_goes_on_may_cost_any_number_of_processes(tmp_path: Path, cluster: None) -> None:
    searched = study(tmp_path, trials=1, kind=Dying)
    assert run(searched, workers=1).counts["COMPLETED"] == 1
    assert len(list(tmp_path.glob("died-*"))) == 3
    assert repeated(tmp_path / "notes.txt") == (4, 0)
