"""Batches of one sample: normalisation layers get them with others, or say so."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import EvaluationError, SupernetError, TrainError
from nas.evaluate import Trained
from nas.proxies import Proxies
from nas.supernet.ragged import folded
from nas.train import Batch, BatchScore, Classification, Task
from nas.train.rows import lent
from nas.train.task import pieces


@nas.model
def net(w: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, w), nn.BatchNorm1d(w), nn.ReLU(), nn.Linear(w, 3))


def space() -> nas.Space:
    return nas.Space(net(w=pg.oneof([4, 8])), name="ragged")


def task(n: int = 257, **options: Any) -> Classification:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 6, generator=generator), torch.randint(3, (n,), generator=generator)
    return Classification(train=(x, y), valid=(x[:60], y[:60]), **{"batch": 32, **options})


class Plain(Task):
    """A user's own task: batches of sizes that it is told, of one tensor and a mapping of targets."""

    def __init__(self, sizes: list[int], example: nas.Example | Tensor | None = None, steps: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(sum(sizes), 6, generator=generator), torch.arange(sum(sizes)) % 3
        self.sizes, self.steps = sizes, steps
        self._example = torch.zeros(1, 6) if example is None else example

    @property
    def steps_per_epoch(self) -> int:
        return self.steps or len(self.sizes)

    @property
    def example(self) -> Any:
        return self._example

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        for x, y in zip(self.x.split(self.sizes), self.y.split(self.sizes), strict=True):
            yield Batch(x, {"classes": y, "note": "of this epoch"})

    def valid_batches(self) -> Iterator[Batch]:
        return self.train_batches(0)

    test_batches = valid_batches

    def calibration_inputs(self) -> Iterator[Tensor]:
        return iter(self.x.split(self.sizes))

    def loss(self, output: Any, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(output, batch.targets["classes"])

    def metrics(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        right = (output.argmax(-1) == batch.targets["classes"]).float().mean()
        return {"accuracy": right, "loss": self.loss(output, batch)}


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ([256, 1], [257]),
        ([4, 4, 1], [4, 5]),
        ([1, 4], [5]),
        ([4, 1, 4], [4, 5]),
        ([4, 1, 1], [4, 2]),
        ([1, 1, 1], [3]),
        ([1], [1]),
        ([2, 3], [2, 3]),
        ([], []),
    ],
)
def test_batches_of_one_sample_are_folded_into_others(sizes: list[int], found: list[int]) -> None:
    samples = torch.arange(sum(sizes))
    whole = list(folded(iter(samples.split(sizes)))) if sizes else list(folded([]))
    assert [len(one) for one in whole] == found
    if sizes:
        assert torch.equal(torch.cat(whole), samples), "nothing is lost, in order"


def test_inputs_of_every_form_are_folded_along_their_axis() -> None:
    time = [nas.Example((torch.zeros(5, size, 2), torch.zeros(size)), batch_axis=(1, 0)) for size in (3, 1)]
    (one,) = folded(time)
    assert [tuple(part.shape) for part in one.inputs] == [(5, 4, 2), (4,)]
    (one,) = folded(
        [
            {"x": torch.zeros(3, 2), "n": 7, "s": torch.tensor(1.0)},
            {"x": torch.ones(1, 2), "n": 7, "s": torch.tensor(2.0)},
        ]
    )
    assert one["x"].shape == (4, 2)
    assert (one["n"], one["s"]) == (7, torch.tensor(1.0))
    lengths = list(folded([torch.zeros(3, 9), torch.zeros(1, 4)]))
    assert [tuple(part.shape) for part in lengths] == [(3, 9), (1, 4)], "sequences of other lengths stay apart"
    graphs = [nas.Example((torch.zeros(1, 2), torch.zeros(2, 3)), batch_axis=None)] * 2
    assert len(list(folded(graphs))) == 2


@pytest.mark.parametrize("n", [255, 256, 257, 258, 513])
def test_statistics_are_those_of_all_samples(n: int) -> None:
    given = task(n)
    supernet = nas.Supernet(space(), example=given.example)
    module = supernet.extract(supernet.space.largest)
    buffers = supernet.calibrate(supernet.space.largest, given.calibration_inputs())
    with torch.no_grad():
        outputs = module[0](given.train[0])  # type: ignore[index]
    torch.testing.assert_close(buffers["1.running_mean"], outputs.mean(0))
    sizes = [len(part) for part in given.calibration_inputs()]
    assert sum(sizes) == n
    assert min(sizes) > 1 or n == 1


@pytest.mark.parametrize("sizes", [[32, 32, 1], [2, 1], [16, 1, 16], [1, 16, 2]])
def test_a_users_own_ragged_batches_train_calibrate_and_evaluate(sizes: list[int]) -> None:
    given = Plain(sizes)
    supernet = nas.Supernet(space(), example=given.example)
    nas.Training(supernet, given, steps=2 * len(sizes), validate_every=1).run(progress=False)
    found = nas.Accuracy(supernet, given)(supernet.space.largest)
    module = nas.Accuracy(supernet, given).extract(supernet.space.largest)
    with torch.no_grad():
        right = (module(given.x).argmax(-1) == given.y).double().mean().item()
    assert found["accuracy"] == pytest.approx(right, abs=1e-6), "each sample weighs the same"


def test_a_last_batch_of_one_borrows_a_sample_so_that_steps_stay() -> None:
    given = Plain([8, 8, 1])
    batches = list(lent(given.train_batches(0), given, given.steps_per_epoch))
    assert [len(batch) for batch in batches] == [8, 7, 2]
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), given.x)
    assert torch.equal(torch.cat([batch.targets["classes"] for batch in batches]), given.y)
    assert batches[-1].targets["note"] == "of this epoch"
    assert [len(batch) for batch in lent(Plain([2, 1]).train_batches(0), Plain([2, 1]), 2)] == [2, 2]
    assert [len(batch) for batch in lent(Plain([1, 8]).train_batches(0), Plain([1, 8]), 2)] == [2, 7]
    assert [len(batch) for batch in lent(Plain([8, 2]).train_batches(0), Plain([8, 2]), 2)] == [8, 2]


