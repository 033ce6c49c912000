"""`nas compress`: a job's model, made smaller."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.cli.app import run

JOB = """
import torch
from torch import nn

import nas

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
task = nas.digits(batch=64)
options = {"depth": False}
training = {"lr": 1e-2}
"""


JOB_TOLD = "# where JOB defines options = {'depth': False}; training = {'lr': 0.01}"


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.py").write_text(JOB)


def ended(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["compress", *words])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_network_and_its_report_are_written_and_the_command_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["job.py", "--budget", "params <= 50%", "--epochs", "2", "--trials", "12"]
    code, out, err = ended(capsys, *words)
    assert code == 0
    assert "params <= 0.5 * original: loss" in err
    folder = next(Path("compressed").glob("network-*"))
    assert f"wrote {folder}/" in out
    described = json.loads((folder / "arch.json").read_text())
    assert described["measurements"]["params"] <= 0.5 * (64 * 32 + 32 + 32 * 32 + 32 + 330)
    report, card = (Path("compressed") / name for name in ("report.html", "README.md"))
    assert report.read_text().startswith("<!doctype html>")
    assert "| params | 3,466 |" in card.read_text()
    assert (
        f"    nas compress JOB --budget 'params <= 0.5 * original' --folder compressed --epochs 2 --trials 12  {JOB_TOLD}"
        in (card.read_text().splitlines())
    )
    assert not [path for path in Path("compressed").rglob("*") if path.suffix in (".pt", ".pkl")]
    assert ended(capsys, *words)[0] == 0


def test_no_network_is_written_over_another(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["job.py", "--budget", "params <= 50%, params <= 60%", "--trials", "12", "--epochs"]
    assert ended(capsys, *words, "2")[0] == 0
    first = {path: path.read_bytes() for path in Path("compressed").glob("network-*/*.*")}
    assert ended(capsys, *words, "1")[0] == 0
    assert all(path.read_bytes() == held for path, held in first.items())
    both = set(Path("compressed").glob("network-*/model.safetensors"))
    assert both > first.keys() & both, "another training of an arch has another folder"
    assert ended(capsys, *words, "2")[0] == 0
    assert set(Path("compressed").glob("network-*/model.safetensors")) == both, "the same call has the same names"
    assert all(path.read_bytes() == held for path, held in first.items())


@pytest.mark.parametrize(
    ("command", "said"), [("compress", "a trained model and its task"), ("elastic", "a model and an example")]
)
def test_help_says_what_the_job_defines(capsys: pytest.CaptureFixture[str], command: str, said: str) -> None:
    assert run([command, "--help"]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"that defines {said}" in told
    assert "builds a nas.Study" not in told


def test_a_dry_run_says_what_networks_cost_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ended(capsys, "job.py", "--budget", "params <= 50%, params <= 10", "--dry-run")
    assert code == 0
    assert "smallest" in out
    assert "params <= 0.5 * original (1,733) can be met" in out
    assert "params <= 10 (10) cannot be met" in out
    assert not Path("compressed").exists()


@pytest.mark.parametrize(
    ("job", "budget", "said"),
    [
        (JOB, "params <= 10", "below the smallest network"),
        (JOB, "latency_ms <= 1", "latency needs device="),
        (
            JOB.replace('{"lr": 1e-2}', '{"epochs": 2}'),
            "50%",
            "'training' of the job has epochs, which the command decides",
        ),
        (JOB.replace('{"lr": 1e-2}', "nas.Training"), "50%", "'training' of the job is a type; let it be a dict"),
        (JOB.replace('{"lr": 1e-2}', '{"lrr": 1e-2}'), "50%", "no option 'lrr'"),
        (JOB.replace("task =", "other ="), "50%", "defines no 'task'"),
        (JOB.replace("nas.digits(batch=64)", "3"), "50%", "compress was given task=3"),
    ],
)
def test_what_cannot_be_is_one_sentence(capsys: pytest.CaptureFixture[str], job: str, budget: str, said: str) -> None:
    Path("job.py").write_text(job)
    code, _, err = ended(capsys, "job.py", "--budget", budget)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_a_dry_run_of_a_search_says_what_networks_cost(capsys: pytest.CaptureFixture[str]) -> None:
    Path("search.py").write_text(
        JOB
        + """
space = nas.elastic(model, task.example, depth=False)
net = nas.Supernet(space, example=task.example, weights=model)
study = nas.Study("s", space=space, objectives=["min params"], evaluators=[nas.Costs(net)], store="nas.db", trials=2)
"""
    )
    capsys.readouterr()
    assert run(["run", "search.py:study", "--dry-run"]) == 0
    networks = json.loads(capsys.readouterr().out)["networks"]
    assert networks["largest"]["params"] == 64 * 32 + 32 + 32 * 32 + 32 + 330
    assert networks["smallest"]["macs"] < networks["middle"]["macs"] < networks["largest"]["macs"]
    assert not Path("nas.db").exists()


def test_what_decides_between_networks_may_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ended(capsys, "job.py", "--budget", "50%", "--best", "max nowhere")
    assert (code, err.count("\n")) == (2, 1)
    assert "best='max nowhere' names no metric" in err


DECODER = """
import torch

import nas
from searchspaces.sorted_lm import SortedLM

torch.manual_seed(0)
model = SortedLM(width=16, depth=2, kv=2, group=1, head=8, hidden=32, vocabulary=32, context=64)
tokens = torch.randint(32, (400,))
task = nas.LanguageModel(tokens[:200], tokens[200:], batch=2, context=16)
"""


def test_a_budget_may_be_on_weights_and_cache(capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.py").write_text(DECODER)
    words = ("job.py", "--budget", "memory_mib <= 70%", "--dry-run")
    code, out, _ = ended(capsys, *words, "--cache", "8,64")
    assert code == 0
    assert "memory_mib <= 0.7 * original" in out
    assert f"{8 * 64 * 2 * 2 * 16 * 4 / 2**20:.4g}" in out.splitlines()[3]
    for given, said in (("", "needs cache=(batch, length)"), ("8", "'8'; it is two whole"), ("8,1,2", "as in 8,1024")):
        code, _, err = ended(capsys, *words, "--cache", given) if given else ended(capsys, *words)
        assert code == 2
        assert said in err
