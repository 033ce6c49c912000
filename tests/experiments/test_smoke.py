"""Every experiment runs: its smoke mode ends with its figures as one JSON line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.experiments.warm import Warm

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.parent for path in (ROOT / "experiments").glob("*/run.py"))
# Further questions of an experiment, each a script of its own.
FURTHER = [
    *sorted((ROOT / "experiments").glob("*/ablation.py")),
    ROOT / "experiments/any_model/controls.py",
    ROOT / "experiments/policy/cells.py",
    ROOT / "experiments/elastic_rank/tuned.py",
]

# Smoke modes of more than ten seconds whose parts others show at less length.
REPEATED = {
    "compress_lm": "compress_encoder, and tests/compressing",
    "distributed_training": "tests/distributed, and tests/train/test_ranks.py",
    "minilm": "tests/convert, and tests/searchspaces/test_pretrained.py",
    "postgres_scale": "store_scale, and tests/store/test_postgres.py",
    "tune_restore": "tests/tune, and tests/test_trained.py",
}


def _numbers(value: object) -> int:
    """How many numbers a JSON value holds."""
    if isinstance(value, dict):
        return sum(_numbers(item) for item in value.values())
    if isinstance(value, list):
        return sum(_numbers(item) for item in value)
    return int(isinstance(value, (int, float)) and not isinstance(value, bool))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Imports take longer than most smoke modes."""
    with closing(Warm(tmp_path_factory.mktemp("warm"), ROOT)) as warm:
        yield warm


@pytest.mark.parametrize(
    "folder",
    [pytest.param(one, marks=pytest.mark.slow if one.name in REPEATED else ()) for one in EXPERIMENTS],
    ids=lambda folder: folder.name,
)
def test_smoke_mode_prints_its_figures(folder: Path, tmp_path: Path, warm: Warm) -> None:
    extra = ["--runs", str(tmp_path / "runs")] if folder.name == "demo" else []
    done = warm(folder / "run.py", "--smoke", *extra)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert _numbers(figures) >= 3


@pytest.mark.parametrize("script", FURTHER, ids=lambda script: f"{script.parent.name}-{script.stem}")
def test_further_scripts_run_and_are_told_of(script: Path, warm: Warm) -> None:
    done = warm(script, "--smoke")
    assert done.returncode == 0, done.stderr[-3000:]
    assert _numbers(json.loads(done.stdout.strip().splitlines()[-1])) >= 3
    assert str(script.relative_to(ROOT)) in script.with_name("README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda folder: folder.name)
def test_readme_says_what_conventions_ask(folder: Path) -> None:
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for heading in ("Question", "Setup", "Command", "Result", "What would change"):
        assert heading in readme, f"{folder.name}/README.md has no {heading!r}"
    assert f"experiments/{folder.name}/run.py" in readme
    assert f"[`{folder.name}`]({folder.name}/README.md)" in (ROOT / "experiments" / "README.md").read_text(
        encoding="utf-8"
    )


def test_what_repeats_others_is_there() -> None:
    assert {folder.name for folder in EXPERIMENTS} >= REPEATED.keys()


def test_the_readme_shows_the_demo_to_the_letter() -> None:
    job = (ROOT / "experiments" / "demo" / "digits.py").read_text(encoding="utf-8")
    assert f"```python\n{job}```" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert len([line for line in job.splitlines() if line.strip()]) <= 22
