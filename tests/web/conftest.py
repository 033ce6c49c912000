"""A study that every module reads, and a client of its server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.web.served import client, toy


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("web") / "toy.db"
    toy(path)
    return path


@pytest.fixture(scope="module")
def api(store: Path) -> Iterator[TestClient]:
    with client(store) as one:
        yield one
