"""How tasks, trainings, spaces, studies and fronts show themselves: short, escaped, without a side effect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyglove as pg
import torch

import nas
from nas.train.showing import outline
from tests.study.landscapes import study

EVIL = "<img src=x onerror=alert(1)>"


def test_a_task_tells_shapes_and_never_its_numbers() -> None:
    task = nas.digits()
    said = repr(task)
    assert len(said) < 500
    assert said.startswith("Classification(train=(float32 (1000, 1, 8, 8), int64 (1000,))")
    assert "batch=64" in said or "batch" not in said
    html = task._repr_html_()
    assert "float32 (1000, 1, 8, 8)" in html
    assert "accuracy" in html
    assert len(html) < 3000


def test_a_users_dataclass_task_is_as_short_and_its_own_repr_is_kept() -> None:
    @dataclass(frozen=True, eq=False)
    class Mine(nas.Classification):
        extra: Any = None

    x, y = torch.zeros(30, 4), torch.zeros(30, dtype=torch.long)
    assert "tensor(" not in repr(Mine(train=(x, y), valid=(x, y), batch=8, extra=torch.ones(999)))

    class Named(Mine):
        def __repr__(self) -> str:
            return "mine"

    assert repr(Named(train=(x, y), valid=(x, y), batch=8)) == "mine"


def test_an_outline_is_bounded_whatever_the_value() -> None:
    values = [torch.zeros(3), list(range(10**6)), "x" * 10**6, {str(i): i for i in range(10**5)}, object(), None]
    assert all(len(outline(value)) <= 120 for value in values)


def test_a_space_shows_its_decisions_escaped() -> None:
    space = nas.Space(pg.Dict(op=pg.oneof([EVIL, "conv"]), rate=pg.floatv(0.0, 0.5)), name="toy")
    html = space._repr_html_()
    assert "&lt;img" in html
    assert "<img" not in html
    assert "0 to 0.5" in html
    many = nas.Space(pg.Dict({f"x{i}": pg.oneof([1, 2]) for i in range(60)}))
    assert "20 decisions more" in many._repr_html_()


def test_a_study_shows_what_is_recorded_and_creates_nothing(tmp_path: Path) -> None:
    made = study(tmp_path / "nas.db")
    assert "none yet" in made._repr_html_()
    assert not (tmp_path / "nas.db").exists()
    made.run(5, workers=0, progress=False)
    assert "5 COMPLETED" in made._repr_html_()
    assert repr(made).startswith("Study('grid', max quality, min cost, space 'grid', algorithm 'random'")
    made.close()
    (tmp_path / "nas.db").write_text("no database" * 100)
    assert "nas.db" in study(tmp_path / "nas.db")._repr_html_()


def test_a_front_shows_numbers_that_a_person_reads(tmp_path: Path) -> None:
    def measured(arch: nas.Arch) -> dict[str, float]:
        return {"quality": float(arch.choices["x0"]), "latency_ms": 0.25, "latency_spread_ms": 0.5, "params": 1_052_672}

    space = nas.Space(pg.Dict(x0=pg.oneof([1, 2]), op=pg.oneof([EVIL])))
    made = study(tmp_path / "nas.db", space=space, objectives=["max quality"], evaluators=[measured], trials=2)
    made.run(workers=0, progress=False)
    html = made.front()._repr_html_()
    assert "1.05 M" in html
    assert "0.25 ± 0.25" in html
    assert "&lt;img" in html
    assert "<img" not in html
    assert "98 trials more" not in html
