"""Noisy trials of a front are measured again, and the less noisy figure counts; what was recorded first stays."""

from __future__ import annotations

from pathlib import Path

import pytest

import nas
from nas.cli.hardware import measure_noisy
from nas.errors import MetricError
from nas.store import further
from nas.study.anew import measure_again, noisy_front
from tests.study.landscapes import grid


class Clock:
    """Latency x0 + 1, noisy where x1 is 0 and the machine is busy: then three times that for x0 = 1, and a half for others."""

    metrics = ("latency_ms", "latency_p10_ms", "latency_spread_ms", "latency_noisy", "load")
    exclusive = True
    busy = True
    calls = 0

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        Clock.calls += 1
        true = arch.choices["x0"] + 1.0
        noisy = Clock.busy and arch.choices["x1"] == 0
        wrong = (3.0 if arch.choices["x0"] == 1 else 0.5) if noisy else 1.0
        return {
            "latency_ms": true * wrong,
            "latency_p10_ms": true,
            "latency_spread_ms": true * (0.9 if noisy else 0.01),
            "latency_noisy": float(noisy),
            "load": 9.5 if noisy else 0.5,
        }


def quality(arch: nas.Arch) -> dict[str, float]:
    return {"quality": arch.choices["x0"] - arch.choices["x1"] / 10, "params": 10 * arch.choices["x0"]}


@pytest.fixture
def study(tmp_path: Path) -> nas.Study:
    Clock.busy, Clock.calls = True, 0
    made = nas.Study(
        "clock",
        space=grid(4),
        objectives=["max quality", "min latency_ms"],
        evaluators=[quality, Clock()],
        algorithm=nas.Exhaustive(),
        store=tmp_path / "nas.db",
        trials=16,
    )
    made.run(workers=0, progress=False)
    Clock.busy = False
    return made


def choices(study: nas.Study, number: int) -> tuple[int, int]:
    return study.arch(number).choices["x0"], study.arch(number).choices["x1"]


def test_the_less_noisy_measurement_counts_and_the_first_stays(study: nas.Study) -> None:
    before = study.front()
    assert before["latency_noisy"].sum() == 3
    recorded = study.record.trials()
    done = measure_again(study)
    assert {one.number for one in done} >= {number for number in before.index if before["latency_noisy"][number]}
    assert not any(one.noisy for one in done)
    front = study.front()
    assert list(front.columns) == list(before.columns)
    assert front["latency_ms"].tolist() == [study.arch(n).choices["x0"] + 1.0 for n in front.index]
    assert front["latency_noisy"].sum() == 0
    assert front["latency_noisy"].dtype == before["latency_noisy"].dtype
    assert study.record.trials().drop(columns="choices").equals(recorded.drop(columns="choices"))
    (entry,) = further.entries(study.record, done[0].number)
    assert entry["measurements"]["latency_ms"] == done[0].after
    assert noisy_front(study) == {}
    assert measure_again(study) == []


def test_filters_and_other_objectives_see_what_was_measured_again(study: nas.Study) -> None:
    measure_again(study)
    found = study.front("latency_ms <= 2 and x0 >= 0")
    assert found["latency_ms"].tolist() == [2.0, 1.0]
    assert study.front(objectives="min latency_ms, max params").iloc[0]["latency_ms"] == 1.0
    assert study.best("latency_ms")["latency_ms"] == 1.0


def test_the_number_of_measurements_is_bounded_and_a_busy_machine_is_left_alone(study: nas.Study) -> None:
    calls = Clock.calls
    assert measure_again(study, quiet=lambda: False) == []
    assert Clock.calls == calls
    assert len(measure_again(study, most=2)) == 2
    assert Clock.calls == calls + 2


def test_a_measurement_that_is_as_noisy_again_changes_nothing(study: nas.Study) -> None:
    Clock.busy = True
    before = study.front()
    calls = Clock.calls
    assert all(one.noisy for one in measure_again(study))
    assert study.front()["latency_ms"].tolist() == before["latency_ms"].tolist()
    assert measure_again(study) == []
    assert Clock.calls == calls + 3, "each trial once"


def test_trials_of_other_machines_can_be_left_out(study: nas.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(noisy_front(study, here=True)) == 3
    monkeypatch.setattr("nas.study.anew.socket.gethostname", lambda: "elsewhere")
    assert noisy_front(study, here=True) == {}


def test_what_is_no_measurement_is_not_kept(study: nas.Study) -> None:
    with pytest.raises(MetricError, match="trial 0 cannot keep what was measured again: metric 'latency_ms' is nan"):
        further.add(study.record, 0, {"latency_ms": float("nan")})
    assert further.trials_with(study.record) == []


def test_a_front_of_other_metrics_says_what_it_leaves_out(study: nas.Study) -> None:
    assert study.front(objectives="max quality, min params")["params"].tolist() == [30, 20, 10, 0]
    asked = nas.Study(
        "asked", space=grid(4), objectives=["max quality"], algorithm=nas.RandomSearch(seed=0), store=study.store
    )
    one, two = asked.ask(2)
    asked.tell(one.number, {"quality": 1.0, "params": 5})
    asked.tell(two.number, {"quality": 2.0})
    with pytest.warns(UserWarning, match="1 of 2 completed trials have not measured 'params' and are left out"):
        found = asked.front(objectives=["max quality", "min params"])
    assert found.index.tolist() == [one.number]
    assert found["params"].tolist() == [5]


def test_a_run_waits_for_a_quiet_machine_before_it_measures(
    study: nas.Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("nas.study.study.wait_for_quiet", lambda limit_s, say: waits.append(limit_s))
    study.run(16, workers=0, progress=False, wait_s=7)
    assert waits == [], "all is measured already"
    more = nas.Study(
        "more", space=study.space, objectives=["min latency_ms"], evaluators=[Clock()], store=study.store, trials=2
    )
    more.run(1, workers=0, progress=False)
    assert waits == [], "unless it is asked to"
    more.run(2, workers=0, progress=False, wait_s=7)
    assert waits == [7]
    counts = nas.Study(
        "counts", space=study.space, objectives=["max quality"], evaluators=[quality], store=study.store, trials=2
    )
    counts.run(workers=0, progress=False, wait_s=7)
    assert waits == [7], "counts need no quiet machine"


def test_what_to_do_on_a_quiet_machine_names_the_database(
    study: nas.Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nas.cli.hardware.wait_for_quiet", lambda *_: False)
    measure_noisy(study, None, None)
    said = " ".join(capsys.readouterr().out.split())
    assert f"--measure --store {study.where}" in said
