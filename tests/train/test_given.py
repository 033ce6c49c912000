"""Data as users have it: what is taken, what an epoch is, what is refused before any work."""

from __future__ import annotations

import gc
import json
import pickle
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Subset, TensorDataset

import nas
from nas.errors import TrainError
from nas.identity import IDENTITY, same
from nas.train import Batch, Task, Training, recipe
from tests.conformance.task import equal, parts
from tests.train.test_tasks import Numbers, dense, draw

torch.set_num_threads(1)


def task_of(train: Any, valid: Any = None, **options: Any) -> Task:
    options = {"loss": "mse", "batch": 8, **options}
    return Task.of(train, Numbers(11) if valid is None else valid, **options)


def first(task: Task) -> Batch:
    return next(task.train_batches(0))


X, Y = draw(40, 5), draw(40, seed=1)


class Named(Dataset[dict[str, Any]]):
    """As Hugging Face's data sets give samples: mappings of plain lists and numbers, several at a time if asked."""

    def __init__(self, count: int, label: str = "labels") -> None:
        self.count, self.label = count, label

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"ids": [row, row + 1, row + 2], "mask": [1, 1, 0], self.label: row % 3}

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        return [self[row] for row in rows]


class Streamed(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(X, Y, strict=True)


FORMS: dict[str, Any] = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.double().numpy(), Y.numpy()),
    "read-only arrays": lambda: (np.broadcast_to(X.numpy(), (40, 5)), Y.numpy()),
    "data set": lambda: TensorDataset(X, Y),
    "list": lambda: list(zip(X, Y, strict=True)),
    "items of NumPy": lambda: [(x.numpy(), float(y)) for x, y in zip(X, Y, strict=True)],
    "loader": lambda: DataLoader(TensorDataset(X, Y), 8),
    "iterable": Streamed,
    "function": lambda: lambda: ((X[at : at + 8], Y[at : at + 8]) for at in range(0, 40, 8)),
    "function of the epoch": lambda: lambda epoch: [(X[at : at + 8], Y[at : at + 8]) for at in range(0, 40, 8)],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples(form: str) -> None:
    task = task_of(FORMS[form](), epoch_steps=5, exact=True)
    batches = list(task.train_batches(0))
    assert len(batches) == task.steps_per_epoch == 5
    rows = torch.cat([batch.inputs for batch in batches])  # type: ignore[misc]
    assert rows.dtype == torch.float32
    order = torch.cdist(rows, X).argmin(1)
    assert sorted(order.tolist()) == list(range(40))
    torch.testing.assert_close(torch.cat([batch.targets for batch in batches]), Y[order])
    json.dumps(task.describe())


def test_mappings_are_called_by_name_or_by_place() -> None:
    for label in ("labels", "label", "target"):
        batch = first(Task.of(Named(40, label), Named(30, label), loss="cross_entropy", batch=8))
        assert isinstance(batch.inputs, dict)
        assert list(batch.inputs) == ["ids", "mask"]
        assert batch.inputs["ids"].shape == (8, 3)
        assert batch.targets.dtype == torch.int64
    named = {"loss": "cross_entropy", "batch": 8, "target": "kind"}
    batch = first(Task.of(Named(40, "kind"), Named(30, "kind"), inputs=("mask", "ids"), **named))
    assert isinstance(batch.inputs, tuple)
    assert [one.shape for one in batch.inputs] == [(8, 3), (8, 3)]
    alone = first(Task.of(Named(40, "kind"), Named(30, "kind"), inputs="ids", **named))
    assert isinstance(alone.inputs, Tensor)
    arrays = {"ids": np.arange(40), "y": np.arange(40) % 3}
    batch = first(Task.of(arrays, {name: one[:9] for name, one in arrays.items()}, loss="cross_entropy", batch=8))
    assert list(batch.inputs) == ["ids"]  # type: ignore[call-overload]


def test_several_inputs_come_before_the_target() -> None:
    data = TensorDataset(X, 2 * X, Y)
    for train in (data, (X, 2 * X, Y), ((X, 2 * X), Y), DataLoader(data, 8)):
        batch = first(task_of(train, TensorDataset(X[:9], X[:9], Y[:9])))
        assert isinstance(batch.inputs, tuple)
        assert torch.equal(batch.inputs[1], 2 * batch.inputs[0])
    assert len(task_of(data, TensorDataset(X[:9], X[:9], Y[:9])).example) == 2


