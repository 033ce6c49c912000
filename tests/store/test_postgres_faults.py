"""What only a server can do to a store: refuse, restart, be cut off, be full, be held up."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

import nas.store.database
import nas.store.postgres
from nas.cli.app import run
from nas.errors import NasError, StoreError
from nas.store import ImportedTrial, Store, open_store
from nas.store import statements as s
from nas.store.database import VERSION_TABLE, shown
from nas.store.schema import HEAD
from tests.conformance.cutting_proxy import CuttingProxy
from tests.conformance.postgres_server import PostgresServer
from tests.conformance.store_processes import end, start
from tests.conformance.store_tools import OBJECTIVES, audit, completed, make_study, new_trial, schema

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    url = server.database()
    yield url
    server.drop(url)


def sentence(error: pytest.ExceptionInfo[NasError], server: PostgresServer) -> str:
    """The message, after a look at everything that a log of the error would show."""
    text = str(error.value)
    assert "\n" not in text
    for secret in (server.password, quote(server.password, safe=""), "wr@ng"):
        assert secret not in "".join(traceback.format_exception(error.value)).replace('url = "', "")
    return text


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_a_wrong_address_is_one_sentence_without_the_password(server: PostgresServer) -> None:
    good = server.url("postgres")
    port = str(server.port)
    for wrong, says in {
        server.url("postgres", password="wr@ng"): "refuses user nas: wrong password or user",
        good.replace("//nas:", "//nobody:"): "refuses user nobody: wrong password or user",
        server.url("absent"): "does not exist on server 127.0.0.1; make it with: createdb absent",
        server.url(host="no-such-host.invalid"): "there is no host no-such-host.invalid",
        good.replace(port, "1"): "no server answers at 127.0.0.1, port 1",
        good.replace("postgresql:", "postgresql+psycopg2:"): "names the driver 'psycopg2'; supernas uses psycopg",
        good.removesuffix("/postgres"): "names no database",
        good.replace(port, "eleven"): "is no address; write 'postgresql://user@host:5432/database'",
        "postgresql:///?host=/no/such/folder&dbname=x": "names no database",
        f"{good}?sslmode=require": "server does not support SSL",
    }.items():
        with pytest.raises(StoreError) as error:
            open_store(wrong).close()
        assert says in sentence(error, server)


def test_no_command_prints_the_password(
    server: PostgresServer, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(url) as store:
        make_study(store)
        assert server.password not in repr([store, store.open_study("toy"), store.studies()])
    monkeypatch.setenv("COLUMNS", "300")
    for command in (["studies"], ["show", "toy"], ["front", "toy"], ["front", "toi"], ["db", "current"], ["doctor"]):
        run([*command, "--store", url])
        run([*command, "--store", server.url("postgres", password="wr@ng")])
    said = "".join(capsys.readouterr())
    assert "nas:***@127.0.0.1" in said
    assert not [secret for secret in (server.password, quote(server.password, safe=""), "wr%40ng") if secret in said]


def test_an_address_is_shown_without_its_passwords() -> None:
    assert shown("postgres://u:secret@h:1/d?password=secret") == "postgresql://u:***@h:1/d?password=***"
    assert shown("postgresql+nope://u:secret@h/d") == "postgresql+nope://…"
    assert shown("runs/nas.db") == "runs/nas.db"


def test_a_database_of_others_or_another_version_is_refused(server: PostgresServer, url: str) -> None:
    name = url.rpartition("/")[2]
    with pytest.raises(StoreError, match="is empty; run a study in it first"):
        open_store(url, create=False)
    server.run("CREATE TABLE theirs (x int)", name)
    with pytest.raises(StoreError, match=r"holds other tables \(theirs\); give another database") as error:
        open_store(url)
    sentence(error, server)
    server.run("DROP TABLE theirs", name)
    open_store(url).close()
    server.run(f"UPDATE {VERSION_TABLE} SET version_num = '9999'", name)
    with pytest.raises(StoreError, match="was written by a newer supernas"):
        open_store(url)
    server.run(f"UPDATE {VERSION_TABLE} SET version_num = '0001'", name)
    with pytest.raises(StoreError, match=f"older revision '0001', this version needs '{HEAD}'; run 'nas db upgrade'"):
        open_store(url)


def test_many_who_open_an_empty_database_at_once_agree(url: str) -> None:
    faults: list[BaseException] = []

    def create(i: int) -> None:
        try:
            with open_store(url) as opened:
                make_study(opened, f"s{i}")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with open_store(url) as opened:
        assert sorted(summary.name for summary in opened.studies()) == [f"s{i}" for i in range(6)]


# -- connections that are lost -----------------------------------------------------------------------------------------


def test_a_writer_survives_cuts_restarts_and_crashes(server: PostgresServer, url: str) -> None:
    with open_store(url) as store:
        study = make_study(store)
        writer = start("write", url, "w")
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        name = url.rpartition("/")[2]
        faults: list[Callable[[], object]] = [
            lambda: server.cut(name),
            server.restart,
            lambda: server.restart(crash=True),
            lambda: server.cut(name),
        ]
        try:
            for fault in faults:
                lines += [writer.stdout.readline() for _ in range(30)]
                fault()
                # Its pipe holds no more than a few hundred lines: those that come now were written after the fault.
                done = len(study.history())
                while len(study.history()) < done + 30 and writer.poll() is None:
                    lines.append(writer.stdout.readline())
                assert writer.poll() is None, "the writer has died"
        finally:
            lines += end(writer)
        acknowledged: dict[str, float] = {}
        for line in lines:
            if line.rstrip().endswith("}"):  # the last one may be torn
                acknowledged |= json.loads(line)
        audit(study)  # by connections that were cut too
        stored = study.trials(where="state == 'COMPLETED'")["accuracy"].to_dict()
        assert {int(number): value for number, value in acknowledged.items()}.items() <= stored.items()
        assert len(stored) <= len(acknowledged) + 3
        assert study.counts()["RUNNING"] == 3


def _add(store: Store, rng: random.Random) -> None:
    added = store.open_study("toy").add([new_trial(rng), new_trial(rng)], worker="w")
    assert [(a.number, a.existing, a.state) for a in added] == [(3, False, "RUNNING"), (4, False, "RUNNING")]


def _claim(store: Store, rng: random.Random) -> None:
    claims = store.open_study("toy").claim("w", 2)
    assert [(claim.number, claim.attempt) for claim in claims] == [(1, 1), (2, 1)]


def _report(store: Store, rng: random.Random) -> None:
    receipts = store.open_study("toy").report([completed(0, 0.9, 2.0)])
    assert [(receipt.accepted, receipt.state) for receipt in receipts] == [(True, "COMPLETED")]


def _wave(store: Store, rng: random.Random) -> None:
    receipts, added = store.open_study("toy").wave([completed(0, 0.9, 2.0)], [new_trial(rng)], "w")
    assert (receipts[0].accepted, added[0].number, added[0].existing) == (True, 3, False)


def _import(store: Store, rng: random.Random) -> None:
    new = [new_trial(rng) for _ in range(40)]
    trials = [ImportedTrial(one.key, one.row, {"accuracy": rng.random(), "latency_ms": 1.0}) for one in new]
    added = store.open_study("toy").import_trials(trials)
    assert [(a.number, a.existing) for a in added] == [(3 + i, False) for i in range(40)]


def _enter(store: Store, rng: random.Random) -> None:
    added = store.open_study("toy").enter(new_trial(rng), worker="w", most=4, notes_on_it={"a": 1})
    assert added is not None
    assert (added.number, added.existing, store.open_study("toy").notes(3)) == (3, False, {"a": 1})


def _measure(store: Store, rng: random.Random) -> None:
    store.open_study("toy").measure(0, "accuracy", 0.5, step=0)
    assert store.open_study("toy").trial(0).curves == {"accuracy": [(0, 0.5)]}


def _create(store: Store, rng: random.Random) -> None:
    assert make_study(store, "other").name == "other"


def _delete(store: Store, rng: random.Random) -> None:
    make_study(store, "other")
    store.delete_study("other")
    assert [summary.name for summary in store.studies()] == ["toy"]


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize(
    "operation", [_add, _claim, _report, _wave, _import, _enter, _measure, _create, _delete], ids=lambda op: op.__name__
)
def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_doubled(
    server: PostgresServer, url: str, cut: Any, operation: Callable[[Store, random.Random], None]
) -> None:
    rng = random.Random(0)
    with open_store(url) as store:
        study = make_study(store)
        study.add([new_trial(rng)], worker="w")
        study.add([new_trial(rng), new_trial(rng)])
    with CuttingProxy(server.port) as proxy:
        proxied = url.replace(str(server.port), str(proxy.port))
        with open_store(proxied) as store:
            store.studies()  # the schema was looked at: what follows is the operation
            proxy.cut = cut
            operation(store, rng)
    assert proxy.cuts == 1
    with open_store(url) as store:
        audit(store.open_study("toy"))


def test_a_lost_connection_is_nothing_to_tell(
    server: PostgresServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(0)
    with open_store(url) as store:
        study = make_study(store)
        for _ in range(5):
            server.cut(url.rpartition("/")[2])
            study.add([new_trial(rng)], worker="w")
            server.cut(url.rpartition("/")[2])
            assert study.counts()["RUNNING"] == len(study.keys())
        gc.collect()
    assert [record.message for record in caplog.records if record.name.startswith("psycopg")] == []


def test_a_server_that_is_starting_up_is_waited_for(server: PostgresServer, url: str) -> None:
    with CuttingProxy(server.port) as proxy:
        proxy.starting = 3
        with open_store(url.replace(str(server.port), str(proxy.port))) as store:
            assert make_study(store).add([new_trial(random.Random(0))])[0].number == 0
        assert proxy.starting == 0


def test_a_server_that_stays_away_is_one_sentence(
    server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nas.store.database, "PATIENCE_S", 0.5)
    with open_store(url) as store:
        study = make_study(store)
        server.stop()
        try:
            for work in (study.counts, lambda: study.add([new_trial(random.Random(0))])):
                with pytest.raises(StoreError, match=r"no server answers .* \(tried again for 0.5 s") as error:
                    work()
                sentence(error, server)
        finally:
            server.start()
        assert study.add([new_trial(random.Random(0))])[0].number == 0


# -- held up, full, forbidden ------------------------------------------------------------------------------------------


def test_a_process_that_stands_still_in_a_transaction_holds_nobody_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        study = make_study(stack.enter_context(open_store(url)))  # its session has the usual limit
        monkeypatch.setattr(nas.store.postgres, "_SESSION", "SET idle_in_transaction_session_timeout = '300ms'")
        still = stack.enter_context(open_store(url))

        def stand_still() -> None:
            with still._database.write() as sql:
                sql.one(s.STUDY_HEAD, (study.id, study.created))
                # Waits until the server has ended the session that stands still.
                assert study.add([new_trial(random.Random(0))], worker="w")[0].number == 0
                sql.one(s.STUDY_HEAD, (study.id, study.created))

        with pytest.raises(StoreError):
            stand_still()
        monkeypatch.undo()
        assert still.open_study("toy").report([completed(0, 0.9, 2.0)])[0].accepted


def test_claims_do_not_wait_for_a_wave(url: str) -> None:
    rng = random.Random(0)
    with open_store(url) as store, open_store(url) as other:
        study = make_study(store)
        study.add([new_trial(rng) for _ in range(4)])
        with store._database.write() as sql:
            sql.one(s.STUDY_HEAD, (study.id, study.created))
            sql.all(s.CLAIM, ("a", time.time() + 60, time.time(), study.id, study.created, 2))
            assert [claim.number for claim in other.open_study("toy").claim("b", 2)] == [2, 3]
        assert [(p.number, p.worker) for p in study.history().pending] == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]


def test_a_wave_waits_for_the_server_once_before_its_commit(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[object] = []
    sync = psycopg.Pipeline.sync
    monkeypatch.setattr(psycopg.Pipeline, "sync", lambda pipeline: (waits.append(pipeline), sync(pipeline)))
    rng = random.Random(0)
    with open_store(url) as store:
        study = make_study(store)
        study.add([new_trial(rng), new_trial(rng)], worker="w")
        study.wave([completed(0, 0.9, 2.0)], [new_trial(rng)], "w")  # learns the metrics and the front
        waits.clear()
        receipts, added = study.wave([completed(1, 0.8, 1.0)], [new_trial(rng)], "w")
        assert len(waits) == 1
        assert (receipts[0].entered_front, added[0].number) == (True, 3)
        audit(study)


def test_a_wave_that_is_interrupted_leaves_a_store_that_can_be_used(url: str) -> None:
    rng = random.Random(0)
    with open_store(url) as store, open_store(url) as other:
        study = make_study(store)
        with other._database.write() as sql:
            sql.one(s.STUDY_HEAD, (study.id, study.created))
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                study.add([new_trial(rng)], worker="w")  # waits for the other one
        assert study.add([new_trial(rng)], worker="w")[0].number == 0
        audit(study)


def test_what_is_wrong_with_a_statement_that_travels_with_others_is_said_at_the_end(url: str) -> None:
    with open_store(url) as store:
        study = make_study(store)
        with pytest.raises(StoreError, match="duplicate key"), store._database.write() as sql:
            sql.do(s.ADD_METRIC, (study.id, "accuracy", ""))
        assert study.add([new_trial(random.Random(0))])[0].number == 0


def test_a_full_disk_is_one_sentence_and_loses_nothing(server: PostgresServer, url: str) -> None:
    rng = random.Random(0)
    name = url.rpartition("/")[2]
    with open_store(url) as store:
        study = make_study(store)
        study.add([new_trial(rng)], worker="w")
        full = "RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'"  # the server's own code for it
        server.run(f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {full}; END $$", name)
        server.run("CREATE TRIGGER t BEFORE INSERT ON measurements EXECUTE FUNCTION full_disk()", name)
        with pytest.raises(StoreError, match="cannot grow: the server's disk is full") as error:
            study.wave([completed(0, 0.9, 2.0)], [new_trial(rng)], "w")
        sentence(error, server)
        assert study.counts()["RUNNING"] == 1
        server.run("DROP TRIGGER t ON measurements", name)
        receipts, added = study.wave([completed(0, 0.9, 2.0)], [new_trial(rng)], "w")
        assert (receipts[0].entered_front, added[0].number) == (True, 1)
        audit(study)


def test_a_user_without_rights_is_told_so(server: PostgresServer, url: str) -> None:
    open_store(url).close()
    name = url.rpartition("/")[2]
    server.run("CREATE ROLE guest LOGIN PASSWORD 'guest'", name)
    guest = f"postgresql://guest:guest@127.0.0.1:{server.port}/{name}"
    with pytest.raises(StoreError, match="does not let user guest do that"):
        open_store(guest)
    server.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest", name)
    with open_store(guest, read_only=True) as store:
        assert store.studies() == []
    with open_store(guest) as store, pytest.raises(StoreError, match="does not let user guest do that"):
        store.create_study("toy", space_schema=schema(), objectives=OBJECTIVES)
    server.run("DROP OWNED BY guest; DROP ROLE guest", name)
