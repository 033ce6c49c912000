from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
import torch

from nas.errors import TrainError
from nas.train import Batch, Classification, Shift, digits
from nas.train.data import mean_and_deviation
from nas.train.task import logits, mixed, to_device
from tests.conformance.machines import MACHINES
from tests.train.family import blobs


@pytest.mark.parametrize("machine", MACHINES)
def test_digits_are_the_same_data_on_every_machine(machine) -> None:
    with MACHINES[machine]():
        there = [digits(seed=seed).describe() for seed in range(3)]
    assert there == [digits(seed=seed).describe() for seed in range(3)]
    pixels = torch.randint(0, 256, (7, 2, 3, 4), generator=torch.Generator().manual_seed(0)).float()
    for correction in (0, 1):
        found = mean_and_deviation(pixels, correction=correction)
        exact = pixels.double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(found[0], exact.mean(1).float())
        torch.testing.assert_close(found[1], exact.std(1, correction=correction).float())


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    task = blobs()
    first, again = list(task.train_batches(3)), list(task.train_batches(3))
    assert all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets) for a, b in zip(first, again, strict=True)
    )
    other, reseeded = next(task.train_batches(4)), next(blobs(seed=1).train_batches(3))
    assert not torch.equal(first[0].inputs, other.inputs)
    assert not torch.equal(first[0].inputs, reseeded.inputs)


def test_an_epoch_holds_every_sample_once_without_the_ragged_end() -> None:
    task = blobs(n=70, batch=16)
    rows = torch.cat([batch.inputs for batch in task.train_batches(0)]).flatten(1)
    assert task.steps_per_epoch == 4
    assert len(rows) == 64
    assert len({tuple(row) for row in rows.tolist()}) == 64


def test_batches_do_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    task = digits(shift=1)
    list(task.train_batches(0)), list(task.calibration_inputs())
    assert torch.equal(before, torch.get_rng_state())


def test_digits_are_split_without_overlap_stratified_and_standardised() -> None:
    task = digits()
    assert task.test is not None
    parts = (task.train, task.valid, task.test)
    assert [len(part[0]) for part in parts] == [1000, 297, 500]
    assert sum(len(part[0]) for part in parts) == 1797
    for images, classes in parts:
        assert images.shape[1:] == (1, 8, 8)
        share = torch.bincount(classes, minlength=10) / len(classes)
        assert share.min() > 0.09
        assert share.max() < 0.115
    assert task.train[0].mean().abs() < 1e-5
    assert (task.train[0].std() - 1).abs() < 1e-3
    assert torch.equal(digits().test[0], task.test[0])  # type: ignore[index]
    assert not torch.equal(digits(seed=1).test[0], task.test[0])  # type: ignore[index]


def test_every_digit_is_in_exactly_one_split() -> None:
    from sklearn.datasets import load_digits

    task = digits()
    assert task.test is not None
    ours = torch.cat([task.train[0], task.valid[0], task.test[0]]).flatten(1)
    source = torch.from_numpy(load_digits().images).float().flatten(1)
    pixels = (ours - ours.min()) / (ours.max() - ours.min()) * 16
    assert sorted(map(tuple, pixels.round().tolist())) == sorted(map(tuple, source.tolist()))


def test_shift_moves_whole_images_and_fills_the_rest() -> None:
    images = torch.rand(200, 2, 4, 5) + 1.0
    moved = Shift(1, fill=-7.0)(images, torch.Generator().manual_seed(0))
    seen = set()
    for before, after in zip(images, moved, strict=True):
        found = [
            (dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if torch.equal(after, _shifted(before, dy, dx, -7.0))
        ]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) == 9


def _shifted(image: torch.Tensor, dy: int, dx: int, fill: float) -> torch.Tensor:
    out = torch.full_like(image, fill)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                out[:, y, x] = image[:, y + dy, x + dx]
    return out


def test_a_recipe_pickles_as_the_call_and_other_data_as_tensors() -> None:
    task = digits(batch=32, seed=3, shift=1)
    packed = pickle.dumps(task)
    assert len(packed) < 300
    copy = pickle.loads(packed)
    assert copy.describe() == task.describe()
    assert torch.equal(next(copy.train_batches(2)).inputs, next(task.train_batches(2)).inputs)
    mine = blobs()
    assert torch.equal(pickle.loads(pickle.dumps(mine)).train[0], mine.train[0])


