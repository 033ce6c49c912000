from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import psycopg

from nas.store import open_store
from nas.store.database import _migrate
from nas.store.statements import CLAIM
from tests.conformance.hardware_record import HardwareRecordConformance
from tests.conformance.postgres_server import PostgresServer
from tests.conformance.store import StoreConformance
from tests.conformance.store_tools import engine, make_study, new_trial

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    url = server.database()
    yield url
    server.drop(url)


class TestPostgres(StoreConformance):
    """Studies and trials."""


class TestPostgresHardware(HardwareRecordConformance):
    """Devices, measurements and predictors."""


def test_migrations_make_the_tables_of_the_code(url: str, server: PostgresServer) -> None:
    def tables(made: sa.Engine) -> dict[str, Any]:
        """Columns with their types, keys, constraints and indexes, as the server tells of them."""
        look = sa.inspect(made)
        told = (look.get_foreign_keys, look.get_unique_constraints, look.get_indexes)

        def column(of: dict[str, Any]) -> str:
            return str({**of, "type": of["type"].compile(made.dialect)})

        def table(name: str) -> list[Any]:
            lists = [sorted(map(repr, one(name))) for one in told]
            return [*map(column, look.get_columns(name)), look.get_pk_constraint(name), *lists]

        return {name: table(name) for name in look.get_table_names()}

    other = server.database()
    with engine(other).begin() as connection:
        _migrate(connection)
    open_store(url).close()
    assert tables(engine(url)) == tables(engine(other))
    server.drop(other)


def test_a_claim_looks_at_pending_trials_only(url: str) -> None:
    rng = random.Random(0)
    with open_store(url) as store:
        study = make_study(store)
        study.add(
            [new_trial(rng) for _ in range(5_000)]
        )  # most trials wait, which tempts the planner to take any index
    text, convert = CLAIM.on(psycopg.dialect())
    assert convert is not None
    with engine(url).connect() as connection:
        values = convert(("w", 1.0, 0.0, study.id, study.created, 16))
        plan = connection.exec_driver_sql(f"EXPLAIN {text}", values).scalars().all()
    assert any("ix_trials_pending" in line for line in plan), plan
