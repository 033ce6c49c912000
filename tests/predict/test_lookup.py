from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from nas.errors import PredictorError
from nas.predict import LookUp, Part, Predictor, parts
from nas.predict.pieces import realised
from tests.conformance.predictor import EXAMPLE, PredictorConformance, archs, space, truth


def linear_ms(part: Part) -> float:
    """What the closed form charges for a layer."""
    return 0.001 * part.macs + 0.05


@cache
def table() -> dict[str, float]:
    one = LookUp(space(), example=EXAMPLE)
    assert one.measure_parts(list(space().enumerate()), linear_ms) == len(one.table)
    return one.table


class TestLookUp(PredictorConformance):
    good = 1e-6

    def make(self) -> Predictor:
        return LookUp(space(), "toy-cpu", example=EXAMPLE, table=table())


def test_the_bare_sum_is_the_sum() -> None:
    some = archs(10, 1)
    one = LookUp(space(), example=EXAMPLE, line=False)
    assert one.measure_parts(some, linear_ms) == len(one.table)
    assert one.measure_parts(some, linear_ms) == 0  # they are known now
    one.fit(some, [truth(arch) for arch in some])
    assert one.predict(some)[0] == pytest.approx([truth(arch) - 0.2 for arch in some])


def test_a_missing_entry_names_the_command_that_measures_it() -> None:
    one = LookUp(space(), "jetson-fp16", example=EXAMPLE)
    arch = space().arch({"width": 8, "layers": 1, "last": 4})
    assert list(one.missing([arch])) == ["linear(in=8, out=8, at=8)", "linear(in=8, out=4, at=8)"]
    with pytest.raises(
        PredictorError,
        match=r"table for 'jetson-fp16' has no entry for linear\(in=8, out=8, at=8\); measure it with "
        r"'nas predictor fit JOB --kind lookup --device jetson-fp16'",
    ):
        one.fit([arch, arch], [1.0, 1.0])


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_an_entry_is_a_positive_number(value: float) -> None:
    with pytest.raises(PredictorError, match=r"entry conv of the table is .* measure it again|it is a finite number"):
        LookUp(space(), example=EXAMPLE, table={"conv": value})


class Twice(nn.Module):
    """Uses one layer twice, and drops out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.rest = nn.Sequential(nn.Dropout(), nn.Identity(), nn.BatchNorm2d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.rest(self.conv(self.conv(x)))
        return y


def test_parts_are_leaves_in_the_order_in_which_they_run() -> None:
    found = parts(Twice().eval(), torch.zeros(2, 4, 8, 8))
    assert [part.family for part in found] == ["conv2d k3 depthwise", "conv2d k3 depthwise", "BatchNorm2d"]
    assert found[0].key == "conv2d(in=4, out=4, k=3, groups=4, bias, at=4x8x8)"
    assert (found[0].macs, found[0].inputs, found[0].outputs, found[0].weights) == (4 * 64 * 9, 256, 256, 40)


def test_a_block_is_one_part_and_other_weights_of_the_same_shape_are_the_same_part() -> None:
    net = nn.Sequential(Twice(), Twice(), nn.ReLU()).eval()
    keys = [part.key for part in parts(net, torch.zeros(1, 4, 8, 8), blocks=("Twice",))]
    assert keys[0] == keys[1]
    assert keys[0].startswith("Twice(at=4x8x8, ")
    assert keys[2] == "ReLU(at=4x8x8)"
    assert not any(module._forward_hooks for module in net.modules())


def test_a_model_that_does_not_run_says_so_and_keeps_no_hooks() -> None:
    net = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(
        PredictorError, match="parts of Sequential cannot be found, because it does not run on the example"
    ):
        parts(net, torch.zeros(1, 4))
    assert not net[0]._forward_hooks


class Lookup(nn.Module):
    """An embedding, and a layer that is called with a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(5, 4), Scaled()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(self.embedding(x), scale=torch.ones(4))
        return y


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
        return x * scale


class Alone(nn.Module):
    """Reads the weights of a layer without calling it, as a captured graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.layer.weight, self.layer.bias)


def test_a_part_gets_whole_numbers_where_the_model_gave_some() -> None:
    embedding, scaled = parts(Lookup().eval(), torch.zeros(1, 3, dtype=torch.long))
    module, inputs = realised(embedding)
    assert module(*inputs).shape == (1, 3, 4)
    with pytest.raises(
        PredictorError, match=r"part Scaled\(at=3x4\) does not run by itself .* operators=True needs no"
    ):
        realised(scaled)


def test_a_model_that_calls_none_of_its_modules_has_no_parts_and_says_so() -> None:
    with pytest.raises(PredictorError, match="Alone calls none of its modules.*operators=True"):
        parts(Alone(), torch.zeros(1, 4))
