"""What cannot be captured: refused in a sentence, with the line of the model and what to change."""

from __future__ import annotations

import threading
import types
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.convert.capture import capture
from nas.errors import SpaceError


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.count = 3
        self.register_buffer("mean", torch.zeros(4))


def made(forward: Any) -> nn.Module:
    code = forward.__code__.replace(co_name="forward")  # torch looks for lines of functions of this name
    return type("Model", (Plain,), {"forward": types.FunctionType(code, forward.__globals__)})()


def decides(self: Any, x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x
    return -x


def reads_a_number(self: Any, x: Tensor) -> Tensor:
    return x * int(x.abs().max().item())


def leaves_torch(self: Any, x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy())


def writes(self: Any, x: Tensor) -> Tensor:
    self.linear.weight.mul_(0.9)
    return self.linear(x)


def writes_data(self: Any, x: Tensor) -> Tensor:
    self.linear.weight.data.view(-1).mul_(0.9)
    return self.linear(x)


def gives_data(self: Any, x: Tensor) -> Tensor:
    self.linear.weight.data = self.linear.weight * 2
    return self.linear(x)


def replaces(self: Any, x: Tensor) -> Tensor:
    self.linear.weight = nn.Parameter(self.linear.weight * 2)
    return self.linear(x)


def chooses_rows(self: Any, x: Tensor) -> Tensor:
    return self.linear(x[x[:, 0] > 0])


def returns_nothing(self: Any, x: Tensor) -> None:
    self.linear(x)


def does_not_fit(self: Any, x: Tensor) -> Tensor:
    return self.linear(x[:, 1:])


@pytest.mark.parametrize(
    ("forward", "sentence"),
    [
        (decides, r"decides by numbers that it computes at test_refusing.py, line \d+ \(`if x.sum\(\) > 0:`\)"),
        (reads_a_number, r"decides by numbers that it computes at test_refusing.py"),
        (leaves_torch, r"cannot capture the model at test_refusing.py, line \d+ \(`return torch.from_numpy"),
        (
            writes,
            r"changes its parameter 'linear.weight' when it is called at test_refusing.py, line \d+ \(`self.linear",
        ),
        (writes_data, r"changes its parameter 'linear.weight' when it is called at test_refusing.py"),
        (gives_data, r"other data when it is called"),
        (replaces, r"replaces its parameter 'linear.weight' when it is called"),
        (chooses_rows, r"depends on the numbers in it at test_refusing.py, line \d+ \(`return self.linear\(x\[x"),
        (returns_nothing, r"returns no tensor, but None"),
        (does_not_fit, r"cannot be called with the example: RuntimeError: mat1 and mat2"),
    ],
)
def test_what_cannot_be_captured_is_refused_with_the_line(
    forward: Any, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = made(forward)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SpaceError, match=sentence) as raised:
        capture(model, torch.randn(2, 4))
    assert "\n" not in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_buffers_that_a_model_writes_are_named() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return x - self.mean

    model = made(forward)
    assert capture(model, torch.randn(2, 4)).written == ("mean",)
    assert not model.state_dict()["mean"].any()


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.LazyLinear(4)


def adapted() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.lora_A, layer.lora_B = nn.Linear(4, 2), nn.Linear(2, 4)
    return nn.Sequential(layer)


def quantised() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    return layer


def sparse() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.eye(4).to_sparse())
    return layer


class Locked(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lazy, "'weight' has no shape yet; call the model once"),
        (adapted, r"low-rank adapters \('0.lora_A.weight' and 3 more\).*merge"),
        (quantised, r"'weight' is quantised \(int8\)"),
        (sparse, "'weight' is sparse"),
        (Locked, "cannot be copied"),
    ],
)
def test_modules_whose_tensors_cannot_be_cut_are_refused(build: Any, sentence: str) -> None:
    with pytest.raises(SpaceError, match=sentence):
        capture(build(), torch.randn(2, 4))


class Detector(nn.Module):
    """Takes a list of images, and gives as many boxes as it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
        self.scores = nn.ModuleList([nn.Linear(16, 1)])

    def forward(self, images: list[Tensor]) -> Tensor:
        features = self.backbone(torch.stack(images))
        boxes = features[(self.scores[0](features) > 0).squeeze(1)]
        return boxes + 1 if boxes.shape[0] == 0 else boxes


def test_a_part_that_can_be_converted_is_named_where_the_whole_cannot() -> None:
    model = Detector().eval()
    images = [torch.randn(8), torch.randn(8)]
    with pytest.raises(
        SpaceError, match=r"if boxes.shape\[0\] == 0.*convert a part that does not, as model\.backbone, which has 98%"
    ):
        nas.elastic(model, (images,))
    assert nas.elastic(model.backbone, torch.stack(images)).report.table is not None


def test_a_list_that_is_taken_for_several_inputs_is_explained() -> None:
    with pytest.raises(SpaceError, match=r"takes 2 positional .*one input that is a list would be \(\[…\],\)"):
        nas.elastic(Detector().eval(), [torch.randn(8), torch.randn(8)])
