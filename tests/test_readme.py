"""What the README shows works as it stands."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import nas

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def _module(name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return __import__(name)


def test_any_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a small model of the class that the name stands for."""
    import transformers

    (block,) = [block for block in BLOCKS if "nas.elastic" in block]
    config = transformers.BertConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32
    )
    tokens = {"input_ids": torch.arange(10).reshape(2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    model = transformers.BertModel(config).eval()
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", lambda _: model)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda _: lambda *_, **__: tokens)
    names: dict[str, Any] = {}
    exec(block, names)
    supernet = names["supernet"].eval()
    with torch.no_grad():
        ours, theirs = supernet(tokens, supernet.space.largest)[0], model(**tokens)[0]
    assert torch.equal(ours, theirs)
    assert type(names["small"]) is transformers.BertModel
    assert "encoder.layer[0].attention.heads" in capsys.readouterr().out


def test_a_trained_model_within_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a budget that does not depend on how busy the machine is."""
    (block,) = [block for block in BLOCKS if "nas.compress(" in block]
    monkeypatch.chdir(tmp_path)
    layers = (torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    names = {"nas": nas, "model": torch.nn.Sequential(*layers), "task": nas.digits(batch=64)}
    exec(block.replace('"latency_ms <= 0.6 * original"', '"params <= 0.6 * original"'), names)
    assert type(names["network"]) is torch.nn.Sequential
    assert sum(one.numel() for one in names["network"].parameters()) <= 0.6 * (65 * 32 + 33 * 10)
    assert (tmp_path / "small" / "report.html").exists()


def test_a_library_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.compressing import nets

    (block,) = [block for block in BLOCKS if "nas.Blocks(" in block]
    monkeypatch.chdir(tmp_path)
    names = {"nas": nas, "supernet": nets.supernet(), "task": nets.task()}
    exec(block.replace("steps=200", "steps=2, batches=1"), names)
    names["study"].run(workers=0, progress=False)
    assert (names["study"].trials()["state"] == "COMPLETED").sum() == len(names["library"].replacements)


def test_your_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in BLOCKS if "nas.Regression(" in block]
    names = vars(_module("readme_data", block, tmp_path, monkeypatch))
    assert "'rmse': " in capsys.readouterr().out
    task, inputs = names["task"], torch.as_tensor(names["x_valid"]).float()
    found = names["module"](inputs).flatten() - torch.as_tensor(names["y_valid"]).float()
    measured = names["quality"](names["supernet"].space.smallest)
    assert found.square().mean().sqrt().item() == pytest.approx(measured["rmse"], rel=1e-4)
    assert list(measured) == ["rmse", "mae", "r2", "loss"]
    assert measured["r2"] > 0.1
    (block,) = [block for block in BLOCKS if "optimizer_options=" in block]
    exec(block, names)
    assert re.match(r"trained \d+( of 150)? steps in \d+ s.*: largest_rmse \d", capsys.readouterr().out)
    (block,) = [block for block in BLOCKS if "nas.Task.of(" in block]
    images = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.arange(64) % 4)
    others = torch.utils.data.TensorDataset(torch.randn(40, 4), torch.arange(40) % 4)
    given = {"images": images, "other_images": others, "nn": torch.nn, "nas": nas}
    exec(block, given)
    task = given["task"]
    assert task.evaluate(lambda one: one)["error_rate"] <= 1.0
    assert task.metric_names == ("error_rate", "f1", "loss")


def test_a_policy_beside_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.train import family

    (block,) = [block for block in BLOCKS if "nas.Policy(" in block]
    monkeypatch.chdir(tmp_path)
    names = {"nas": nas, "supernet": family.supernet(), "task": family.blobs(n=160)}
    exec(block.replace("steps=400", "steps=8"), names)
    names["study"].run(3, workers=0, progress=False)
    assert names["study"].trials()["state"].eq("COMPLETED").sum() == 3
    assert any(any(logits) for logits in names["policy"].logits.values())


def test_your_own_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in BLOCKS if "def mlp" in block]
    space = _module("readme_space", block, tmp_path, monkeypatch).space
    assert space.size == 9
    supernet = nas.Supernet(space)
    arch = space.sample(random.Random(0))
    assert supernet(torch.zeros(2, 64), arch).shape == (2, 10)


def test_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls on a study, with a study and a supernet small enough for a test."""
    (block,) = [block for block in BLOCKS if "study.run(workers=2)" in block]
    (own,) = [block for block in BLOCKS if "def mlp" in block]
    space = _module("readme_space2", own, tmp_path, monkeypatch).space
    from tests.study.landscapes import readme_evaluator

    study = nas.Study(
        "readme",
        space=space,
        objectives=["max accuracy", "min latency_ms"],
        evaluators=[readme_evaluator],
        algorithm=nas.RandomSearch(),
        store=tmp_path / "nas.db",
        trials=4,
    )
    block = block.replace("study.extract(41)", "study.arch(0)")  # a plain function holds no supernet to extract from
    exec(block, {"study": study})
    assert study.record.counts()["COMPLETED"] == 9


def test_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a predictor in the database that it names, 12 trials keep to the budget."""
    (block,) = [block for block in BLOCKS if "latency_ms <= 0.3" in block and "constraints=" in block]
    from nas.predict import Learned
    from nas.store import StoredPredictor, open_store
    from searchspaces import conv

    monkeypatch.chdir(tmp_path)
    supernet, task = conv.supernet(), nas.digits()
    supernet.trained = True  # the block takes it so; what it measures is of no account here
    some = [supernet.space.sample(random.Random(seed)) for seed in range(30)]
    device = nas.Device("cpu").key
    one = Learned(supernet.space, device, regressor="ridge", features="onehot")
    packed = one.fit(some, [0.1 + 0.03 * sum(gene or 0 for gene in arch.genome) for arch in some]).pack()
    with open_store("nas.db") as store:
        store.hardware.add_device(device, {})
        parts = (packed.kind, one.errors, packed.state["state"], packed.array_bytes())
        store.hardware.save_predictor(StoredPredictor(device, supernet.space.fingerprint, supernet.space.name, *parts))
    names: dict[str, Any] = {"nas": nas, "supernet": supernet, "training": supernet, "task": task}
    exec(block, names)
    study = names["study"]
    study.run(12, workers=0, progress=False)
    trials = study.trials()
    study.close()
    tight = [arch for arch in some if float(one.predict([arch])[0][0]) <= 0.3]
    assert len(tight) < 10  # of 30: most of the space is over the budget
    completed = trials[trials["state"] == "COMPLETED"]
    assert len(completed) >= 10  # of 12: computing costs is bounded in time
    assert (completed["latency_ms"] <= 0.3).all()
    assert (completed["params"] <= 20_000).all()


def test_evaluators_say_what_they_need() -> None:
    (block,) = [block for block in BLOCKS if "nas.needs" in block]
    from searchspaces import conv

    found: dict[str, Any] = {"nas": nas, "supernet": conv.supernet(), "task": nas.digits()}
    exec(block, found)
    stages = nas.Evaluation([found["accuracy"], found["latency"]]).stages()
    assert [needs.reserved for needs, _ in stages if needs] == [
        {"CPU": 1.0, "GPU": 0.5},
        {"CPU": 1.0, "GPU": 0.0, "bench": 1},
    ]


def test_stitching() -> None:
    (block,) = [block for block in BLOCKS if "stitch.space" in block]
    from transformers import BertConfig, BertForSequenceClassification

    def bert(width: int) -> Any:
        sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": width}
        return BertForSequenceClassification(BertConfig(vocab_size=20, max_position_embeddings=8, **sizes)).eval()

    names: dict[str, Any] = {"small": bert(8), "large": bert(16), "batch": {"input_ids": torch.arange(16).view(2, 8)}}
    exec(block, names)
    with torch.no_grad():
        torch.testing.assert_close(names["whole"].logits, names["large"](**names["batch"]).logits)
        assert names["between"](**names["batch"]).logits.shape == (2, 2)


def test_pyglove_and_optuna(tmp_path: Path) -> None:
    import pyglove as pg

    given = [block for block in BLOCKS if "nas.OptunaSearch(" in block or "import nas.pyglove" in block]
    assert len(given) == 2
    space = nas.Space(pg.Dict(width=pg.oneof([16, 32]), depth=pg.oneof([1, 2])), name="readme")
    names: dict[str, Any] = {"nas": nas, "pg": pg, "space": space, "store": tmp_path / "nas.db"}
    for block in given:
        exec(block, names)
    assert [asked.number for asked in names["study"].ask(2)] == [0, 1]  # by a copy of `tpe`
    names["evolution"].bind(space, names["study"].objectives)
    assert len(names["evolution"].ask(3)) == 3
    assert names["best"].final_measurement.reward == 1.0


def test_the_example_is_in_the_documented_commands() -> None:
    for command in re.findall(r"^    nas (\w+)", README, re.MULTILINE):
        assert f"`nas {command}" in README


def test_knowing_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in BLOCKS if "nas.Once" in block]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {
        "nas": nas,
        "train_and_test": lambda arch: {"accuracy": len(set(arch.choices.values())) / 5},
    }
    exec(block.replace("pool=200", "pool=4"), names)
    assert set(names["scores"]) == {"naswot", "synflow", "snip"}
    names["study"].run(3, workers=0, progress=False)
    assert names["study"].record.counts()["COMPLETED"] == 3
    assert set(names["study"].front().columns) >= {"accuracy", "reused"}


def test_a_grammar() -> None:
    (block,) = [block for block in BLOCKS if "einspace" in block]
    names: dict[str, Any] = {"nas": nas}
    exec(block, names)
    names["regrowing"].bind(names["grammar"], [nas.Metric("accuracy", "max")])
    assert names["regrowing"].ask(2) == names["seeds"]
