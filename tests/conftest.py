"""Settings of every test: one torch thread, no Ray authentication files in the user's home."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conformance.postgres_server import PostgresServer

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL of this test session's own."""
    from tests.conformance.postgres_server import serve

    yield from serve(pytest.fail, pytest.skip)
