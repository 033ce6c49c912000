from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.postgres_server import PostgresServer
from tests.conformance.store import StoreConformance

pytestmark = pytest.mark.postgres


class TestPostgres(StoreConformance):
    @pytest.fixture
    def url(self, server: PostgresServer) -> Iterator[str]:
        url = server.database()
        yield url
        server.drop(url)
