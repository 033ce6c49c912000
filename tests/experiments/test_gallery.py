"""Every job of the gallery runs, is short, and is told of with its picture."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pytest

from tests.experiments import scripts

GALLERY = Path(__file__).parents[2] / "experiments" / "gallery"
JOBS = sorted(path.stem for path in GALLERY.glob("*.py") if path.stem != "compare")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return scripts.script("gallery/compare.py")


@pytest.mark.parametrize("job", JOBS)
def test_a_job_trains_searches_and_compares(job: str, script: ModuleType) -> None:
    found = script.compare(job, smoke=True)
    assert found["networks"] >= 1
    for which in ("smallest", "largest"):
        assert found[which]["params"] > 0
        assert math.isfinite(found[which]["shared"])
        assert math.isfinite(found[which]["alone"])
    assert found["smallest"]["params"] <= found["largest"]["params"]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_can_be_read_at_one_sitting(job: str) -> None:
    assert len((GALLERY / f"{job}.py").read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("job", JOBS)
def test_the_readme_shows_the_front_of_a_job(job: str) -> None:
    readme = (GALLERY / "README.md").read_text(encoding="utf-8")
    assert f"[`{job}.py`]({job}.py)" in readme
    assert f"({job}.png)" in readme
    assert 0 < (GALLERY / f"{job}.png").stat().st_size < 40_000


def test_the_readme_says_what_conventions_ask() -> None:
    readme = (GALLERY / "README.md").read_text(encoding="utf-8")
    for heading in ("Question", "Setup", "Command", "Result", "What would change"):
        assert heading in readme
    listed = (GALLERY.parent / "README.md").read_text(encoding="utf-8")
    assert "experiments/gallery/compare.py" in readme
    assert "[`gallery`](gallery/README.md)" in listed
