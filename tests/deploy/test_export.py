"""Files for other runtimes: checked when they are written, or not written."""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from nas.deploy import ElasticModel, export
from nas.errors import DeployError
from nas.supernet.inputs import call
from nas.supernet.rounding import first_difference, gap
from searchspaces import vit
from tests.conformance.machines import MACHINES, move_weights
from tests.conformance.supernet import convolutional, fill_distinct


def transformer() -> tuple[nn.Module, torch.Tensor]:
    net = vit.supernet(vit.space(widths=(24, 32), depths=(1, 2), heads=(1, 2), ratios=(1, 2), head=8))
    fill_distinct(net)
    return net.extract(net.space.smallest), torch.zeros(1, 1, 8, 8)


def convolutions() -> tuple[nn.Module, torch.Tensor]:
    net = convolutional()
    fill_distinct(net)
    return net.extract(net.space.largest), torch.zeros(1, 1, 8, 8)


def bert() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    return model, {"input_ids": torch.arange(7).unsqueeze(0), "attention_mask": torch.ones(1, 7, dtype=torch.long)}


@pytest.mark.parametrize("make", [transformer, convolutions])
def test_torch_export_of_any_batch(make, tmp_path) -> None:
    module, example = make()
    done = export(module, tmp_path / "m.pt2", example=example)
    assert done.format == "pt2"
    assert done.difference < 1e-4
    again = torch.export.load(tmp_path / "m.pt2").module()
    for samples in (1, 2, 7):
        inputs = torch.randn(samples, 1, 8, 8)
        torch.testing.assert_close(again(inputs), module(inputs), rtol=1e-4, atol=1e-4)
    assert os.listdir(tmp_path) == ["m.pt2"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [transformer, convolutions])
