"""A space of more archs than Python writes as a number."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyglove as pg
import pytest

import nas
from nas.errors import AlgorithmError, SupernetError


@pytest.fixture
def huge(monkeypatch: pytest.MonkeyPatch) -> nas.Space:
    """One that says so: compiling a real one takes half a minute."""
    monkeypatch.setattr(nas.Space, "size", 2**15_000)
    return nas.Space(pg.Dict(a=pg.oneof([0, 1]), b=pg.oneof([0, 1])), name="huge")


@pytest.mark.slow
def test_a_real_one_is_compiled_sampled_and_refused() -> None:
    space = nas.Space(pg.Dict({f"d{i}": pg.oneof([0, 1]) for i in range(15_000)}), name="huge")
    assert (space.size, len(space.sample(random.Random(0)).choices)) == (2**15_000, 15_000)
    with pytest.raises(SupernetError, match="builds a Dict"):  # before the archs are listed that show every candidate
        nas.Supernet(space)


def test_its_size_is_shown_as_a_power(huge: nas.Space) -> None:
    assert repr(huge) == "Space('huge', version 1, 2 decisions, about 1e4515 archs)"


def test_a_small_size_is_exact_and_a_large_one_a_power() -> None:
    assert nas.Space(pg.Dict(a=pg.oneof([1, 2]))).shown_size == "2"
    assert [nas.Space(pg.Dict({f"d{i}": pg.oneof(range(10)) for i in range(n)})).shown_size for n in (5, 6)] == [
        "100000",
        "about 1e6",
    ]


def test_it_is_searched_and_rehearsed(huge: nas.Space, tmp_path: Path) -> None:
    study = nas.Study(
        "huge",
        space=huge,
        objectives=["max score"],
        evaluators=[lambda arch: {"score": float(len(arch.choices))}],
        algorithm="random",
        store=tmp_path / "nas.db",
    )
    rehearsed = json.loads(json.dumps(study.rehearse()))
    assert rehearsed["space"] == {"name": "huge", "decisions": 2, "archs": "about 1e4515"}
    (asked,) = study.ask()
    study.tell(asked.number, {"score": 1.0})
    assert study.best()["score"] == 1.0


def test_what_enumerates_refuses_it_in_a_sentence(huge: nas.Space) -> None:
    with pytest.raises(AlgorithmError, match=r"of about 1e4515 archs; it takes at most 10,000,000"):
        nas.Exhaustive().bind(huge, (nas.Metric("score", "max"),))
    with pytest.raises(nas.NasError, match="more than"):
        nas.Bucketed(lambda _: 1.0, 1.0).archs(huge, 0, random.Random(0))