def test_the_commands_of_a_study_take_any_number_of_samples() -> None:
    for n, options in ((257, {}), (601, {"batch": 300, "calibration": 601}), (3000, {"batch": 341})):
        given = task(n, **options)
        supernet = nas.Supernet(space(), example=given.example)
        nas.Accuracy(supernet, given)(supernet.space.smallest)
        nas.Training(supernet, given, steps=3).run(progress=False)
        with tempfile.TemporaryDirectory() as folder:
            Trained(given, folder, epochs=1)(supernet.space.smallest)


def test_a_whole_set_of_one_sample_is_a_sentence() -> None:
    says = "a normalisation layer gets one value of each channel, which has no variance; give 2 samples or more"
    for given in (task(40, calibration=1), task(40, calibration=1, batch=2)):
        supernet = nas.Supernet(space(), example=given.example)
        with pytest.raises(SupernetError, match=f"a batch of the calibration is too small: {says}"):
            nas.Accuracy(supernet, given)(supernet.space.smallest)
    one = task(40, batch=1)
    supernet = nas.Supernet(space(), example=one.example)
    with pytest.raises(TrainError, match=f"a training batch is too small: {says}"):
        nas.Training(supernet, one, steps=2).run(progress=False)
    with pytest.raises(SupernetError, match=says):
        BatchScore(supernet, one)(supernet.space.smallest)
    with pytest.raises(EvaluationError, match="does not fit the task's batches of 1 samples"):
        Proxies(["snip"], one)
    with pytest.raises(SupernetError, match="calibration got no batch"):
        nas.Accuracy(supernet, task(40, calibration=0))(supernet.space.smallest)
    with pytest.raises(TrainError, match="calibration=-3 is no number of samples"):
        task(40, calibration=-3)


def test_pieces_are_never_of_one_row() -> None:
    for count in range(12):
        for size in range(1, 6):
            found = pieces(torch.arange(count), size)
            assert torch.equal(torch.cat([torch.zeros(0, dtype=torch.int64), *found]), torch.arange(count))
            assert all(len(piece) <= size + 1 for piece in found)
            assert size == 1 or count == 1 or all(len(piece) > 1 for piece in found)
