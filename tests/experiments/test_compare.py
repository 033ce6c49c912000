"""What ways of compression have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compressing.nets import task, trained
from tests.compressing.test_recipe import compressed
from tests.experiments.scripts import ROOT, script


def test_what_was_tuned_is_measured_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    compare = script("compress_common/compare.py")
    compressed(tmp_path / "50%-0" / "ours", epochs=1, trials=12)
    found = compare.again(trained(), task(), tmp_path, {})
    assert list(found) == ["original", "50%-0, tuned", "50%-0, uniform"]
    assert found["original"]["share"] == 1.0
    assert all(one["ms"] > 0 and one["share"] > 0 for one in found.values())
