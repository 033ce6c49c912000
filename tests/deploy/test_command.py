"""`nas export`: from a trial's number to a file that another program runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import nas
from nas.cli.app import run
from nas.study.job import load_job

JOB = """
import pyglove as pg
from torch import nn

import nas


@nas.model
def mlp(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


task = nas.digits()
supernet = nas.Supernet(nas.Space(mlp(width=pg.oneof([8, 16])), name="mlp"), example=task.example)
training = nas.Training(supernet, task, path="trained", steps=3)
study = nas.Study(
    "mlp",
    space=supernet.space,
    objectives=["max accuracy", "min params"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
    training=training,
    algorithm=nas.Exhaustive(),
    store="nas.db",
    trials=2,
)
"""


def test_a_trial_is_exported_and_a_refusal_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_STORE", raising=False)
    (tmp_path / "job.py").write_text(JOB)
    assert run(["train", "job.py", "--quiet"]) == 0
    assert run(["run", "job.py", "--workers", "0", "--quiet"]) == 0
    capsys.readouterr()
    assert run(["export", "mlp", "1", "-o", "mlp.pt2"]) == 0
    told = capsys.readouterr().out
    assert "the extracted module computes what was evaluated" in told
    assert "wrote mlp.pt2 (pt2); outputs differ by at most" in told
    assert torch.export.load(tmp_path / "mlp.pt2").module()(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert run(["export", "mlp", "1", "-o", "folded.pt2", "--fold"]) == 0
    assert "\nfolded 1 layer (2 into 1); outputs differ by at most" in capsys.readouterr().out
    assert not any("batch_norm" in str(node.target) for node in torch.export.load(tmp_path / "folded.pt2").graph.nodes)
    assert run(["export", "mlp", "1", "--format", "safetensors", "-o", "weights"]) == 0
    before = sorted(os.listdir(tmp_path))
    capsys.readouterr()
    assert run(["export", "mlp", "1", "-o", "folder"]) == 2
    assert capsys.readouterr().err == (
        "nas: Sequential has no save_pretrained and from_pretrained of its own; export it as safetensors, pt2 or onnx\n"
    )
    assert sorted(os.listdir(tmp_path)) == before
    assert run(["export", "mlp", "1", "--format", "pretrained", "-o", "folder", "--fold"]) == 2
    assert "pretrained is read by the class itself, which builds all layers" in capsys.readouterr().err
    assert run(["export", "mlp", "--fold", "-o", "folder"]) == 2
    assert "--fold is for one network; say which trial" in capsys.readouterr().err
    assert run(["export", "mlp", "--format", "onnx", "-o", "mlp.onnx"]) == 2
    assert "hold one network; say which trial" in capsys.readouterr().err
    assert run(["export", "mlp", "1", "--format", "elastic", "-o", "folder"]) == 2
    assert "elastic holds the whole front; leave out the trial 1" in capsys.readouterr().err
    assert run(["export", "mlp", "-o", "trained"]) == 2
    assert "'trained' exists already" in capsys.readouterr().err
    assert run(["export", "mlp", "--where", "params < 0", "-o", "folder"]) == 2
    assert "has no points; run the study first, or relax its filter" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == before


def test_the_whole_front_is_exported_and_switches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_STORE", raising=False)
    (tmp_path / "job.py").write_text(JOB)
    assert run(["train", "job.py", "--quiet"]) == 0
    assert run(["run", "job.py", "--workers", "0", "--quiet"]) == 0
    capsys.readouterr()
    assert run(["export", "mlp", "-o", "elastic"]) == 0
    assert "wrote elastic (elastic): " in capsys.readouterr().out
    study = load_job("job.py")
    model = nas.ElasticModel.load("elastic", study.space)
    front = study.front()
    assert [point.arch.choices for point in model.points] == list(front["choices"])
    assert model.objective.name == "accuracy"
    smallest = model.switch(params=min(front["params"]))
    assert smallest.measurements["accuracy"] == front.loc[front["params"].idxmin(), "accuracy"]
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
