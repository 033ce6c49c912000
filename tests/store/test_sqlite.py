from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import psycopg

import nas.store.sqlite
from nas.errors import NasError, StoreError
from nas.store import columns, history, open_store, statements, store
from nas.store.database import VERSION_TABLE, Database, _migrate
from nas.store.schema import HEAD, REVISIONS, metadata
from nas.store.sql import Among, Bulk, Statement
from tests.conformance.store import StoreConformance
from tests.conformance.store_tools import completed, make_study, new_trial

ROOT = Path(__file__).resolve().parents[2]


class TestSqlite(StoreConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/nas.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


def sentence(error: pytest.ExceptionInfo[NasError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


# -- where it is -----------------------------------------------------------------------------------------------------


def test_reading_never_creates_a_database(path: Path) -> None:
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(StoreError) as error:
            open_store(path, **options)
        assert sentence(error) == (
            f"database {str(path)!r} does not exist; check the path, or run a study with it first"
        )
    assert not path.exists()


def test_path_and_url_are_the_same_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with open_store("sqlite:///new folder/results%20.db") as first:
        make_study(first)
    for same in (
        "new folder/results%20.db",
        Path("new folder/results%20.db"),
        f"sqlite:///{path.parent}/new folder/results%20.db",
    ):
        with open_store(same, create=False) as again:
            assert again.open_study("toy").name == "toy"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "mysql+pymysql://user:secret@server/db",
            "database 'mysql\\+pymysql:…' is not supported; give a path, 'sqlite:///re",
        ),
        ("sqlite://", "names no file"),
        ("sqlite:results.db", "names no file; write 'sqlite:///results.db'"),
        ("sqlite:///:memory:", "names no file"),
        (":memory:", "is not a file"),
        ("", "it is a path, neither empty nor"),
    ],
)
def test_url_that_is_no_file_is_one_sentence(url: str, expected: str) -> None:
    with pytest.raises(StoreError, match=expected) as error:
        open_store(url)
    sentence(error)


# -- what is in it ---------------------------------------------------------------------------------------------------


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder; give the path of a file") as error:
        open_store(tmp_path)
    sentence(error)


def test_file_that_is_no_database_is_refused_and_kept(path: Path) -> None:
    path.write_text("number,accuracy\n" * 100)
    with pytest.raises(StoreError, match="is not a database of supernas: the file has another format") as error:
        open_store(path)
    sentence(error)
    assert path.read_text() == "number,accuracy\n" * 100


def test_foreign_database_is_refused_and_kept(path: Path) -> None:
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE alembic_version (version_num TEXT)")
        foreign.execute("CREATE TABLE studies (study_id INTEGER)")
    foreign.close()
    with pytest.raises(StoreError, match=r"holds other tables \(alembic_version, studies\)") as error:
        open_store(path)
    sentence(error)


def test_empty_file_becomes_a_database_only_when_it_may(path: Path) -> None:
    path.touch()
    with pytest.raises(StoreError, match="is empty; run a study in it first"):
        open_store(path, create=False)
    with open_store(path) as opened:
        assert opened.current() == (HEAD, HEAD)


def set_revision(path: Path, revision: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = ?", (revision,))
    connection.close()


def test_newer_database_is_refused(path: Path) -> None:
    open_store(path).close()
    set_revision(path, "9999")
    with pytest.raises(StoreError, match="was written by a newer supernas .revision '9999'.*upgrade supernas") as error:
        open_store(path)
    sentence(error)
    with open_store(path, any_revision=True) as opened:
        assert opened.current() == ("9999", HEAD)
        with pytest.raises(StoreError, match="newer supernas"):
            opened.upgrade()


def test_older_database_is_refused_until_upgraded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(path).close()
    monkeypatch.setattr("nas.store.database.HEAD", "9999")
    monkeypatch.setattr("nas.store.database.REVISIONS", (*REVISIONS, "9999"))
    with pytest.raises(StoreError, match="has the older revision .*run 'nas db upgrade'") as error:
        open_store(path)
    sentence(error)
    monkeypatch.undo()
    with open_store(path, any_revision=True) as opened:
        opened.upgrade()  # it is at the newest revision: nothing to do
        assert opened.current() == (HEAD, HEAD)


def test_damaged_database_is_one_sentence(path: Path) -> None:
    with open_store(path) as opened:
        study = make_study(opened)
        study.add([new_trial(random.Random(i)) for i in range(200)])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError, match="is damaged") as error:
        open_store(path).open_study("toy").trials()
    sentence(error)


# -- writing when it cannot be written -------------------------------------------------------------------------------


def test_read_only_store_refuses_to_write(path: Path) -> None:
    with open_store(path) as opened:
        make_study(opened)
    with open_store(path, read_only=True) as opened:
        study = opened.open_study("toy")
        with pytest.raises(StoreError, match="was opened for reading only") as error:
            study.add([new_trial(random.Random(0))])
        sentence(error)
        assert len(study.trials()) == 0


def test_locked_database_is_one_sentence_and_heals(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas.store.sqlite, "BUSY_S", 0.1)
    with open_store(path) as opened:
        study = make_study(opened)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="is locked: another process has been writing it") as error:
            study.add([new_trial(random.Random(0))])
        sentence(error)
        assert study.counts()["WAITING"] == 0  # readers are not locked out
        other.execute("ROLLBACK")
        other.close()
        assert study.add([new_trial(random.Random(0))])[0].number == 0


