"""A model as the operators that it runs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.errors import PredictorError
from nas.predict import LookUp, Part, Predictor
from nas.predict.operators import Like, operators
from tests.conformance.predictor import EXAMPLE, PredictorConformance, archs, space, truth


def flat_ms(part: Part) -> float:
    """One price for a product of matrices, another for what else there is."""
    return 0.3 if part.family == "aten.addmm.default" else 0.01


@cache
def table() -> dict[str, float]:
    one = LookUp(space(), example=EXAMPLE, operators=True)
    assert one.measure_parts(list(space().enumerate()), widths_ms) == len(one.table)
    return one.table


def widths_ms(part: Part) -> float:
    """What the closed form of the conformance suite charges for a layer, of its weights' shape."""
    *_, weights = [one for one in part.module._template[0] if isinstance(one, Like)]  # type: ignore[index, union-attr]
    return 0.001 * weights.shape[0] * weights.shape[1] + 0.05 if part.family == "aten.addmm.default" else 1e-9


class TestLookUp(PredictorConformance):
    good = 1e-4

    def make(self) -> Predictor:
        return LookUp(space(), "toy-cpu", example=EXAMPLE, operators=True, table=table())


class Attending(nn.Module):
    """Attention between two layers, written as functions, with views around."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.into(x).chunk(3, -1)
        found: Tensor = self.out(functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0])
        return found


def test_functions_between_modules_are_parts_and_views_are_not() -> None:
    found = operators(Attending().eval(), torch.zeros(1, 5, 8))
    families = [part.family for part in found]
    assert families.count("aten.addmm.default") == 2
    assert any("attention" in name for name in families)
    assert not any("view" in name or "split" in name or "slice" in name for name in families)
    first, *_, last = [part.key for part in found if part.family == "aten.addmm.default"]
    assert first == "aten.addmm.default(float32 24, float32 5x8, float32 8x24 strides 1x8)"
    assert last != first


def test_a_part_runs_by_itself_on_tensors_as_the_model_has_them() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 4)
            self.conv, self.norm = nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)

        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            x = torch.where(mask[..., None], self.embedding(tokens), 0.0)
            return self.norm(self.conv(x.mT)).relu_().softmax(1)  # type: ignore[no-any-return]

    net = Net().eval()
    example = torch.tensor([[1, 2, 3, 6]]), torch.tensor([[True, True, False, True]])
    found = operators(net, example)
    again = operators(net, example)
    assert [part.key for part in found] == [part.key for part in again]
    assert found[-1].module().shape == net(*example).shape
    for part in found:
        part.module()
        part.module()


def test_weights_are_others_at_each_call_as_in_a_model_of_many() -> None:
    net = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 256, bias=False)).eval()
    first = operators(net, torch.zeros(1, 64))[0].module
    seen: list[int] = []
    first._func = lambda x, weight: seen.append(weight.data_ptr())  # type: ignore[assignment]
    for _ in range(10):
        first()
    assert len(set(seen)) == 5  # the model has five times as many
    assert seen[:5] == seen[5:]


def test_equal_operators_are_measured_among_the_most_weights() -> None:
    one = LookUp(space(), example=EXAMPLE, operators=True)
    shallow, deep = (space().arch({"width": 8, "layers": layers, "last": 4}) for layers in (1, 5))
    few, many = (one.missing([arch]) for arch in (shallow, deep))
    shared = set(few) & set(many)
    assert shared
    for order in ([shallow, deep], [deep, shallow]):
        assert all(one.missing(order)[key].among == many[key].among > few[key].among for key in shared)


def test_the_error_of_the_bare_sum_stands_beside_that_of_the_corrected_one() -> None:
    some = archs(24, 1)
    one = LookUp(space(), example=EXAMPLE, operators=True, table=table())
    ms = [2.0 * truth(arch) for arch in some]
    one.fit(some, ms)
    off = [1.0 - total / each for total, each in zip(one.sums(some), ms, strict=True)]
    assert one.errors["sum_mape"] == pytest.approx(sum(off) / len(off))
    assert one.errors["sum_mape"] > 0.4
    assert one.errors["mape"] < 1e-4


def test_a_time_for_each_part_is_used_where_it_predicts_better() -> None:
    some = archs(24, 2)
    bare = LookUp(space(), example=EXAMPLE, operators=True, table=table())
    counts = [len(bare._keys(arch)) for arch in some]
    assert len(set(counts)) > 1
    one = LookUp(space(), example=EXAMPLE, operators=True, table=table())
    one.fit(some, bare.sums(some) + 5.0 * torch.tensor(counts).double().numpy())
    assert one.errors["mape"] < 1e-6
    again = Predictor.unpack(one.pack(), space())
    assert again.predict(some)[0] == pytest.approx(one.predict(some)[0])
    assert "each" not in LookUp(space(), example=EXAMPLE, table={"x": 1.0})._state()[0]  # as earlier versions keep it


def test_the_root_of_the_sum_is_used_where_it_predicts_better() -> None:
    some, others = archs(24, 2), archs(24, 3)
    one = LookUp(space(), example=EXAMPLE, operators=True, table=table())
    one.fit(some, 2.0 * one.sums(some) + 3.0 * one.sums(some) ** 0.5)
    assert one.errors["mape"] < 1e-6
    assert one.predict(others)[0] == pytest.approx(2.0 * one.sums(others) + 3.0 * one.sums(others) ** 0.5)
    again = Predictor.unpack(one.pack(), space())
    assert again.predict(others)[0] == pytest.approx(one.predict(others)[0])


def test_a_larger_sum_never_takes_less() -> None:
    some = archs(24, 2)
    one = LookUp(space(), example=EXAMPLE, operators=True, table=table())
    one.fit(some, 1.0 / one.sums(some))  # times that no sum of parts explains
    predicted = one.predict(some)[0]
    order = one.sums(some).argsort()
    assert (np.diff(predicted[order]) >= 0).all()


def test_a_converted_model_that_runs_as_a_graph_is_predicted_too() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + functional.linear(functional.silu(self.up(x)), self.down.weight, self.down.bias)

    x = torch.randn(1, 8)
    made = nas.elastic(nn.Sequential(Gated(), nn.Linear(8, 3)), x, granule=4)
    one = LookUp(made, example=x, operators=True)
    count = one.measure_parts([made.smallest, made.largest], flat_ms)
    assert count == len(one.table) > 3
    assert one.sums([made.largest])[0] >= 0.9  # three products


def test_what_does_not_run_and_blocks_beside_operators_are_refused() -> None:
    with pytest.raises(PredictorError, match="operators of Linear cannot be found, because it does not run"):
        operators(nn.Linear(3, 3), torch.zeros(1, 4))
    given: Any = {"blocks": ("Block",), "operators": True}
    with pytest.raises(PredictorError, match="operators=True has no blocks"):
        LookUp(space(), example=EXAMPLE, **given)