def test_what_a_data_set_draws_is_a_function_of_seed_epoch_and_batch() -> None:
    for train in (Numbers(40, noise=1.0), DataLoader(Numbers(40, noise=1.0), 8, shuffle=True)):
        task = task_of(train)
        states = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
        one, again, other = (list(task.train_batches(epoch)) for epoch in (2, 2, 3))
        assert equal(one, again)
        assert not equal(one, other)
        assert task.repeatable
        assert torch.equal(states[0], torch.get_rng_state())
        assert (states[1] == np.random.get_state()[1]).all()  # type: ignore[index]


def test_a_loader_with_workers_gives_the_same_epoch_again() -> None:
    task = task_of(DataLoader(Numbers(24, noise=1.0), 8, shuffle=True, num_workers=2))
    assert task.repeatable
    assert equal(list(task.train_batches(1)), list(task.train_batches(1)))


def test_workers_give_the_batches_of_one_process() -> None:
    alone = task_of(Numbers(24, noise=1.0))
    shared = task_of(Numbers(24, noise=1.0), num_workers=2)
    assert equal(list(alone.train_batches(1)), list(shared.train_batches(1)))
    assert alone.describe() == shared.describe()


def killed_and_resumed(task: Task, path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    def training(where: Path) -> Training:
        torch.manual_seed(0)
        net = nas.Supernet(nas.Space(dense(width=pg.oneof([4, 8]), outputs=1)), example=task.example, seed=0)
        return Training(net, task, steps=9, path=where, checkpoint_every=2)

    whole = training(path / "whole")
    whole.run(progress=False)
    part = training(path / "part")
    part.run(progress=False, until=3)
    again = training(path / "part")
    again.run(progress=False)
    return whole.supernet.state_dict(), again.supernet.state_dict()


def test_a_killed_training_on_a_data_set_that_augments_resumes_to_the_bit(tmp_path: Path) -> None:
    for at, train in enumerate((Numbers(40, noise=1.0), DataLoader(Numbers(40, noise=1.0), 8, shuffle=True))):
        whole, again = killed_and_resumed(task_of(train), tmp_path / str(at))
        assert all(torch.equal(whole[name], again[name]) for name in whole)


OWN: dict[str, Any] = {
    "generator": lambda: DataLoader(TensorDataset(X, Y), 8, shuffle=True, generator=torch.Generator()),
    "sampler": lambda: DataLoader(
        TensorDataset(X, Y), 8, sampler=RandomSampler(range(40), generator=torch.Generator())
    ),
    "iterable": lambda: DataLoader(Streamed(), 8),
    "function": lambda: lambda: [(X[:8], Y[:8])] * 5,
}


@pytest.mark.parametrize("form", OWN)
def test_an_order_that_cannot_be_asked_again_is_said_once(form: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="has an order of its own that cannot be asked again") as said:
        task = task_of(OWN[form](), epoch_steps=5)
    assert len(said) == 1
    list(task.train_batches(0)), task.evaluate(lambda x: x.sum(1)), task.describe()  # and nothing more is said
    assert not task.repeatable
    killed_and_resumed(task, tmp_path)  # by epoch: it goes on, with the batches that come
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert task_of(OWN[form](), epoch_steps=5, exact=True).repeatable


def test_a_batch_at_a_time_is_held() -> None:
    alive: set[int] = set()
    most = 0

    class Large(Dataset[tuple[Tensor, Tensor]]):
        """4 GB of samples, each made when it is asked for."""

        def __len__(self) -> int:
            return 10_000

        def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
            nonlocal most
            sample = torch.zeros(100_000)
            alive.add(id(sample))
            weakref.finalize(sample, alive.discard, id(sample))
            most = max(most, len(alive))
            return sample, torch.tensor(float(row))

    task = Task.of(Large(), Numbers(11), loss="mse", batch=16)
    assert task.steps_per_epoch == 625
    for _, batch in zip(range(5), task.train_batches(0), strict=False):
        assert batch.inputs.shape == (16, 100_000)  # type: ignore[union-attr]
    task.describe()
    gc.collect()
    assert most <= 2 * 16


def test_descriptions_tell_data_apart_by_some_rows_and_their_number() -> None:
    def count_of(count: int, **options: Any) -> tuple[Numbers, Any]:
        data = Numbers(count)
        return data, task_of(data, **options).describe()

    data, described = count_of(500)
    assert data.read < 100, "not all is read"
    assert count_of(500)[1] == described
    assert count_of(501)[1] != described
    assert count_of(500, batch=9)[1] != described
    assert count_of(500, name="mine")[1] == count_of(400, name="mine")[1], "a name stands for the data"
    assert count_of(500, name="mine")[1] != count_of(500, name="other")[1]
    changed = X.clone()
    changed[7, 3] += 1e-3
    assert task_of((X, Y)).describe() != task_of((changed, Y)).describe()
    assert task_of((X, Y), metrics=functional.l1_loss).describe() != task_of((X, Y), metrics="mae").describe()
    assert "num_workers" not in str(task_of((X, Y), num_workers=1).describe())


def shifted(by: float, rows: int = 24) -> Any:
    """A function that makes three batches, of targets that are shifted."""
    return lambda: iter([(X[at : at + 8], Y[at : at + 8] + by * (at >= 8)) for at in range(0, rows, 8)])


@pytest.mark.filterwarnings("ignore:train, a function:UserWarning")
def test_data_that_a_function_makes_are_compared_by_their_first_batches() -> None:
    """Of what judges more than the first; and what an earlier version kept, shapes alone, is no other."""
    now = task_of((X, Y), shifted(0.0)).describe()
    assert same(now, task_of((X, Y), shifted(0.0)).describe())
    assert not same(now, task_of((X, Y), shifted(1.0)).describe())
    earlier = {
        **now,
        "data": {**now["data"], "valid": {k: v for k, v in now["data"]["valid"].items() if k != IDENTITY}},
    }
    assert same(earlier, now)
    trained = [task_of(make, (X, Y + 9), epoch_steps=3).describe() for make in (shifted(0.0), shifted(0.0))]
    assert same(*trained)
    assert not same(trained[0], task_of(lambda: iter([(X + 1, Y)] * 3), (X, Y + 9), epoch_steps=3).describe())


@pytest.mark.filterwarnings("ignore:train, a function:UserWarning")
def test_training_data_that_are_drawn_anew_are_compared_by_their_shapes() -> None:
    draws = torch.Generator().manual_seed(0)

    def made() -> Iterator[Any]:
        return iter([(torch.randn(8, 5, generator=draws), Y[:8])] * 3)

    first, again = (task_of(made, (X, Y), epoch_steps=3).describe() for _ in range(2))
    assert same(first, again)
    assert IDENTITY not in first["data"]["train"]


class Restless(Dataset[tuple[Tensor, Tensor]]):
    """Draws by a generator of its own."""

    def __init__(self) -> None:
        self.draws = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return 11

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return torch.randn(5, generator=self.draws), Y[row]


@pytest.mark.parametrize("form", ["data set", "loader", "function"])
def test_what_judges_is_the_same_at_each_reading(form: str) -> None:
    data = Restless()
    valid = {"data set": data, "loader": DataLoader(data, 4), "function": lambda: DataLoader(data, 4)}[form]
    with pytest.raises(TrainError, match="valid gives other samples each time that it is read"):
        task_of((X, Y), valid)


def test_time_comes_first_where_the_axis_says_so() -> None:
    x = draw(40, 6, 3)
    task = task_of((x, Y), (x[:9] + 1, Y[:9]), batch_axis=1)
    batch = first(task)
    assert batch.inputs.shape == (6, 8, 3)  # type: ignore[union-attr]
    assert task.samples(batch) == 8
    assert task.example.batch_axis == 1  # type: ignore[union-attr]
    assert task.example.inputs.shape == (6, 1, 3)  # type: ignore[union-attr]
    assert task.evaluate(lambda x: x.mean((0, 2)))["loss"] > 0


def test_augmentation_is_of_training_inputs_alone() -> None:
    def louder(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + 100 + torch.rand(len(x), 1, generator=generator)

    task = task_of((X, Y), augment=louder)
    assert first(task).inputs.min() > 90  # type: ignore[union-attr]
    assert equal(list(task.train_batches(0)), list(task.train_batches(0)))
    assert all(one.max() < 90 for one in task.calibration_inputs())  # type: ignore[union-attr]
    assert parts(next(task.valid_batches()))[0].max() < 90


def test_uneven_ends_are_left_out_in_training_and_kept_in_judging() -> None:
    task = task_of(Numbers(21), Numbers(17), batch=8)
    assert [len(batch) for batch in task.train_batches(0)] == [8, 8]
    assert [len(batch) for batch in task.valid_batches()] == [8, 9]
    loader = task_of(DataLoader(Numbers(21), 8), Numbers(17))
    assert [len(batch) for batch in loader.train_batches(0)] == [8, 8, 5]


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_of_other_sizes_are_one_sentence_wherever_they_are_read(workers: int) -> None:
    ragged = [(torch.zeros(3 if row < 8 else row), 0.0) for row in range(24)]
    task = task_of(ragged, ragged[:5], num_workers=workers)
    with pytest.raises(TrainError, match="^samples of train do not make a batch") as raised:
        list(task.train_batches(0))
    assert "\n" not in str(raised.value)


def test_a_collate_function_pads() -> None:
    ragged = [(torch.arange(1 + row % 3), float(row)) for row in range(16)]

    def pad(samples: list[tuple[Tensor, float]]) -> tuple[Tensor, Tensor]:
        rows = nn.utils.rnn.pad_sequence([row for row, _ in samples], batch_first=True)
        return rows, torch.tensor([value for _, value in samples])

    assert first(task_of(ragged, ragged[:5], collate_fn=pad)).inputs.shape[1] == 3  # type: ignore[union-attr]
    with pytest.raises(
        TrainError, match="samples of train do not make a batch .*; give them one size, or a collate_fn="
    ):
        task_of(ragged, ragged[:5])


# -- losses and metrics


def test_functions_are_computed_once_over_the_whole_split() -> None:
    calls: list[int] = []

    def spread(output: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(output))
        return (output - targets).std()

    def mean(output: Tensor, targets: Tensor) -> Tensor:
        calls.append(-len(output))
        return (output - targets).mean()

    valid = Numbers(21)
    task = task_of((X, Y), valid, metrics=[spread, nas.averaged(mean), "rmse"])
    assert task.metric_names == ("spread", "mean", "rmse", "loss")
    output, targets = valid.x[:, 0], valid.x.sum(1)
    found = task.evaluate(lambda x: x[:, 0])
    assert found["spread"] == pytest.approx(float((output - targets).std()), rel=1e-5)
    assert found["mean"] == pytest.approx(float((output - targets).mean()), rel=1e-5)
    assert found["rmse"] ** 2 == pytest.approx(found["loss"], rel=1e-5)
    assert [one for one in calls if one > 0] == [21]
    assert [one for one in calls if one < 0] == [-8, -8, -5]


LOSSES: list[tuple[Any, Any, nas.train.Divergence | None]] = [
    ("cross_entropy", Y.long().abs(), nas.KL()),
    (nn.CrossEntropyLoss(weight=torch.rand(5)), Y.long().abs(), nas.KL()),
    ("mse", X, nas.MeanSquares()),
    (nn.HuberLoss(), X, nas.MeanSquares()),
    (nn.BCEWithLogitsLoss(), (X > 0).float(), nas.Binary()),
    ("binary_cross_entropy", X > 0, nas.Binary()),
    (lambda output, targets: ((output - targets) ** 4).mean(), X, None),
]


@pytest.mark.parametrize(
    ("loss", "targets", "divergence"),
    LOSSES,
    ids=[type(loss).__name__ if callable(loss) else loss for loss, *_ in LOSSES],
)
def test_a_loss_says_how_networks_are_compared(loss: Any, targets: Tensor, divergence: Any) -> None:
    task = task_of((X, targets), (X[:30] + 1, targets[:30]), loss=loss)
    assert task.divergence == divergence
    output = draw(30, 5, seed=9)
    (batch,) = task.valid_batches()
    value = task.loss(output, batch).item()
    assert task.evaluate(lambda _: output)["loss"] == pytest.approx(value, rel=1e-5)
    named = {"cross_entropy": functional.cross_entropy, "mse": functional.mse_loss}
    given = named.get(loss, functional.binary_cross_entropy_with_logits) if isinstance(loss, str) else loss
    assert value == pytest.approx(
        float(given(output, targets[:30].float() if targets.dtype == torch.bool else targets[:30]))
    )


def test_the_loss_of_a_split_is_its_own_where_targets_do_not_count_alike() -> None:
    classes, weight = torch.arange(40) % 3, torch.tensor([0.1, 1.0, 7.0])
    classes[::4] = -100
    output = draw(40, 3, seed=2)
    for loss in (nn.CrossEntropyLoss(weight=weight), nn.CrossEntropyLoss(), "cross_entropy"):
        task = Task.of(
            (X + 1, classes), DataLoader(TensorDataset(output, classes), 7), loss=loss, metrics="accuracy", batch=8
        )
        found = task.evaluate(lambda x: x)
        given = functional.cross_entropy if isinstance(loss, str) else loss
        assert found["loss"] == pytest.approx(float(given(output, classes)), rel=1e-5)
        counted = classes >= 0
        right = (output.argmax(1) == classes)[counted].float().mean()
        assert found["accuracy"] == pytest.approx(float(right))


def test_pixels_are_compared_over_their_classes() -> None:
    images, classes = draw(12, 3, 4, 5), torch.arange(12 * 20).reshape(12, 4, 5) % 3
    task = Task.of((images, classes), (images[:5] + 1, classes[:5]), loss="cross_entropy", metrics="mean_iou", batch=4)
    assert task.logits(images).shape == (12, 4, 5, 3)
    found = task.evaluate(lambda x: x)
    assert found["loss"] == pytest.approx(float(functional.cross_entropy(images[:5] + 1, classes[:5])), rel=1e-5)


# -- what is refused

VALID = (X[:9] + 1, Y[:9])
DATA = TensorDataset(X, Y)
BAD: dict[str, tuple[Any, str]] = {
    "no pairs": (lambda: task_of(list(X)), "train gives a Tensor where a pair is expected"),
    "a pair of one": (lambda: task_of([(x,) for x in X]), "train gives a tuple where a pair is expected"),
    "a tensor": (lambda: task_of(X), "train is a Tensor and gives no samples"),
    "a generator": (lambda: task_of(item for item in [(X, Y)]), "train is a generator, which can be read once"),
    "a number": (lambda: task_of(3), "train is a int and gives no samples"),
    "sizes": (lambda: task_of((X, Y[:3])), r"train has arrays of \(40, 5\) and \(3,\); each needs as many samples"),
    "empty": (lambda: task_of((X[:0], Y[:0])), "train is empty"),
    "empty valid": (lambda: task_of((X, Y), []), "valid is empty"),
    "empty loader": (lambda: task_of(lambda: [], epoch_steps=3, exact=True), "train is empty"),
    "NaN": (lambda: task_of((X, torch.where(Y[-1] == Y, torch.nan, Y))), "train has NaN in its targets"),
    "NaN in inputs": (lambda: task_of((X, Y), (X[:9] / 0, Y[:9])), "valid has (NaN|infinity) in its inputs"),
    "NaN in a data set": (lambda: task_of([(x / 0, y) for x, y in zip(X, Y, strict=True)]), "in its inputs"),
    "one object": (lambda: task_of(*[TensorDataset(X, Y)] * 2), "train and valid have the same samples"),
    "one data set": (
        lambda: task_of(DataLoader(DATA, 8), DataLoader(DATA, 4)),
        "train and valid have the same samples",
    ),
    "one function": (lambda: task_of(*[lambda: [(X, Y)]] * 2, epoch_steps=1), "train and valid have the same samples"),
    "equal tensors": (lambda: task_of((X, Y), (X.clone(), Y.clone())), "train and valid have the same samples"),
    "shared rows": (
        lambda: task_of(Subset(DATA, range(30)), Subset(DATA, range(29, 40))),
        "train and valid have the same samples",
    ),
    "floats as classes": (lambda: task_of((X, Y), VALID, loss="cross_entropy"), "targets of type float32 .* for numbers use"),
    "negative classes": (
        lambda: task_of((X, Y.long() - 5), VALID, loss="cross_entropy"),
        "train has class -[0-9]+; classes are numbered from 0",
    ),
    "text": (lambda: task_of([("a text", 1.0)] * 9), "a sample of train is a str and no tensor"),
    "no label": (lambda: task_of({"x": X, "z": Y}), "gives a mapping with x, z, and none of labels"),
    "another name": (lambda: task_of({"x": X, "y": Y}, inputs="a"), "and no 'a' in it; inputs= names parts of it"),
    "no length": (lambda: task_of(lambda: [(X, Y)], exact=True), "does not say how many batches it gives; give epoch_steps="),
    "batch": (lambda: task_of((X, Y), batch=41), "batch=41 does not fit 40 training samples"),
    "loss": (lambda: task_of((X, Y), loss="mean_square"), "loss 'mean_square' is not one of"),
    "sums": (lambda: task_of((X, Y), loss=nn.MSELoss(reduction="sum")), "reduction='sum'; a training takes means"),
    "metric": (lambda: task_of((X, Y), metrics="acuracy"), "metric 'acuracy' is not one of .*; did you mean 'accuracy'"),
    "no name": (
        lambda: task_of((X, Y), metrics=[lambda output, targets: 0.0]),
        "metric name '<lambda>' is not an identifier.*; give a mapping of names to functions",
    ),
    "two of a name": (lambda: task_of((X, Y), metrics=["mae", "mae"]), "two metrics have one name"),
    "the loss's name": (lambda: task_of((X, Y), metrics={"loss": "mae"}), "a metric is called 'loss'"),
    "an option": (lambda: task_of((X, Y), bacth=3), "bacth.*did you mean 'batch'"),
    "loader's options": (lambda: task_of(DataLoader(Numbers(40), 8), num_workers=2), "num_workers is the DataLoader's own"),
    "what is not judged": (
        lambda: task_of((X, Y), DataLoader(Numbers(11), 8, drop_last=True)),
        "the DataLoader of valid has drop_last=True, so that some samples are not judged",
    ),
    "a data set in a tuple": (lambda: task_of((Numbers(9), Y)), "train holds a Numbers beside arrays"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_right_is_refused_in_a_sentence(case: str) -> None:
    make, sentence = BAD[case]
    with pytest.raises(TrainError, match=sentence) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_outputs_that_do_not_fit_are_refused_at_the_first_batch() -> None:
    classes = torch.arange(40) % 5
    task = Task.of((X, classes), (X[:9] + 1, classes[:9]), loss="cross_entropy", metrics="accuracy", batch=8)
    with pytest.raises(TrainError, match="targets have classes from 0 to 4 and the model gives logits of 3"):
        task.evaluate(lambda x: x[:, :3])
    with pytest.raises(TrainError, match=r"cross entropy takes logits \(n, classes\) with \(n,\)"):
        task.loss(torch.zeros(8, 5, 4, 4), first(task))
    numbers = task_of((X, Y))
    with pytest.raises(TrainError, match=r"gives \(8, 5\) for targets of \(8,\)"):
        numbers.loss(torch.zeros(8, 5), first(numbers))
    with pytest.raises(TrainError, match=r"the loss gives \(8,\) where one number is expected"):
        task_of((X, Y), loss=lambda a, b: a - b).loss(torch.zeros(8), first(numbers))


def test_an_epoch_that_ends_early_is_an_error() -> None:
    task = task_of(lambda: [(X[:8], Y[:8])] * 2, epoch_steps=5, exact=True)
    with pytest.raises(TrainError, match="epoch 0 of train gave 2 batches and 5 are expected"):
        list(task.train_batches(0))


# -- other processes


@recipe
def made() -> Task:
    return task_of((X, Y), metrics={"count": lambda output, targets: float(len(output))})


def test_a_task_pickles_or_says_how() -> None:
    assert pickle.loads(pickle.dumps(made())).describe()["batch"] == 8
    for option in (
        {"loss": lambda a, b: (a - b).mean()},
        {"metrics": {"zero": lambda a, b: 0.0}},
        {"augment": lambda x, _: x},
    ):
        with pytest.raises(
            TrainError, match="cannot be sent to another process .* decorate that with @nas.train.recipe"
        ):
            pickle.dumps(task_of((X, Y), **option))  # type: ignore[arg-type]


def test_processes_do_not_share_an_order_of_its_own() -> None:
    from nas.train.loop import Run
    from nas.train.ranks import Ranks

    class Two(Ranks):
        size = 2

    with pytest.warns(UserWarning, match="order of its own"):
        task = task_of(OWN["function"](), epoch_steps=5)
    net = nas.Supernet(nas.Space(dense(width=pg.oneof([4, 8]), outputs=1)), example=task.example)
    with pytest.raises(TrainError, match="2 processes share every batch"):
        Run(Training(net, task, steps=2), None, Two())