def test_full_disk_is_one_sentence_and_loses_nothing(path: Path) -> None:
    with open_store(path) as opened:
        study = make_study(opened)
        study.add([new_trial(random.Random(0))], worker="w")
        study.report([completed(0, 0.9, 2.0)])
        limit = opened._database._writing().connection.dbapi_connection
        assert limit is not None
        limit.execute("PRAGMA max_page_count=40")
        with pytest.raises(StoreError, match="cannot grow: the disk is full") as error:
            study.add([new_trial(random.Random(i)) for i in range(1, 5000)])
        sentence(error)
        limit.execute("PRAGMA max_page_count=1000000")
        assert study.counts() == {"WAITING": 0, "RUNNING": 0, "COMPLETED": 1, "INFEASIBLE": 0, "FAILED": 0}
        assert study.add([new_trial(random.Random(1))], worker="w")[0].number == 1
        study.report([completed(1, 0.8, 1.0)])
        assert sorted(study.front().index) == [0, 1]


def as_nobody(code: str, folder: Path, name: str) -> str:
    """Run `code` on a database as a user whom permissions bind, as they do not bind root."""
    prologue = """
import os, random, sys
from nas.store import open_store
from tests.conformance.store_tools import new_trial
with open_store(sys.argv[1] + "/results.db", read_only=True) as warm:  # import what root alone may read
    warm.open_study("toy").front()
    warm.current()
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
path = sys.argv[1] + "/" + sys.argv[2]
"""
    command = [sys.executable, "-c", prologue + code, str(folder), name]
    return subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True).stdout.strip()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody may enter and list, but not write, with a database that everybody may read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open_store(folder / "results.db") as opened:
            study = make_study(opened)
            study.add([new_trial(random.Random(0))], worker="w")
            study.report([completed(0, 0.9, 2.0)])
        (folder / "results.db").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_read_only_file_is_read_and_refuses_to_be_written(shared: Path) -> None:
    code = """
study = open_store(path).open_study("toy")
print(study.front().index.tolist())
try:
    study.add([new_trial(random.Random(1))])
except Exception as error:
    print(type(error).__name__, error)
"""
    front, error = as_nobody(code, shared, "results.db").splitlines()
    assert front == "[0]"
    assert error.startswith("DatabaseError database ")
    assert "cannot be written: the file or its folder is read-only" in error or "cannot be opened" in error


def test_folder_that_cannot_be_written_is_one_sentence(shared: Path) -> None:
    code = """
try:
    open_store(path)
except Exception as error:
    print(type(error).__name__, error)
"""
    assert "DatabaseError database" in as_nobody(code, shared, "new.db")
    assert "DatabaseError database" in as_nobody(code, shared, "folder/new.db")


# -- how it is made --------------------------------------------------------------------------------------------------


def test_migrations_make_the_tables_of_the_code(path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def tables(engine: sa.Engine) -> set[str]:
        """The text of every table and index, which autogenerate does not compare."""
        with engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")
            lines = {" ".join(sql.split()) for (sql,) in rows}
        # Foreign keys may be listed in another order.
        return {" ".join(sorted(line.replace(",", " ").split())) for line in lines}

    migrated = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    with migrated.begin() as connection:
        _migrate(connection)
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == HEAD
    open_store(path).close()
    created = sa.create_engine(f"sqlite:///{path}")
    assert tables(created) == tables(migrated)
    with created.connect() as connection:
        assert connection.exec_driver_sql(f"SELECT * FROM {VERSION_TABLE}").all() == [(HEAD,)]
    migrated.dispose()
    created.dispose()


def test_a_database_that_another_made_meanwhile_is_used_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(path) as first:
        make_study(first, "theirs")
        with monkeypatch.context() as patched:  # what was true when this process looked
            patched.setattr(Database, "revision", lambda self: None)
            first.upgrade()
        assert [study.name for study in first.studies()] == ["theirs"]


def test_revisions_are_those_of_the_migrations() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(ROOT / "nas/store/migrations"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert [script.revision for script in scripts.walk_revisions()][::-1] == list(REVISIONS)


def test_threads_that_create_one_database_at_once_agree(path: Path) -> None:
    faults: list[BaseException] = []

    def create(i: int) -> None:
        try:
            with open_store(path) as opened:
                make_study(opened, f"s{i}")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with open_store(path) as opened:
        assert sorted(summary.name for summary in opened.studies()) == [f"s{i}" for i in range(6)]


def test_every_statement_is_one_that_postgresql_understands() -> None:
    dialect = psycopg.dialect()
    found = 0
    for module in (statements, columns, history, store):
        for value in vars(module).values():
            parts = (
                value if isinstance(value, list | tuple) else [*value.values()] if isinstance(value, dict) else [value]
            )
            for part in parts:
                for each in part if isinstance(part, tuple) else (part,):
                    texts = [each.listed(8), each.whole] if isinstance(each, Among) else [each]
                    texts = [each.one, each.together] if isinstance(each, Bulk) else texts
                    for statement in texts:
                        if isinstance(statement, Statement):
                            text, _ = statement.on(dialect)
                            assert "?" not in text
                            found += 1
    assert found > 60


def test_store_is_read_without_torch_and_pyglove(path: Path) -> None:
    with open_store(path) as opened:
        study = make_study(opened)
        study.add([new_trial(random.Random(0))], worker="w")
        study.report([completed(0, 0.9, 2.0)])
    code = f"""
import sys
import tempfile
from nas.store import open_store
front = open_store({str(path)!r}, read_only=True).open_study("toy").front(where="latency_ms <= 2")
assert front.index.tolist() == [0]
heavy = {{"torch", "pyglove", "ray", "optuna", "transformers"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
