from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.postgres_server import PostgresServer, serve


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL of this test session's own."""
    yield from serve(pytest.fail, pytest.skip)
