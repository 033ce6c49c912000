from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.cli.app import run
from nas.errors import StoreError
from nas.store import ArchMeasurement, ImportedTrial, Store, StoredPredictor, open_store
from nas.store.copying import copy
from tests.conformance.postgres_server import PostgresServer
from tests.conformance.store_tools import audit, completed, make_study, new_trial, schema

pytestmark = pytest.mark.postgres


@pytest.fixture
def places(server: PostgresServer, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Two empty databases of each kind."""
    urls = {"sqlite": f"sqlite:///{tmp_path}/a.db", "sqlite again": f"sqlite:///{tmp_path}/b.db"}
    urls |= {"postgresql": server.database(), "postgresql again": server.database()}
    yield urls
    for name in ("postgresql", "postgresql again"):
        server.drop(urls[name])


def fill(store: Store) -> None:
    """Something in every table: studies in all states, changed spaces, gaps between identities, bytes, odd text."""
    rng = random.Random(0)
    make_study(store, "deleted").add([new_trial(rng)])
    study = make_study(store, constraints=["latency_ms <= 5"])
    store.delete_study("deleted")
    new = [new_trial(rng) for _ in range(300)]
    study.import_trials(
        [
            ImportedTrial(one.key, one.row, {"accuracy": rng.random(), "latency_ms": rng.lognormvariate(1, 1)})
            for one in new
        ]
    )
    study.add([new_trial(rng) for _ in range(3)], worker="w")
    study.measure(300, "loss", 1e-300, step=0)
    study.report([completed(300, 0.1 + 0.2, 2.0, huge=1e300)])
    study.add([new_trial(rng)])
    study.update_space(schema(labels=(3, 5, 9), name="é\\t'\"\n"))
    study.annotate({"text": "a\\b\tc\n'd' \u2028 é", "none": None}, 300)
    store.hardware.add_device("board", {"kind": "cpu", "threads": 1})
    store.hardware.add_measurements("board", "f", [ArchMeasurement("k" * 32, [0, 1], 0.25, details={"p10_ms": 0.2})])
    store.hardware.save_predictor(StoredPredictor("board", "f", "toy", "ridge", {"mape": 0.1}, {}, bytes(range(256))))


def everything(store: Store) -> object:
    study = store.open_study("toy")
    trials = [study.trial(number) for number in range(304)]
    return (store.studies(), trials, study.all_notes(), store.hardware.devices(), store.hardware.predictors())


@pytest.mark.parametrize(
    "way",
    [
        ("sqlite", "postgresql", "sqlite again"),
        ("postgresql", "sqlite", "postgresql again"),
        ("postgresql", "postgresql again", "sqlite"),
    ],
    ids=str,
)
def test_what_is_copied_there_and_back_is_the_same(places: dict[str, str], way: tuple[str, str, str]) -> None:
    with open_store(places[way[0]]) as first, open_store(places[way[1]]) as second, open_store(places[way[2]]) as third:
        fill(first)
        told: list[tuple[str, int, int]] = []
        there = first.copy_to(second, lambda *how_far: told.append(how_far))
        back = second.copy_to(third)
        assert there == back
        assert (there.rows["trials"], there.rows["notes"], there.rows["predictors"]) == (304, 2, 1)
        assert told.count(("trials", 304, 304)) == 2  # copied and compared
        assert everything(first) == everything(second) == everything(third)
        for store in (second, third):  # it goes on there as it would have here
            study = store.open_study("toy")
            assert [claim.number for claim in study.claim("x", 5)] == [303]
            assert study.report([completed(301, 0.9, 2.0)])[0].accepted
            audit(study)
            assert make_study(store, "new").id > study.id
            store.hardware.add_device("other", {})


def test_a_copy_goes_into_an_empty_database_only(places: dict[str, str]) -> None:
    with open_store(places["sqlite"]) as first, open_store(places["postgresql"]) as second:
        fill(first)
        make_study(second, "mine")
        with pytest.raises(StoreError, match="holds spaces already, and a copy goes into an empty one; give another"):
            first.copy_to(second)
        assert [summary.name for summary in second.studies()] == ["mine"]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_copy_that_is_interrupted_leaves_nothing(places: dict[str, str], kind: str) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(table: str, done: int, total: int) -> None:
        if table == "measurements":
            raise Interrupted

    with open_store(places["sqlite again"]) as first, open_store(places[kind]) as second:
        fill(first)
        with pytest.raises(Interrupted):
            first.copy_to(second, interrupt)
        assert second.studies() == []
        assert first.copy_to(second).rows["trials"] == 304


def test_an_infinite_measurement_of_an_earlier_version_is_named_and_not_copied(places: dict[str, str]) -> None:
    with open_store(places["sqlite"]) as first, open_store(places["sqlite again"]) as second:
        fill(first)
        with sqlite3.connect(places["sqlite"].removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE measurements SET value = 9e999 WHERE number = 17")
        with pytest.raises(
            StoreError, match="metric 'accuracy' of trial 17 of study 'toy' is inf .*nothing was copied"
        ):
            first.copy_to(second)
        assert second.studies() == []


def test_what_changes_on_the_way_is_noticed(places: dict[str, str], server: PostgresServer) -> None:
    with open_store(places["sqlite"]) as first, open_store(places["postgresql"]) as second:
        fill(first)
        name = places["postgresql"].rpartition("/")[2]
        server.run(
            "CREATE FUNCTION rot() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN IF NEW.number = 17 THEN NEW.value := NEW.value + 1e-12; END IF; RETURN NEW; END $$",
            name,
        )
        server.run("CREATE TRIGGER t BEFORE INSERT ON measurements FOR EACH ROW EXECUTE FUNCTION rot()", name)
        with pytest.raises(
            StoreError, match="table 'measurements' of .* is not what was read from .*; nothing was copied"
        ):
            copy(first._database, second._database)
        assert second.studies() == []


def test_the_command_copies_and_says_what(
    places: dict[str, str], server: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(places["sqlite"]) as store:
        fill(store)
    assert run(["db", "copy", places["sqlite"], places["postgresql"]]) == 0
    said = capsys.readouterr().out
    assert "postgresql://nas:***@" in said
    assert "304 trials" in said
    assert "the same in both" in said
    assert run(["db", "copy", places["sqlite"], places["postgresql"]]) == 2
    assert "already, and a copy goes into an empty one" in capsys.readouterr().err
    assert run(["db", "copy", "absent.db", places["postgresql again"]]) == 2
    assert "'absent.db' does not exist" in capsys.readouterr().err
