from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.store import StoreConformance


class TestSqlite(StoreConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/nas.db"