def test_onnx_of_any_batch(make, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    module, example = make()
    done = export(module, tmp_path / "m.onnx", example=example)
    assert done.format == "onnx"
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    inputs = torch.randn(5, 1, 8, 8)
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), module(inputs), rtol=1e-4, atol=1e-4)
    assert os.listdir(tmp_path) == ["m.onnx"], "one file"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_keyword_inputs_and_structured_outputs(format, tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    module, example = bert()
    assert export(module, tmp_path / f"m.{format}", example=example).difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_a_graph_leaves_out_what_it_cannot_give_and_says_so(format, tmp_path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    module = LlamaForCausalLM(config).eval()
    tokens = torch.arange(14).reshape(2, 7)
    done = export(module, tmp_path / f"m.{format}", example=tokens)
    assert done.difference < 1e-4
    assert done.left_out == ("DynamicCache",)
    assert "without its DynamicCache, which a graph cannot give" in str(done)
    assert not module._forward_hooks
    if format == "pt2":
        again = torch.export.load(tmp_path / "m.pt2").module()
        torch.testing.assert_close(again(tokens[:1]).logits, module(tokens[:1]).logits)


def test_a_fixed_batch(tmp_path) -> None:
    module, example = transformer()
    export(module, tmp_path / "m.pt2", example=example, any_batch=False)
    again = torch.export.load(tmp_path / "m.pt2").module()
    assert again(example).shape == (1, 10)
    with pytest.raises(Exception, match=r"size\(\)\[0\] == 1"):
        again(torch.zeros(3, 1, 8, 8))


def test_safetensors(tmp_path) -> None:
    module, example = convolutions()
    export(module, tmp_path / "m.safetensors", example=example)
    net = convolutional()
    other = net.extract(net.space.largest)
    load_model(other, str(tmp_path / "m.safetensors"))
    inputs = torch.randn(2, 1, 8, 8)
    assert first_difference(module.state_dict(), other.state_dict()) is None
    assert gap(module, other, inputs).same


def test_the_class_own_save_pretrained(tmp_path) -> None:
    module, example = bert()
    done = export(module, tmp_path / "bert", example=example)
    assert done.format == "pretrained"
    again = BertForSequenceClassification.from_pretrained(tmp_path / "bert")
    assert first_difference(module.state_dict(), again.state_dict()) is None
    assert json.loads((tmp_path / "bert" / "config.json").read_text())["intermediate_size"] == 20
    with pytest.raises(DeployError, match="exists already"):
        export(module, tmp_path / "bert", example=example)


class Halved(nn.Linear):
    """Reads its weights back with a grain of salt, or computes with one."""

    salt = 0.0

    def __init__(self) -> None:
        super().__init__(4, 4)

    def forward(self, x):
        return super().forward(x) * (1 + self.salt)

    def save_pretrained(self, folder):
        folder.mkdir()
        torch.save(self.state_dict(), folder / "weights")

    @classmethod
    def from_pretrained(cls, folder):
        again = cls()
        again.load_state_dict(torch.load(folder / "weights"))
        return again.spoilt()

    def spoilt(self):
        return self


class OtherWeights(Halved):
    def spoilt(self):
        with torch.no_grad():
            self.weight[0, 0] = self.weight[0, 0].nextafter(torch.tensor(9.0))
        return self


class OtherFunction(Halved):
    def spoilt(self):
        self.salt = 1e-5
        return self


class Elsewhere(Halved):
    def spoilt(self):
        return move_weights(self)


def test_weights_are_read_back_to_the_bit_and_outputs_within_rounding(tmp_path) -> None:
    example = torch.randn(1, 4)
    with pytest.raises(DeployError, match="OtherWeights as pretrained has another 'weight' when it is read again"):
        export(OtherWeights(), tmp_path / "m", example=example)
    with pytest.raises(DeployError, match="OtherFunction as pretrained gives outputs that differ by .*; nothing was"):
        export(OtherFunction(), tmp_path / "m", example=example)
    export(Elsewhere(), tmp_path / "m", example=example)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_wrong_graph_is_noticed_whatever_the_size_of_its_outputs(scale, tmp_path, monkeypatch) -> None:
    module, example = nn.Linear(8, 3), torch.randn(1, 8)
    with torch.no_grad():
        module.weight *= scale
        module.bias *= scale
    load = torch.export.load

    def wrong(path):
        program = load(path)
        with torch.no_grad():
            program.state_dict["weight"][0] *= 1.01
        return program

    monkeypatch.setattr(torch.export, "load", wrong)
    with pytest.raises(DeployError, match="Linear as pt2 gives outputs that differ by"):
        export(module, tmp_path / "m.pt2", example=example)
    monkeypatch.undo()
    export(module, tmp_path / "m.pt2", example=example)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("make", [transformer, convolutions, bert])
def test_sums_in_another_order_are_no_other_model(make, machine, tmp_path, monkeypatch) -> None:
    module, example = make()

    def there(own, again, inputs, **options):
        again = move_weights(again) if isinstance(again, nn.Module) else again
        return gap(own, MACHINES[machine]()(again), inputs, **options)

    monkeypatch.setattr(sys.modules["nas.deploy.export"], "gap", there)
    export(module, tmp_path / "m.safetensors", example=example)
    other = move_weights(copy.deepcopy(module))
    assert gap(module, functools.partial(call, other), example).same


def test_points_of_an_elastic_model(tmp_path) -> None:
    net = vit.supernet(vit.space(widths=(24, 32), depths=(1, 2), heads=(1, 2), ratios=(1, 2), head=8))
    front = [(net.space.smallest, {"accuracy": 0.5}), (net.space.largest, {"accuracy": 0.9})]
    model = ElasticModel(net, front)
    model.export(tmp_path / "small.safetensors", point=net.space.smallest)
    model.export(tmp_path / "large.safetensors")
    assert (tmp_path / "small.safetensors").stat().st_size < (tmp_path / "large.safetensors").stat().st_size


class Wandering(nn.Module):
    """What a graph cannot express: the way depends on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        while x.sum() > 0:
            x = x - self.layer(x).abs() - 1
        return x


class Forgetful(nn.Module):
    """Leaves a weight out of its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        """Nothing of its own; the layer saves itself."""

    def _load_from_state_dict(self, *arguments):
        """Nothing of its own."""

    def forward(self, x):
        return self.layer(x) * self.scale


class OneSample(nn.Module):
    """Works for one sample only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x).reshape(1, 2, 2)


@pytest.mark.parametrize(
    ("module", "name", "text"),
    [
        (
            Wandering(),
            "m.pt2",
            r"Wandering cannot be exported as pt2: \w+: .*; a fixed batch \(any_batch=False, --fixed-batch\)",
        ),
        (
            OneSample(),
            "m.pt2",
            r"OneSample cannot be exported as pt2: \w+: .*; a fixed batch \(any_batch=False, --fixed-batch\)",
        ),
        (Forgetful(), "m.safetensors", "Forgetful as safetensors gives outputs that differ by .*; nothing was written"),
        (nn.Linear(4, 4), "m", "Linear has no save_pretrained and from_pretrained of its own"),
        (
            nn.Linear(4, 4),
            "m.onx",
            "ending of .* is not one of pt2, onnx, safetensors, pretrained; did you mean 'onnx'",
        ),
        (nn.Linear(4, 4), "none/m.pt2", "folder '.*none' does not exist; make it first"),
        (nn.Linear(3, 4), "m.safetensors", "Linear cannot be exported as safetensors: RuntimeError: mat1 and mat2"),
    ],
)
def test_what_cannot_be_expressed_is_one_sentence_and_nothing_is_written(module, name, text, tmp_path) -> None:
    with pytest.raises(DeployError, match=text) as caught:
        export(module, tmp_path / name, example=torch.ones(1, 4))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_an_earlier_file_stays_when_an_export_fails(tmp_path) -> None:
    (tmp_path / "m.pt2").write_text("mine")
    with pytest.raises(DeployError, match="cannot be exported"):
        export(Wandering(), tmp_path / "m.pt2", example=torch.ones(1, 4), force=True)
    module, example = transformer()
    with pytest.raises(DeployError, match="exists already and is no earlier output .* or insist with --force"):
        export(module, tmp_path / "m.pt2", example=example)
    assert (tmp_path / "m.pt2").read_text() == "mine"
    export(module, tmp_path / "m.pt2", example=example, force=True)
    assert torch.export.load(tmp_path / "m.pt2")


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt2", "bert"])
def test_a_copy_of_an_export_is_verified(name, tmp_path) -> None:
    module, example = bert() if name == "bert" else transformer()
    (tmp_path / "home").mkdir()
    done = export(module, tmp_path / "home" / name, example=example)
    done.verify()
    copy_of = tmp_path / "copy"
    shutil.copytree(done.path, copy_of) if name == "bert" else shutil.copy(done.path, copy_of)
    done.verify(copy_of)
    draw = random.Random(0)
    for file in sorted(copy_of.rglob("*")) if name == "bert" else [copy_of]:
        content = file.read_bytes()
        for place in draw.sample(range(len(content)), 20):
            other = bytearray(content)
            other[place] ^= 1 << draw.randrange(8)
            file.write_bytes(other)
            with pytest.raises(DeployError, match=f"{file.name}' is not the export: it is not what was saved"):
                done.verify(copy_of)
        file.unlink()
        with pytest.raises(DeployError, match=f"{file.name}' is not the export: it is missing"):
            done.verify(copy_of)
        file.write_bytes(content)


def test_more_refusals(tmp_path) -> None:
    with pytest.raises(DeployError, match="format='onxx'; it is one of"):
        export(nn.Linear(4, 4), tmp_path / "m", "onxx", torch.ones(1, 4))  # type: ignore[arg-type]
    with pytest.raises(DeployError, match="needs inputs to compare with"):
        export(nn.Linear(4, 4), tmp_path / "m.pt2")
    with pytest.raises(DeployError, match="is a folder; give a file"):
        export(nn.Linear(4, 4), tmp_path, "pt2", torch.ones(1, 4))


def test_onnx_without_its_packages_says_what_to_install(tmp_path) -> None:
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import torch, nas.deploy\n"
        f"nas.deploy.export(torch.nn.Linear(4, 4), {str(tmp_path / 'm.onnx')!r}, example=torch.ones(1, 4))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ONNX needs onnxruntime; install it with: pip install 'supernas[onnx]'" in done.stderr
    assert os.listdir(tmp_path) == []


def test_the_module_is_left_alone(tmp_path) -> None:
    module, example = convolutions()
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export(module, tmp_path / "m.safetensors", example=example)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
