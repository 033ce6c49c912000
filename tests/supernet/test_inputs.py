"""Which axis is the batch's, said once: operations, latencies, exports and trainings go by it."""

from __future__ import annotations

from typing import Any

import pyglove as pg
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.deploy import export
from nas.errors import DeviceError, EvaluationError, SupernetError, TrainError
from nas.evaluate import Function, Trained, one_sample
from nas.hardware import Custom, Device, measure
from nas.predict.pieces import parts_of, realised
from nas.proxies import Proxies
from nas.supernet.inputs import batch_size, describe, joined, repeated, sample_text, some, spread, zeros
from nas.train import Batch, Classification
from nas.train.ranks import Share

SEEN: list[tuple[int, ...]] = []


class Graph(nn.Module):
    """Nodes (n, 4) and edges (2, e)."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, w), nn.Linear(w, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Any:
        SEEN.append(tuple(x.shape))
        hidden = self.a(x)
        source, target = edges
        return self.b(hidden.index_add(0, target, hidden[source]))


class Time(nn.Module):
    """(time, batch, 4) -> (batch, 3), by the last step."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, w), nn.Linear(w, 3)

    def forward(self, x: Tensor) -> Any:
        SEEN.append(tuple(x.shape))
        return self.b(self.a(x)[-1])


