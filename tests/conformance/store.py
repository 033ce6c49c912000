"""What every results database must do.  Inherit `StoreConformance` and give it a fixture `url` of an empty database."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.errors import StoreError
from nas.store import NewTrial, Receipt, Report, State, Store, StudyRecord, open_store
from tests.conformance.patience import PATIENCE_S
from tests.conformance.store_notes import NotesConformance
from tests.conformance.store_processes import end, kill_writers, start
from tests.conformance.store_reading import ReadingConformance
from tests.conformance.store_tools import (
    audit,
    completed,
    make_study,
    new_trial,
    operate,
    slow_front,
)


class StoreConformance(ReadingConformance, NotesConformance):
    """The rules of a store: durable, exactly once, immutable, fenced."""

    # -- trials and waves --------------------------------------------------------------------------------------------

    def test_wave_records_results_and_leases_the_next(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        first = study.add([new_trial(rng), new_trial(rng)], worker="w")
        receipts, second = study.wave([completed(0, 0.9, 2.0), completed(1, 0.8, 1.0)], [new_trial(rng)], worker="w")
        assert [(a.number, a.existing, a.state) for a in first + second] == [(n, False, "RUNNING") for n in range(3)]
        assert all(receipt.accepted and receipt.entered_front for receipt in receipts)
        history = study.history()
        assert history.states == ["COMPLETED", "COMPLETED"]
        assert history.values.tolist() == [[0.9, 2.0], [0.8, 1.0]]
        assert history.violations.tolist() == [0.0, 0.0]
        assert [(p.number, p.state, p.worker, p.attempt) for p in history.pending] == [(2, "RUNNING", "w", 1)]
        audit(study)

    def test_values_of_many_kinds_share_a_wave(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        odd = ['a "quoted", {braced}\\ text', "NULL", "", "new\nline; ünïcode"]
        study.add([new_trial(rng) for _ in range(6)], worker="w")
        reports = [Report(n, "w", 1, "FAILED", {}, odd[n], duration_s=[1, 0.5, None, 2**40][n]) for n in range(4)]  # type: ignore[arg-type]
        whole = {"accuracy": 1, "latency_ms": 1e300, "params": 10**12}
        study.report([*reports, Report(4, "w", 1, "COMPLETED", whole, started=12.5), completed(5, 0.5, 1.0)])
        records = [study.trial(n) for n in range(6)]
        assert [record.reason for record in records] == [*odd, None, None]
        assert [record.duration_s for record in records] == [1.0, 0.5, None, 2.0**40, None, 0.5]
        assert records[4].measurements == whole
        assert records[4].started == 12.5
        assert records[5].started == records[0].started == records[5].created
        assert study.front().index.tolist() == [4, 5]
        assert study.front()["latency_ms"].tolist() == [1e300, 1.0]
        audit(study)

    def test_an_arch_is_stored_once(self, study: StudyRecord) -> None:
        new, other = new_trial(random.Random(0)), new_trial(random.Random(1))
        study.add([new], worker="w")
        study.report([completed(0, 0.9, 2.0)])
        again = study.add([new, other, other])
        assert [(a.number, a.existing, a.state) for a in again] == [
            (0, True, "COMPLETED"),
            (1, False, "WAITING"),
            (1, True, "WAITING"),
        ]
        assert study.keys() == {new.key, other.key}
        audit(study)

    def test_an_arch_that_ends_in_a_wave_is_answered_as_ended_in_it(self, study: StudyRecord) -> None:
        new = new_trial(random.Random(0))
        study.add([new], worker="w")
        _, (again,) = study.wave([completed(0, 0.9, 2.0)], [new], worker="w")
        assert (again.number, again.existing, again.state) == (0, True, "COMPLETED")
        audit(study)

    def test_many_keys_at_once_are_all_found(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        trials = [new_trial(rng) for _ in range(1300)]
        study.add(trials[:700])
        answers = study.add(trials)
        assert [a.existing for a in answers] == [True] * 700 + [False] * 600
        assert [a.number for a in answers] == list(range(1300))

    def test_trial_gives_everything_back(self, study: StudyRecord) -> None:
        new = NewTrial("k" * 32, [0, 2, None, 0.25], 2**62)
        study.add([new], worker="w")
        study.measure(0, "accuracy", 0.5, step=0)
        study.measure(0, "accuracy", 0.6, step=1)
        study.measure(0, "accuracy", 0.7, step=1)
        study.report([completed(0, 0.9, 2.0, params=12)])
        trial = study.trial(0)
        assert trial == study.lookup("k" * 32)
        assert trial.choices == {"layers[0].kernel": 3, "layers[1].kernel": 7, "rate": 0.25}
        assert (trial.row, trial.seed, trial.state, trial.duration_s) == ([0, 2, None, 0.25], 2**62, "COMPLETED", 0.5)
        assert trial.measurements == {"accuracy": 0.9, "latency_ms": 2.0, "params": 12.0}
        assert trial.curves == {"accuracy": [(0, 0.5), (1, 0.7)]}
        assert trial.created <= (trial.started or 0) <= (trial.finished or 0)
        assert list(study.history().rows) == [[0, 2, None, 0.25]]
        assert study.lookup("absent") is None

    @pytest.mark.parametrize("number", [0, 7])
    def test_unknown_trial_is_one_sentence(self, study: StudyRecord, number: int) -> None:
        with pytest.raises(StoreError, match=f"study 'toy' has no trial {number}; it has no trials yet"):
            study.trial(number)
        with pytest.raises(StoreError, match="number=-1; it is a whole number, 0 or more"):
            study.trial(-1)

    def test_row_that_does_not_fit_is_refused_and_nothing_stays(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        with pytest.raises(StoreError, match="2 numbers does not fit study 'toy', whose space has 4 decisions"):
            study.add([new_trial(rng), NewTrial("x", [0, 1])])
        assert len(study.trials()) == 0
        assert study.add([new_trial(rng)])[0].number == 0

    def test_intermediate_values_need_a_running_trial_and_a_number(self, study: StudyRecord) -> None:
        study.add([new_trial(random.Random(0))])
        with pytest.raises(StoreError, match="trial 0 cannot be measured: it is WAITING, and only RUNNING"):
            study.measure(0, "accuracy", 0.5, step=0)
        with pytest.raises(StoreError, match="trial 9 cannot be measured: it does not exist"):
            study.measure(9, "accuracy", 0.5, step=0)
        study.claim("w", 1)
        for name, value, step, why in (
            ("accuracy", float("nan"), 0, "value=nan; it is a finite number"),
            ("accuracy", float("inf"), 0, "value=inf; it is a finite number"),
            ("accuracy", "0.5", 0, "value='0.5'; it is a finite number"),
            ("accuracy", 0.5, -1, "step -1 is negative"),
            ("state", 0.5, 0, "reserved"),
            ("a b", 0.5, 0, "not an identifier"),
        ):
            with pytest.raises(StoreError, match=why):
                study.measure(0, name, value, step)
        assert study.trial(0).curves == {}

    # -- reports -----------------------------------------------------------------------------------------------------

    def test_the_same_report_again_changes_nothing(self, study: StudyRecord) -> None:
        study.add([new_trial(random.Random(0))], worker="w")
        assert study.report([completed(0, 0.9, 2.0)]) == [Receipt(0, True, "", True, "COMPLETED")]
        before = study.trial(0)
        assert (
            study.report([completed(0, 0.9, 2.0)] * 2) == [Receipt(0, True, "already recorded", False, "COMPLETED")] * 2
        )
        assert study.trial(0) == before
        audit(study)

    def test_the_same_report_twice_in_one_batch_counts_once(self, study: StudyRecord) -> None:
        study.add([new_trial(random.Random(0))], worker="w")
        assert [r.accepted for r in study.report([completed(0, 0.9, 2.0)] * 2)] == [True, True]
        audit(study)

    def test_a_finished_trial_is_immutable(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng), new_trial(rng)], worker="w")
        study.report([completed(0, 0.9, 2.0)])
        sentence = "trial 0 is COMPLETED and cannot be reported again .worker 'w'.; claim a new trial"
        with pytest.raises(StoreError, match=sentence):
            study.report([completed(1, 0.5, 1.0), completed(0, 0.99, 2.0)])
        with pytest.raises(StoreError, match=sentence):
            study.report([Report(0, "w", 1, "FAILED", reason="out of memory")])
        assert study.trial(1).state == "RUNNING"
        study.report([completed(1, 0.5, 1.0)])
        assert study.trial(0).measurements["accuracy"] == 0.9
        audit(study)

    def test_a_worker_without_the_lease_is_refused_and_hinders_nobody(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(4)], worker="old", lease_s=1)
        assert study.requeue_expired(now=time.time() + 2) == 4
        study.claim("new", 2)
        study.report([completed(1, 0.7, 1.0, "new", 2)])
        study.claim("old", 1)  # the same worker again: another attempt
        receipts = study.report(
            [
                completed(0, 0.1, 9.0, "old", 1),
                completed(1, 0.1, 9.0, "old", 1),
                completed(2, 0.1, 9.0, "old", 1),
                completed(3, 0.1, 9.0, "old", 1),
                completed(77, 0.1, 9.0, "old", 1),
                completed(0, 0.9, 2.0, "new", 2),
            ]
        )
        assert [r.accepted for r in receipts] == [False] * 5 + [True]
        assert "leased to worker 'new' (attempt 2), no longer to worker 'old' (attempt 1)" in receipts[0].why
        assert "COMPLETED and cannot be reported again" in receipts[1].why
        assert "leased to worker 'old' (attempt 2)" in receipts[2].why
        assert "is WAITING: worker 'old' (attempt 1) holds no lease" in receipts[3].why
        assert "no trial 77" in receipts[4].why
        assert study.trial(0).measurements["accuracy"] == 0.9
        audit(study)

    @pytest.mark.parametrize(
        ("measurements", "reason"),
        [
            ({"accuracy": 0.9}, "objective 'latency_ms' was not measured"),
            ({"accuracy": float("nan"), "latency_ms": 1.0}, "metric 'accuracy' is nan; it must be one finite number"),
            ({"accuracy": float("-inf"), "latency_ms": 1.0}, "metric 'accuracy' is -inf; it must be one finite number"),
            ({"accuracy": "high", "latency_ms": 1.0}, "metric 'accuracy' is 'high' (str); it must be one finite"),
            ({"accuracy": None, "latency_ms": 1.0}, "metric 'accuracy' is None (NoneType); it must be one"),
            ({"accuracy": 0.9, "latency_ms": 1.0, "state": 3.0}, "metric name 'state' is reserved"),
            ({"accuracy": 0.9, "latency_ms": 1.0, "a b": 3.0}, "metric name 'a b' is not an identifier"),
            ({"accuracy": 0.9, "latency_ms": 1.0}, "metric 'params' of the constraint"),
        ],
    )
    def test_completed_without_a_number_for_everything_is_failed(
        self, store: Store, measurements: dict[str, Any], reason: str
    ) -> None:
        study = make_study(store, constraints=["params <= 100"])
        study.add([new_trial(random.Random(0))], worker="w")
        [receipt] = study.report([Report(0, "w", 1, "COMPLETED", measurements)])
        assert (receipt.accepted, receipt.state) == (True, "FAILED")
        assert reason in receipt.why
        assert reason in str(study.trial(0).reason)
        assert study.report([Report(0, "w", 1, "COMPLETED", measurements)])[0].why == "already recorded"
        audit(study)

    def test_violated_constraints_make_a_trial_infeasible(self, store: Store) -> None:
        study = make_study(store, constraints=["params <= 100", "latency_ms <= 10"])
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(4)], worker="w")
        receipts = study.report(
            [
                completed(0, 0.99, 1.0, params=150),
                completed(1, 0.5, 1.0, params=100),
                Report(2, "w", 1, "INFEASIBLE", {"params": 300.0}, reason="too large"),
                Report(3, "w", 1, "INFEASIBLE", reason="does not build"),
            ]
        )
        assert [r.state for r in receipts] == ["INFEASIBLE", "COMPLETED", "INFEASIBLE", "INFEASIBLE"]
        assert receipts[0].why == "params = 150 violates 'params <= 100'"
        assert study.front().index.tolist() == [1]
        history = study.history()
        np.testing.assert_array_equal(history.violations, [0.5, 0.0, 2.0, np.nan])
        assert history.values[0].tolist() == [0.99, 1.0]
        assert np.isnan(history.values[2:]).all()
        audit(study)

    def test_any_reason_can_be_stored_and_repeated(self, study: StudyRecord) -> None:
        study.add([new_trial(random.Random(0))], worker="w")
        report = Report(0, "w", 1, "FAILED", reason="bad \0 byte, lone \udcff surrogate, 'quote', é" + "x" * 10_000)
        assert study.report([report])[0].accepted
        assert study.report([report])[0].why == "already recorded"
        assert str(study.trial(0).reason).startswith("bad \ufffd byte, lone ? surrogate, 'quote', é")

    def test_a_failed_transaction_leaves_no_trace_in_memory(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(3)], worker="w")
        study.report([completed(0, 0.5, 2.0)])
        bad = NewTrial("bad", [0])
        with pytest.raises(StoreError, match="does not fit"):
            study.wave([completed(1, 0.9, 1.0, energy_mj=3.0)], [bad])
        assert study.report([completed(2, 0.7, 1.5, energy_mj=4.0)])[0].entered_front
        assert study.front().index.tolist() == [2]
        assert study.report([completed(1, 0.9, 1.0, energy_mj=3.0)])[0].entered_front
        audit(study)

    def test_a_state_that_is_no_end_is_refused(self, study: StudyRecord) -> None:
        study.add([new_trial(random.Random(0))], worker="w")
        with pytest.raises(StoreError, match="cannot be reported as 'RUNNING'; it ends as one of COMPLETED"):
            study.report([Report(0, "w", 1, "RUNNING")])

    # -- trying again ------------------------------------------------------------------------------------------------

    def test_failed_trials_wait_again_and_how_they_ended_is_kept(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(6)], worker="w")
        failed = [Report(n, "w", 1, "FAILED", {"params": float(n)}, f"why {n}", duration_s=2.0) for n in (1, 2, 4)]
        done = {n: completed(n, 0.5 + n / 100, 1.0) for n in (0, 3, 5)}
        study.report([failed[0], done[0], failed[1], done[3], failed[2], done[5]])
        assert study.retry([1, 4], "room again") == [1, 4]
        audit(study)
        assert study.counts()["WAITING"] == 2
        assert study.history().numbers.tolist() == [0, 2, 3, 5]
        assert study.history(after=2).numbers.tolist() == [3, 5]
        waiting = study.trial(4)
        assert (waiting.reason, waiting.measurements, waiting.attempt) == (None, {}, 1)
        (claim, other) = study.claim("v", 2)
        assert (claim.number, claim.attempt, other.number) == (1, 2, 4)
        study.report([completed(1, 0.9, 1.0, "v", 2), Report(4, "v", 2, "FAILED", {}, "once more")])
        study.retry([4], "and again")
        assert [tried["reason"] for tried in study.notes(4)["tries"]] == ["why 4", "once more"]
        (tried,) = study.notes(1)["tries"]
        assert (tried["worker"], tried["attempt"], tried["measurements"], tried["again"], tried["duration_s"]) == (
            "w", 1, {"params": 1.0}, "room again", 2.0,
        )  # fmt: skip
        assert study.front().index[0] == 1
        audit(study)

    def test_only_failed_trials_of_an_idle_study_are_tried_again(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(2)], worker="w")
        study.report([Report(0, "w", 1, "FAILED", {}, "why")])
        with pytest.raises(StoreError, match="is running: worker 'w' holds trial 1; stop the run first"):
            study.retry([0])
        study.report([completed(1, 0.5, 1.0)])
        with pytest.raises(StoreError, match="trial 1 is COMPLETED; only FAILED trials can be tried again"):
            study.retry([0, 1])
        with pytest.raises(StoreError, match="has not all of trials 0, 7"):
            study.retry([0, 7])
        assert study.counts()["FAILED"] == 1
        assert study.retry([]) == []
        audit(study)

    # -- leases ------------------------------------------------------------------------------------------------------

    def test_claims_are_by_number_and_exclusive(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        trials = [new_trial(rng) for _ in range(5)]
        study.add(trials)
        first, second = study.claim("a", 2), study.claim("b", 9)
        assert [c.number for c in first + second] == [0, 1, 2, 3, 4]
        assert [(c.attempt, c.key, list(c.row), c.seed) for c in first] == [
            (1, t.key, list(t.row), t.seed) for t in trials[:2]
        ]
        assert study.schema_of(first[0].space_id) == study.schema
        assert study.claim("a", 1) == []

    def test_released_trials_can_be_claimed_at_once(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(3)], worker="a")
        study.report([completed(0, 0.9, 2.0, "a")])
        assert study.release("a") == 2
        assert study.release("a") == 0
        assert [(c.number, c.attempt) for c in study.claim("b", 9)] == [(1, 2), (2, 2)]
        audit(study)

    def test_a_lease_ends_unless_the_heart_beats(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng)], worker="a", lease_s=10)
        study.add([new_trial(rng)], worker="b", lease_s=10)
        assert study.heartbeat("a", lease_s=100) == 1
        assert study.requeue_expired() == 0
        assert study.requeue_expired(now=time.time() + 50) == 1
        assert study.counts()["RUNNING"] == 1
        assert [c.number for c in study.claim("c", 9)] == [1]

    def test_a_dead_owner_loses_its_trials_before_the_lease_ends(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng)], worker="a", lease_s=1000)
        study.add([new_trial(rng)], worker="b", lease_s=1000)
        asked: list[str] = []
        assert study.requeue_expired(dead=lambda worker: (asked.append(worker), worker == "a")[1]) == 1
        assert sorted(asked) == ["a", "b"]
        assert study.trial(0).state == "WAITING"

    def test_a_trial_that_costs_too_many_workers_fails(self, study: StudyRecord) -> None:
        study.add([new_trial(random.Random(0))])
        for _ in range(2):
            study.claim("w", 1)
            study.release("w")  # a clean shutdown costs no worker
        for attempt in range(3, 6):
            assert [c.attempt for c in study.claim("w", 1)] == [attempt]
            assert study.requeue_expired(dead=lambda _: True) == 1
        trial = study.trial(0)
        assert (trial.state, trial.reason) == ("FAILED", "lost 3 workers")
        assert study.history().states == ["FAILED"]
        assert not study.report([completed(0, 0.9, 2.0, attempt=4)])[0].accepted
        audit(study)

    def test_a_trial_that_goes_on_may_cost_any_number_of_workers(self, study: StudyRecord) -> None:
        study.add([new_trial(random.Random(0))])
        for life in range(7):
            (claim,) = study.claim("w", 1)
            study.measure(
                claim.number, "accuracy", 0.1, step=life // 2
            )  # every other life makes the same step once more
            assert study.requeue_expired(dead=lambda _: True) == 1
        for _ in range(2):
            assert study.trial(0).state == "WAITING"
            study.claim("w", 1)
            assert study.requeue_expired(dead=lambda _: True) == 1
        assert (study.trial(0).state, study.trial(0).reason) == ("FAILED", "lost 3 workers")
        audit(study)

    def test_a_claim_may_leave_out_trials_that_workers_vanished_with(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng)], worker="a", lease_s=1000)
        study.requeue_expired(dead=lambda _: True, max_attempts=9)
        study.add([new_trial(rng)])
        assert [claim.number for claim in study.claim("b", 9, lost_below=1)] == [1]
        assert study.claim("b", 9, lost_below=1) == []
        assert [claim.number for claim in study.claim("b", 9, lost_below=2)] == [0]
        study.release("b")
        assert [claim.number for claim in study.claim("b", 9)] == [0, 1]
        audit(study)

    # -- whatever the order ------------------------------------------------------------------------------------------

    @given(data=st.data())
    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.differing_executors,  # inherited by every database
        ],
    )
    def test_random_operations_keep_every_promise(self, url: str, data: st.DataObject) -> None:
        with open_store(url) as store:
            name = f"s{len(store.studies())}"
            make_study(store, name, constraints=["latency_ms <= 5"])
            # Two handles on one study: neither's copy of the front may be trusted blindly.
            handles = [store.open_study(name), store.open_study(name)]
            rng = random.Random(data.draw(st.integers(0, 2**32), label="seed"))
            leases: dict[int, tuple[str, int]] = {}
            done: dict[int, tuple[State, dict[str, float]]] = {}
            for _ in range(data.draw(st.integers(1, 25), label="operations")):
                study = rng.choice(handles)
                operate(study, rng, leases, done)
            for number, (state, values) in done.items():
                trial = handles[0].trial(number)
                assert (trial.state, trial.measurements) == (state, values)
            assert handles[0].counts()["RUNNING"] == len(leases)
            for study in handles:
                audit(study)

    # -- several processes -------------------------------------------------------------------------------------------

    def test_processes_never_claim_one_trial(self, url: str, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(300)])
        workers = [start("claim_all", url, f"w{i}") for i in range(3)]
        claimed = [json.loads(worker.communicate(timeout=PATIENCE_S)[0]) for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0, 0]
        everything = sorted(itertools.chain(*claimed))
        assert everything == list(range(300))
        assert study.counts()["COMPLETED"] == 300
        audit(study)

    def test_threads_may_share_a_handle(self, study: StudyRecord) -> None:
        faults: list[BaseException] = []

        def work(worker: str) -> None:
            rng = random.Random(worker)
            try:
                added = study.add([new_trial(rng)], worker=worker)
                for _ in range(25):
                    reports = [completed(a.number, rng.random(), rng.random(), worker) for a in added]
                    receipts, added = study.wave(reports, [new_trial(rng)], worker=worker)
                    assert receipts[0].accepted
                    assert len(study.front()) > 0
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        assert study.counts()["COMPLETED"] == 100
        audit(study)

    def test_killed_writers_lose_nothing(self, url: str, study: StudyRecord) -> None:
        kill_writers(url, study, kills=3)

    @pytest.mark.slow
    def test_killed_writers_lose_nothing_many_times(self, url: str, study: StudyRecord) -> None:
        kill_writers(url, study, kills=20)

    def test_readers_see_whole_waves_while_a_process_writes(self, url: str, study: StudyRecord) -> None:
        writer = start("write", url, "w")
        faults: list[str] = []
        stop = threading.Event()

        def watch() -> None:
            try:
                with open_store(url, create=False, read_only=True) as store:
                    mine = store.open_study("toy")
                    last = 0
                    while not stop.is_set():
                        history = mine.history()
                        # A wave reports 3 and adds 3: in every snapshot 3 are pending, and nothing that was seen goes away.
                        if len(history.pending) not in (0, 3) or len(history) % 3 or history.last < last:
                            faults.append(f"{len(history)} finished, {len(history.pending)} pending, was {last}")
                        last = history.last
                        front = mine.front()
                        if len(slow_front(front.index.tolist(), front[["accuracy", "latency_ms"]].to_numpy())) != len(
                            front
                        ):
                            faults.append(f"front dominates itself: {front}")
            except Exception as error:
                faults.append(repr(error))

        readers = [threading.Thread(target=watch) for _ in range(3)]
        for reader in readers:
            reader.start()
        assert writer.stdout is not None
        for _, _line in zip(range(150), writer.stdout, strict=False):
            pass
        stop.set()
        for reader in readers:
            reader.join()
        end(writer)
        assert faults == []
        audit(study)
