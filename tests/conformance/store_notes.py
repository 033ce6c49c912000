"""Notes on studies and trials, and entering one trial under a limit: part of the store's conformance suite."""

from __future__ import annotations

import random
import threading

import pytest

from nas.errors import StoreError
from nas.store import NewTrial, Store, StudyRecord
from tests.conformance.store_tools import audit, make_study, new_trial


class NotesConformance:
    """Needs the fixtures of `StoreConformance`."""

    def test_notes_are_kept_by_trial_and_name(self, study: StudyRecord) -> None:
        study.add([new_trial(random.Random(0)), new_trial(random.Random(1))])
        study.annotate({"link:log": "http://x/1", "tags": ["a", {"b": None}]}, 0)
        study.annotate({"link:log": "http://x/2"}, 0)
        study.annotate({"active": False})
        assert study.notes(0) == {"link:log": "http://x/2", "tags": ["a", {"b": None}]}
        assert study.notes(1) == {}
        assert study.notes() == {"active": False}
        assert study.all_notes() == {-1: study.notes(), 0: study.notes(0)}

    def test_notes_of_a_deleted_study_are_gone(self, store: Store) -> None:
        make_study(store).annotate({"active": False})
        store.delete_study("toy")
        assert make_study(store).notes() == {}

    def test_a_note_that_cannot_be_kept_is_refused(self, study: StudyRecord) -> None:
        with pytest.raises(StoreError, match="note 'what' cannot be stored"):
            study.annotate({"fine": 1, "what": object()})
        with pytest.raises(StoreError, match="has no trial 7 to leave notes on"):
            study.annotate({"fine": 1}, 7)
        assert study.all_notes() == {}

    def test_entering_a_trial_obeys_the_limit_and_knows_archs(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        first, second = new_trial(rng), new_trial(rng)
        one = study.enter(first, worker="w", most=1, notes_on_it={"dna": [1]})
        assert one is not None
        assert (one.number, one.existing, one.state, study.notes(0)) == (0, False, "RUNNING", {"dna": [1]})
        assert study.enter(second, worker="w", most=1) is None
        again = study.enter(first, worker="w", most=1, notes_on_it={"dna": [2]})
        assert again is not None
        assert (again.number, again.existing, study.notes(0)) == (0, True, {"dna": [1]})
        assert study.enter(second, worker="w") is not None
        audit(study)

    def test_a_limit_holds_among_threads(self, study: StudyRecord) -> None:
        def enter_some(worker: int) -> None:
            for i in range(10):
                study.enter(NewTrial(f"{worker}-{i}", [0, 1, 2, 0.5]), worker=f"w{worker}", most=17)

        threads = [threading.Thread(target=enter_some, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(study.counts().values()) == 17
