from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from sqlalchemy.dialects.postgresql import psycopg

from nas.store import open_store
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