def test_evaluate_weighs_samples_not_batches() -> None:
    torch.manual_seed(0)
    images, classes = torch.randn(300, 1, 8, 8), torch.arange(300) % 10  # evaluated as 256 + 44
    task = Classification((images, classes), (images, classes), batch=16)
    assert [len(batch) for batch in task.valid_batches()] == [256, 44]
    weight = torch.randn(64, 10)
    scores = images.flatten(1) @ weight
    found = task.evaluate(lambda inputs: inputs.flatten(1) @ weight)
    assert found["accuracy"] == pytest.approx((scores.argmax(1) == classes).float().mean().item())
    expected = -torch.log_softmax(scores, 1)[torch.arange(300), classes].mean().item()
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_description_sees_every_pixel() -> None:
    a, b = blobs(), blobs()
    assert a.describe() == b.describe()
    b.train[0][5, 0, 3, 3] += 1e-3
    assert a.describe() != Classification(b.train, b.valid, b.test, batch=16).describe()


def test_logits_are_found_in_what_models_return() -> None:
    scores = torch.zeros(2, 3)
    for output in (scores, {"logits": scores}, SimpleNamespace(logits=scores), (scores, "more")):
        assert logits(output) is scores
    with pytest.raises(TrainError, match="list without .logits.*loss=nas.Labels"):
        logits([1, 2])


def test_moving_keeps_the_structure() -> None:
    batch = Batch({"ids": torch.zeros(2, 3), "names": ["a", "b"]}, (torch.zeros(2), None))
    moved = batch.to("meta")
    assert moved.inputs["ids"].is_meta  # type: ignore[call-overload, index]
    assert moved.inputs["names"] == ["a", "b"]  # type: ignore[call-overload, index]
    assert moved.targets[0].is_meta
    assert len(batch) == 2
    assert to_device("text", "meta") == "text"


def test_seeds_differ_in_every_part() -> None:
    seeds = [mixed(*parts) for parts in ((0, 1), (1, 0), (0, "1", 2), ("archs", 0))]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mixed(0, 1) == 9221934688551543782  # the same in every process and version


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch": 65}, "batch=65 does not fit 64 training samples"),
        ({"smoothing": 1.0}, r"smoothing=1.0 is not in \[0, 1\)"),
        ({"valid": (torch.zeros(3, 1), torch.zeros(2))}, "valid has 3 inputs and 2 classes"),
    ],
)
def test_data_that_does_not_fit_is_refused(change: dict[str, object], sentence: str) -> None:
    task = blobs()
    with pytest.raises(TrainError, match=sentence):
        Classification(**{"train": task.train, "valid": task.valid, "batch": 16, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (
            torch.zeros(64),
            "train has classes of type float32 and shape .64,.; give .n,. whole numbers, or use nas.Regression",
        ),
        (torch.zeros(64, 1).long(), "and shape .64, 1."),
        (torch.arange(64) - 1, "train has class -1; classes are numbered from 0"),
    ],
)
def test_targets_that_are_no_classes_are_refused(classes: torch.Tensor, sentence: str) -> None:
    task = blobs()
    with pytest.raises(TrainError, match=sentence):
        Classification((task.train[0], classes), task.valid, batch=16)


def test_logits_that_do_not_fit_the_classes_are_refused() -> None:
    task = blobs()
    batch = next(task.train_batches(0))
    for judge in (task.loss, task.metrics):
        with pytest.raises(TrainError, match=r"expected are \(n, classes\); nas.Segmentation takes classes of pixels"):
            judge(torch.zeros(16, 10, 4, 4), batch)
        with pytest.raises(TrainError, match="the data have class 9 and the model gives logits of 9 classes"):
            judge(torch.zeros(16, 9), batch)


def test_splits_that_are_not_there_are_refused() -> None:
    task = blobs()
    with pytest.raises(TrainError, match="split 'vali' is not one of 'valid', 'test'; did you mean 'valid'"):
        task.evaluate(torch.flatten, "vali")  # type: ignore[arg-type]
    untested = Classification(task.train, task.valid, batch=16)
    with pytest.raises(TrainError, match="no test data"):
        untested.evaluate(torch.flatten, "test")
    with pytest.raises(TrainError, match="leave 7 of 1797 digits"):
        digits(valid=1290)
    with pytest.raises(TrainError, match="shift=5"):
        digits(shift=5)


def test_arrays_are_tensors() -> None:
    x, y = torch.rand(8, 3), torch.arange(8) % 2
    tensors = Classification((x, y), (x + 1, y), batch=4)
    arrays = Classification((x.double().numpy(), y.numpy().astype("uint8")), (x.numpy() + 1, y.int().numpy()), batch=4)
    assert arrays.describe() == tensors.describe()


@pytest.mark.parametrize(
    "given",
    [
        ((torch.rand(8, 3), torch.rand(8, 3)), torch.arange(8)),
        {"x": torch.rand(8, 3), "labels": torch.arange(8)},
        torch.utils.data.TensorDataset(torch.rand(8, 3), torch.arange(8)),
        None,
    ],
)
def test_other_data_are_told_where_they_are_taken(given: object) -> None:
    with pytest.raises(TrainError, match=r"nas.Task.of\(train, valid, loss='cross_entropy', metrics='accuracy'\)"):
        Classification(given, given)
