"""Models as people write them, from conversion over training with dropout and BatchNorm to a search and an extracted network."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import nas
from experiments.any_model import operators
from nas.deploy import export
from nas.supernet.inputs import call


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 24)
        self.lstm = nn.LSTM(24, 32, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(64, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        steps, _ = self.lstm(self.embed(tokens))
        return self.head(steps.mean(1))  # type: ignore[no-any-return]


def convolved(inputs: int, outputs: int) -> nn.Sequential:
    layers = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    return nn.Sequential(*layers, nn.Dropout2d(0.1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep, self.middle = convolved(3, 16), convolved(16, 24), convolved(24, 32)
        self.raise_deep, self.up_deep = nn.ConvTranspose2d(32, 24, 2, 2), convolved(48, 24)
        self.raise_top, self.up_top = nn.ConvTranspose2d(24, 16, 2, 2), convolved(32, 16)
        self.head, self.pool = nn.Conv2d(16, 2, 1), nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        top = self.down(images)
        deep = self.deep(self.pool(top))
        found = self.raise_deep(self.middle(self.pool(deep)))
        found = self.raise_top(self.up_deep(torch.cat([found, deep], 1)))
        return self.head(self.up_top(torch.cat([found, top], 1)))  # type: ignore[no-any-return]


class Several(nn.Module):
    """Images, tokens and a table, two of them by keyword alone."""

    def __init__(self) -> None:
        super().__init__()
        self.images = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.tokens, self.table = nn.Embedding(20, 24), nn.Linear(5, 16)
        self.mix, self.dropout, self.head = nn.Linear(16 + 24 + 16, 48), nn.Dropout(0.1), nn.Linear(48, 4)

    def forward(self, images: Tensor, *, tokens: Tensor, table: Tensor | None = None) -> dict[str, Tensor]:
        assert table is not None
        parts = [self.images(images).mean((2, 3)), self.tokens(tokens).mean(1), self.table(table)]
        return {"logits": self.head(self.dropout(self.mix(torch.cat(parts, 1)).relu()))}


DRAW = torch.Generator().manual_seed(0)
CASES: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "lstm": (Recurrent, torch.randint(30, (2, 7), generator=DRAW)),
    "unet": (UNet, torch.randn(2, 3, 8, 8, generator=DRAW)),
    "several inputs": (
        Several,
        {
            "images": torch.randn(2, 3, 6, 6, generator=DRAW),
            "tokens": torch.randint(20, (2, 6), generator=DRAW),
            "table": torch.randn(2, 5, generator=DRAW),
        },
    ),
}


def first(output: Any) -> Tensor:
    found: Tensor = tree_leaves(output)[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_is_converted_trained_searched_and_extracted(name, tmp_path: Path):
    make, example = CASES[name]
    torch.manual_seed(0)
    model, draw = make().eval(), random.Random(0)
    space = nas.elastic(model, example)
    net = nas.Supernet(space, example=example, weights=model).eval()
    with torch.no_grad():
        assert torch.equal(first(net(example, space.largest)), first(call(model, example)))

    before = {key: value.clone() for key, value in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        for arch in (space.largest, space.sample(draw), space.smallest):
            first(net.bind(arch)(example)).square().mean().backward()
        optimizer.step()
    moved = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert {key for key in before if not key.endswith("num_batches_tracked")} <= moved

    def evaluate(arch: nas.Arch) -> dict[str, float]:
        with torch.no_grad():
            return {"size": float(first(net.eval()(example, arch)).abs().mean())}

    study = nas.Study(
        name,
        space=space,
        objectives=["max size", "min params"],
        evaluators=[evaluate, nas.Costs(net)],
        constraints=[f"params <= {net.params(space.largest) - 1}"],
        algorithm=nas.RandomSearch(),
        store=tmp_path / "nas.db",
        trials=6,
    )
    study.run(workers=0, progress=False)
    best = study.best("size")
    small = net.extract(study.arch(int(best.name))).eval()
    study.close()
    assert type(small) is type(model)
    assert sum(parameter.numel() for parameter in small.parameters()) == best["params"]
    with torch.no_grad():
        assert float(first(call(small, example)).abs().mean()) == pytest.approx(best["size"], rel=1e-5)


@pytest.mark.slow
def test_a_language_model_is_trained_searched_extracted_and_exported(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 32}
    heads = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads)).eval()
    tokens = torch.randint(48, (600,))
    task = nas.LanguageModel(tokens, tokens[:96], batch=8, context=12)
    space = nas.elastic(model, task.example, share="block")
    net = nas.Supernet(space, example=task.example, weights=model)
    training = nas.Training(net, task, steps=3, lr=1e-3)
    training.run()
    study = nas.Study(
        "llama",
        space=space,
        objectives=["min loss", "min params"],
        evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
        algorithm=nas.RandomSearch(),
        store=tmp_path / "nas.db",
        trials=6,
    )
    study.run(workers=0, progress=False)
    small = study.extract(int(study.best("loss").name))
    assert type(small) is type(model)
    assert small.generate(tokens[None, :5], max_new_tokens=3, do_sample=False).shape == (1, 8)
    done = export(small, tmp_path / "small.pt2", example=task.example)
    assert done.left_out == ("DynamicCache",)
    study.close()

    halves = space.arch(space.largest.choices | {"width": 16, "model.layers[:].mlp.hidden": 32})
    uniform = net.extract(halves)
    assert export(uniform, tmp_path / "pretrained", example=task.example).difference == 0
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "pretrained").eval()
    with torch.no_grad():
        assert torch.equal(again(tokens[None, :9]).logits, uniform.eval()(tokens[None, :9]).logits)


@pytest.mark.slow
def test_the_backbone_of_a_detector_learns_from_labels_alone(tmp_path: Path):
    try:
        torchvision = pytest.importorskip("torchvision")
    except RuntimeError:  # beside a torch for the CPU
        operators.declare()
        torchvision = pytest.importorskip("torchvision")
    make = torchvision.models.detection.backbone_utils.resnet_fpn_backbone
    torch.manual_seed(0)
    model = make(backbone_name="resnet18", weights=None, trainable_layers=5).eval()
    images = torch.randn(16, 3, 32, 32)
    means = images.mean((1, 2, 3))

    def far(output: Any, targets: Tensor) -> Tensor:
        return (output["pool"].mean((1, 2, 3)) - targets).square().mean()

    space = nas.elastic(model, images[:2])
    net = nas.Supernet(space, example=images[:2], weights=model)
    task = nas.Task.of((images[:8], means[:8]), (images[8:], means[8:]), loss=far, metrics={"far": far}, batch=8)
    with pytest.raises(nas.errors.TrainError, match="OrderedDict without 'logits'.*loss=nas.Labels"):
        nas.Training(net, task, steps=1).run()
    training = nas.Training(net, task, steps=2, lr=1e-4, loss=nas.Labels())
    training.run()
    small = nas.Accuracy(training, task).extract(space.smallest)
    assert type(small) is type(model)
    assert {name: tuple(value.shape[:2]) for name, value in small(images).items()} == dict.fromkeys(
        ("0", "1", "2", "3", "pool"), (16, 256)
    )
