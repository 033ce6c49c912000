from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.hardware_record import HardwareRecordConformance
from tests.conformance.postgres_server import PostgresServer
from tests.conformance.store import StoreConformance

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