class Recurrent(nn.Module):
    """(time, batch, 4) -> (batch, 3), with lengths (batch,)."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b = nn.GRU(4, w), nn.Linear(w, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        SEEN.append(tuple(x.shape))
        assert lengths.shape == x.shape[1:2]
        return self.b(self.a(x)[0].mean(0)) * lengths[:, None].to(x.dtype)


def edges() -> Tensor:
    return torch.randint(10, (2, 30), generator=torch.Generator().manual_seed(0))


def supernet(kind: type[nn.Module], example: Any) -> nas.Supernet:
    return nas.Supernet(nas.Space(nas.model(kind)(w=pg.oneof([4, 8])), name=kind.__name__), example=example)


GRAPH = 10 * 4 * 8 + 10 * 8 * 3
TIME = 12 * 4 * 8 + 8 * 3
GRU = 12 * 3 * 8 * (4 + 8) + 8 * 3
CASES = [
    (Graph, lambda: nas.Example((torch.randn(10, 4), edges()), batch_axis=None), GRAPH),
    (Time, lambda: nas.Example(torch.randn(12, 1, 4), batch_axis=1), TIME),
    (Time, lambda: nas.Example(torch.randn(12, 5, 4), batch_axis=1), TIME),
    (Time, lambda: nas.Example(torch.randn(12, 5, 4), batch_axis=-2), TIME),
    (Recurrent, lambda: nas.Example((torch.randn(12, 3, 4), torch.ones(3)), batch_axis=(1, 0)), GRU),
    (
        Recurrent,
        lambda: nas.Example({"x": torch.randn(12, 1, 4), "lengths": torch.ones(1)}, {"x": 1, "lengths": 0}),
        GRU,
    ),
]


@pytest.mark.parametrize(("kind", "make", "macs"), CASES)
def test_operations_are_of_one_sample_or_of_a_whole_graph(kind, make, macs) -> None:
    net = supernet(kind, make())
    assert net.macs(net.space.largest) == macs
    assert net.macs(net.space.largest, make()) == macs
    assert nas.Costs(net)(net.space.largest)["macs"] == macs


@pytest.mark.parametrize(("kind", "make", "macs"), CASES)
def test_a_checkpoint_keeps_the_axis(kind, make, macs, tmp_path) -> None:
    supernet(kind, make()).save(tmp_path / "net")
    again = nas.Supernet.load(tmp_path / "net", supernet(kind, None).space)
    assert isinstance(again.example, nas.Example)
    assert again.macs(again.space.largest) == macs


@pytest.mark.parametrize(("kind", "make", "macs"), CASES)
def test_a_latency_is_of_one_sample_or_of_a_whole_graph(kind, make, macs) -> None:
    net = supernet(kind, make())
    SEEN.clear()
    assert nas.Latency(net, repeats=2)(net.space.largest)["latency_ms"] > 0
    assert SEEN[-1] == ((10, 4) if kind is Graph else (12, 1, 4))
    if kind is not Graph:
        nas.Latency(net, Device(batch=7), repeats=2)(net.space.largest)
        assert SEEN[-1] == (12, 7, 4)
        nas.Latency(net, Custom("mine", lambda module, inputs: _timed(module, inputs), batch=3))(net.space.largest)
        assert SEEN[-1] == (12, 3, 4)
    else:
        with pytest.raises(DeviceError, match="inputs without a batch cannot be repeated to the batch of 7"):
            nas.Latency(net, Device(batch=7), repeats=2)(net.space.largest)


def _timed(module: nn.Module, inputs: Any) -> float:
    module(**inputs) if isinstance(inputs, dict) else module(*inputs) if isinstance(inputs, tuple) else module(inputs)
    return 1.0


@pytest.mark.parametrize(("kind", "make", "macs"), CASES)
def test_parts_keep_their_shapes(kind, make, macs) -> None:
    net = supernet(kind, make())
    found = parts_of(net.space.largest, make())
    first = found[0]
    module, inputs = realised(first)
    assert inputs[0].shape == ((10, 4) if kind is Graph else (12, 1, 4))
    module(*inputs[:1])
    assert ("at=10x4" if kind is Graph else "at=12x1x4") in first.key
    if kind is not Recurrent:
        assert sum(part.macs for part in found) == macs


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_an_export_is_open_along_the_axis(format: str, tmp_path) -> None:
    module = Time(4).eval()
    example = nas.Example(torch.randn(12, 1, 4), batch_axis=1)
    export(module, tmp_path / f"m.{format}", example=example)
    if format == "pt2":
        again = torch.export.load(tmp_path / "m.pt2").module()
        assert again(torch.zeros(12, 5, 4)).shape == (5, 3)
        with pytest.raises(Exception, match="12"):
            again(torch.zeros(7, 5, 4))
    graph = Graph(4).eval()
    export(graph, tmp_path / f"g.{format}", example=nas.Example((torch.randn(10, 4), edges()), batch_axis=None))


def test_inputs_whose_first_axes_differ_are_refused() -> None:
    with pytest.raises(
        SupernetError, match=r"have 2 and 10 along their first axis, .* with nas.Example\(inputs, batch"
    ):
        supernet(Graph, (torch.randn(10, 4), edges()))
    with pytest.raises(SupernetError, match=r"batch_axis=1: tensors have 4 and 30 samples along it"):
        nas.Example((torch.randn(10, 4), edges()), batch_axis=1)
    with pytest.raises(SupernetError, match="batch_axis='time' is no axis"):
        nas.Example(torch.zeros(2, 3), batch_axis="time")  # type: ignore[arg-type]
    with pytest.raises(SupernetError, match="is an Example already|are an Example already"):
        nas.Example(nas.Example(torch.zeros(2)), batch_axis=1)  # type: ignore[arg-type]
    supernet(Graph, (torch.randn(1, 4), torch.zeros(2, 3, dtype=torch.long)))  # one is for all


def test_a_first_axis_that_is_no_batch_is_noticed_where_operations_show_it() -> None:
    net = supernet(Time, torch.randn(12, 1, 4))
    says = r"one of 12 along the first axis of the example takes 56 operations and all take 408, so that it is not the batch's"
    for ask in (net.macs, nas.Latency(net), nas.Costs(net)):
        with pytest.raises(SupernetError, match=says):
            ask(net.space.largest)
    with pytest.raises(SupernetError, match=says):
        net.macs(net.space.largest, torch.randn(12, 1, 4))


def test_several_samples_along_a_first_axis_are_counted_as_one() -> None:
    net = supernet(Time, None)
    whole = nas.Example(torch.randn(12, 3, 4), batch_axis=1)
    assert net.macs(net.space.largest, whole) == TIME
    plain = nas.Supernet(nas.Space(nas.model(lambda w: nn.Linear(6, w))(w=pg.oneof([2, 4]))), example=torch.zeros(9, 6))
    assert plain.macs(plain.space.largest) == 24
    assert nas.Latency(plain, repeats=2)(plain.space.largest)["latency_ms"] > 0


# -- tasks


def times(**options: Any) -> Classification:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(65, 12, 4, generator=generator), torch.randint(3, (65,), generator=generator)
    return Classification(train=(x, y), valid=(x[:33], y[:33]), batch=16, batch_axis=1, **options)


def test_a_task_says_the_axis_once() -> None:
    task = times()
    net = supernet(Time, task.example)
    assert net.macs(net.space.largest) == TIME
    SEEN.clear()
    nas.Training(net, task, steps=4).run(progress=False)
    assert {shape[0] for shape in SEEN} == {12}
    accuracy = nas.Accuracy(net, task)
    module = accuracy.extract(net.space.largest)
    inputs, classes = task.valid
    with torch.no_grad():
        right = (module(inputs.transpose(0, 1)).argmax(-1) == classes).double().mean().item()
    assert accuracy(net.space.largest)["accuracy"] == pytest.approx(right, abs=1e-6)
    assert accuracy.difference(module, net.space.largest).same
    assert task.describe()["batch_axis"] == 1
    assert "batch_axis" not in Classification(train=task.train, valid=task.valid).describe()
    with pytest.raises(TrainError, match="batch_axis=3 is no axis of inputs with 3; give 0 to 2"):
        Classification(train=task.train, valid=task.valid, batch_axis=3)


def test_candidates_names_and_proxies_go_by_the_axis(tmp_path) -> None:
    task = times()
    space = supernet(Time, None).space
    assert Trained(task, tmp_path, epochs=1)(space.smallest)["epochs"] == 1
    SEEN.clear()
    Function(task, samples=2)(space.smallest)
    assert SEEN[-1] == (12, 2, 4)
    scores = Proxies(["snip", "synflow", "macs"], task, batch=8)(space.largest)
    assert scores["macs"] == TIME
    assert SEEN[0][0] == 12
    with pytest.raises(
        EvaluationError, match="naswot, zen compare samples along the first axis, which is not the batch's"
    ):
        Proxies(["naswot", "zen", "snip"], task)


def test_ranks_share_a_batch_along_the_axis() -> None:
    example = nas.Example(torch.zeros(12, 1, 4), batch_axis=1)
    batch = Batch(
        torch.arange(12 * 6 * 4).view(12, 6, 4), {"classes": torch.arange(6), "steps": torch.arange(72).view(12, 6)}
    )
    parts = [Share(0, 4, 6).of(batch, example), Share(4, 6, 6).of(batch, example)]
    assert [part.inputs.shape for part in parts] == [(12, 4, 4), (12, 2, 4)]
    assert torch.equal(torch.cat([part.inputs for part in parts], 1), batch.inputs)
    assert torch.equal(torch.cat([part.targets["classes"] for part in parts]), torch.arange(6))
    assert torch.equal(torch.cat([part.targets["steps"] for part in parts], 1), batch.targets["steps"])
    with pytest.raises(TrainError, match=r"targets of shape \(6, 6\) have 6 along two axes"):
        Share(0, 4, 6).of(Batch(batch.inputs, torch.zeros(6, 6)), example)
    with pytest.raises(TrainError, match="have no batch that could be shared or cut; train with one process"):
        Share(0, 1, 1).of(batch, nas.Example(torch.zeros(12, 1, 4), batch_axis=None))


# -- the functions


def test_samples_are_taken_repeated_spread_and_joined_along_the_axis() -> None:
    x, table = torch.arange(12).view(3, 4), torch.zeros(1, 7)
    given = nas.Example({"x": x, "table": table, "n": 5, "s": torch.tensor(2.0)}, batch_axis=0)
    assert batch_size(given) == 3
    assert torch.equal(some(given, slice(1, None)).inputs["x"], x[1:])
    assert some(given, slice(1)).inputs["table"] is table
    assert torch.equal(repeated(given, 2).inputs["x"], torch.cat([x, x]))
    assert repeated(given, 2).inputs["table"].shape == (1, 7)
    assert spread(one_sample(given), 4).inputs["x"].shape == (4, 4)
    assert joined(given, given).inputs["x"].shape == (6, 4)
    assert joined(given, nas.Example({"x": torch.zeros(2, 5), "table": table, "n": 5, "s": torch.tensor(2.0)})) is None
    time = nas.Example(torch.zeros(5, 3, 2), batch_axis=1)
    assert some(time, slice(2)).inputs.shape == (5, 2, 2)
    assert repeated(time, 2).inputs.shape == (5, 6, 2)
    assert one_sample(nas.Example((x, table), batch_axis=None)).inputs[0] is x
    assert batch_size(nas.Example((x, table), batch_axis=None)) == 1


@pytest.mark.parametrize("axis", [0, 1, None, (0, None), {"a": 1}])
def test_a_description_keeps_the_axis(axis: Any) -> None:
    given = (
        {"a": torch.zeros(2, 3), "b": torch.zeros(5)}
        if isinstance(axis, dict)
        else (torch.zeros(2, 3), torch.zeros(2, 3))
    )
    again = zeros(describe(nas.Example(given, batch_axis=axis)))
    assert isinstance(again, nas.Example)
    assert again.batch_axis == axis
    assert describe(again) == describe(nas.Example(given, batch_axis=axis))
    assert sample_text(again) == sample_text(nas.Example(given, batch_axis=axis))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (torch.zeros(1, 3, 8, 8), "(3, 8, 8) float32"),
        (torch.zeros(4, 3, 8, 8), "(3, 8, 8) float32"),
        (nas.Example(torch.zeros(4, 3, 8, 8)), "(3, 8, 8) float32"),
        (torch.zeros(2, 16, dtype=torch.int64), "(16) int64"),
        (nas.Example(torch.zeros(12, 2, 4), batch_axis=1), "(12, 4) float32 along batch axis 1"),
        (nas.Example(torch.zeros(12, 4), batch_axis=None), "(12, 4) float32 without batch"),
        ((torch.zeros(2, 5), torch.zeros(1, 7), True), "((5) float32, (7) float32, True)"),
        ({"b": torch.zeros(2, 5), "a": [torch.zeros(3)]}, "{a: [(3) float32], b: (5) float32}"),
    ],
)
def test_one_sample_is_told_by_shapes_and_dtypes(inputs: Any, expected: str) -> None:
    assert sample_text(inputs) == expected


def test_measure_takes_an_example() -> None:
    SEEN.clear()
    measure(Time(4).eval(), nas.Example(torch.zeros(12, 1, 4), batch_axis=1), Device(batch=2), repeats=2)
    assert SEEN[-1] == (12, 2, 4)
