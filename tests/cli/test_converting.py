"""`nas elastic`: a model is converted, and nothing written but what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.cli.app import run

MODEL = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
example = torch.zeros(2, 4)
"""


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def ended(capsys: pytest.CaptureFixture[str], job: str, *words: str) -> tuple[int, str, str]:
    Path("job.py").write_text(job)
    capsys.readouterr()
    code = run(["elastic", *words])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_model_is_converted_and_its_ends_are_counted(capsys):
    code, out, _ = ended(capsys, MODEL, "job.py")
    assert code == 0
    assert "Sequential: 1 decision, 0 units of depth; " in out
    assert "model output: is what the model gives" in out
    lines = [line.split("│")[1:-1] for line in out.splitlines() if "est " in line and "│" in line]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["smallest", "131", "25.4 %", "112", "0.0004997"],
        ["largest", "515", "100.0 %", "448", "0.001965"],
    ]
    assert "7 archs, decisions: 1" in out
    assert sorted(path.name for path in Path().iterdir() if path.name != "__pycache__") == ["job.py"]


def test_a_middle_arch_is_counted_and_budgets_are_judged(capsys):
    code, out, _ = ended(capsys, MODEL, "job.py", "--budget", "macs <= 50%, params <= 100")
    assert code == 0
    assert "middle" in out
    assert "macs <= 0.5 * original (224) can be met: the smallest network has 112" in out
    assert "params <= 100 (100) cannot be met" in out
    code, _, err = ended(capsys, MODEL, "job.py", "--budget", "latency_ms <= 1")
    assert (code, err.count("\n")) == (2, 1)
    assert "latency needs device=" in err


def test_the_page_is_written_and_written_again(capsys):
    assert ended(capsys, MODEL, "job.py", "--html", "report.html")[0] == 0
    assert Path("report.html").read_text().startswith("<!doctype html>")
    assert ended(capsys, MODEL, "job.py", "--html", "report.html")[0] == 0
    Path("report.html").write_text("mine")
    code, _, err = ended(capsys, MODEL, "job.py", "--html", "report.html")
    assert code == 2
    assert "exists already" in err
    assert Path("report.html").read_text() == "mine"


def test_a_space_that_is_made_in_the_job_is_reported(capsys):
    made = MODEL + "import nas\ndef space():\n    return nas.elastic(model, example, name='tiny')\n"
    code, out, _ = ended(capsys, made, "job.py:space")
    assert code == 0
    assert "131" in out


@pytest.mark.parametrize(
    ("job", "words", "said"),
    [
        ("x = 1\n", "job.py", "job 'job.py' has none of them; let the job define a model and an example"),
        ("model = 3\n", "job.py", "'model' of job 'job.py' is a int; let the job define"),
        (MODEL.replace("example =", "other ="), "job.py", "defines a model and no example; assign inputs"),
        (MODEL.replace("(2, 4)", "(2, 5)"), "job.py", "cannot"),
        (MODEL, "other.py", "does not exist"),
        (
            MODEL + "model = nn.Linear(4, 3)",
            "job.py",
            "nothing of Linear is elastic; most of it stays whole because of",
        ),
    ],
)
def test_what_cannot_be_converted_is_a_sentence(capsys, job, words, said):
    code, _, err = ended(capsys, job, words)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
