from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from nas.errors import StoreError
from nas.store import open_store
from nas.store.database import VERSION_TABLE
from nas.store.schema import HEAD, metadata
from tests.conformance.hardware_record import CPU, HardwareRecordConformance
from tests.conformance.store_tools import make_study, new_trial


class TestSqlite(HardwareRecordConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/nas.db"


def test_a_database_of_the_first_revision_is_upgraded_and_keeps_its_trials(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with open_store(path) as store:
        study = make_study(store)
        study.add([new_trial(random.Random(0))])
        before = study.trial(0)
    with sqlite3.connect(path) as raw:  # what the first revision left behind
        for table in ("predictors", "device_measurements", "devices", "notes"):
            raw.execute(f"DROP TABLE {table}")
        raw.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0001'")
    with pytest.raises(StoreError, match="older revision '0001'.*nas db upgrade"):
        open_store(path)
    with open_store(path, any_revision=True) as store:
        store.upgrade()
        assert store.current() == (HEAD, HEAD)
    with open_store(path) as store:
        assert store.open_study(study.name).trial(0) == before
        store.hardware.add_device("board", CPU)
    tables = set(sa.inspect(sa.create_engine(f"sqlite:///{path}")).get_table_names())
    assert tables == {*metadata.tables, VERSION_TABLE}


def test_deleting_a_study_keeps_what_was_measured_on_devices(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db") as store:
        study = make_study(store)
        store.hardware.add_device("board", CPU)
        store.delete_study(study.name)
        assert [one.name for one in store.hardware.devices()] == ["board"]
