"""Metrics of a split, however it is cut into batches, are those of a second computation over all of it at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor

import nas
from nas.errors import TrainError
from nas.train import meters

torch.set_num_threads(1)


def measured(meter: meters.Meter, scores: Tensor, targets: Tensor, cuts: Sequence[int]) -> dict[str, float]:
    edges = [0, *sorted({cut % len(scores) for cut in cuts} - {0}), len(scores)]
    for start, stop in itertools.pairwise(edges):
        meter.add(scores[start:stop], targets[start:stop])
    return meter.result()


CUTS = st.lists(st.integers(0, 1000), max_size=5)
SEED = st.integers(0, 10_000)


@given(SEED, CUTS, st.sampled_from([0.0, 1e6]))
@settings(max_examples=25, deadline=None)
def test_errors(seed: int, cuts: list[int], offset: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randn(17, generator=draw).double() + offset  # far from zero, sums of squares would cancel
    scores = targets + torch.randn(17, generator=draw)
    found = measured(meters.Errors(("mse", "rmse", "mae", "r2")), scores, targets, cuts)
    assert found["mse"] == pytest.approx(sk.mean_squared_error(targets, scores))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(targets, scores))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(targets, scores))
    assert found["r2"] == pytest.approx(sk.r2_score(targets, scores), rel=1e-6)


@given(SEED, CUTS)
@settings(max_examples=25, deadline=None)
def test_confusion(seed: int, cuts: list[int]) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores, targets = torch.randn(19, 4, generator=draw), torch.randint(0, 4, (19,), generator=draw)
    predicted = scores.argmax(1)
    found = measured(meters.Confusion(("mean_iou", "accuracy", "f1")), scores, targets, cuts)
    assert found["mean_iou"] == pytest.approx(sk.jaccard_score(targets, predicted, average="macro"))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(targets, predicted))
    assert found["f1"] == pytest.approx(sk.f1_score(targets, predicted, average="macro"))


@given(SEED, CUTS, st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_calibration_error(seed: int, cuts: list[int], bins: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores, targets = 3 * torch.randn(23, 4, generator=draw), torch.randint(-1, 4, (23,), generator=draw)
    found = measured(meters.CalibrationError(bins, ignore=-1), scores, targets, cuts)
    rows = [(softmax(one.tolist()), int(target)) for one, target in zip(scores, targets, strict=True) if target >= 0]
    total = 0.0
    for at in range(bins):  # as defined: bins of the highest probability, each with its upper end
        within = [(max(p), p.index(max(p)) == true) for p, true in rows if at / bins < max(p) <= (at + 1) / bins]
        if within:
            total += abs(sum(right for _, right in within) - sum(sure for sure, _ in within))
    assert found["calibration_error"] == pytest.approx(total / len(rows))


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(one - max(row)) for one in row]
    return [one / sum(powers) for one in powers]


@given(SEED, CUTS)
@settings(max_examples=25, deadline=None)
def test_labels(seed: int, cuts: list[int]) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(21, 3, generator=draw).round(decimals=0)  # many ties
    targets = torch.randint(0, 2, (21, 3), generator=draw)
    found = measured(meters.Labels(), scores, targets, cuts)
    there = [at for at in range(3) if targets[:, at].any()]
    precise = [sk.average_precision_score(targets[:, at], scores[:, at]) for at in there]
    assert found["map"] == pytest.approx(np.mean(precise))
    assert found["micro_f1"] == pytest.approx(sk.f1_score(targets, scores > 0, average="micro", zero_division=0))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(targets, scores > 0, average="macro", zero_division=0))


@given(SEED, CUTS)
@settings(max_examples=20, deadline=None)
def test_neighbours(seed: int, cuts: list[int]) -> None:
    rows = torch.randn(26, 3, generator=torch.Generator().manual_seed(seed))
    meter, found, reciprocal = meters.Neighbours((1, 3)), {1: 0, 3: 0}, 0.0
    edges = [0, *sorted({2 * (cut % 13) for cut in cuts} - {0}), 26]
    for start, stop in itertools.pairwise(edges):
        meter.add(rows[start:stop], None)
    for query, item in zip(rows[0::2], rows[1::2], strict=True):
        closer = sum(
            bool(torch.cosine_similarity(query, other, 0) > torch.cosine_similarity(query, item, 0))
            for other in rows[1::2]
        )
        for rank in found:
            found[rank] += closer < rank
        reciprocal += 1 / (closer + 1)
    recall = {f"recall_at_{rank}": pytest.approx(count / 13) for rank, count in found.items()}
    assert meter.result() == {**recall, "mrr": pytest.approx(reciprocal / 13)}


def test_means_weigh_and_leave_out_what_has_no_target() -> None:
    meter = meters.Mean("loss", lambda scores, _: scores.mean(), lambda targets: float(len(targets)))
    meter.add(torch.tensor([1.0]), torch.zeros(1))
    meter.add(torch.tensor([math.nan]), torch.zeros(0))
    meter.add(torch.tensor([4.0, 4.0]), torch.zeros(2))
    assert meter.result() == {"loss": 3.0}
    assert math.isnan(meters.Mean("loss", torch.sub, lambda _: 0.0).result()["loss"])


def test_constant_targets_have_the_r2_of_scikit_learn() -> None:
    for scores in (torch.ones(4), torch.arange(4.0)):
        found = measured(meters.Errors(("r2",)), scores, torch.ones(4), [2])
        assert found["r2"] == sk.r2_score(torch.ones(4), scores)


def test_whole_metrics_take_any_form_or_say_what_else_to_do() -> None:
    meter = meters.Whole("sizes", lambda output, targets: len(output["a"]) + len(targets[1]))
    for _ in range(2):
        meter.add({"a": torch.zeros(3)}, (torch.zeros(3), torch.zeros(3, 2)))
    assert meter.result() == {"sizes": 12.0}
    ragged = meters.Whole("sizes", lambda *_: 0.0)
    ragged.add(torch.zeros(2, 3), torch.zeros(2))
    ragged.add(torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(TrainError, match="metric 'sizes' is computed over the whole split.*give nas.averaged"):
        ragged.result()


def test_classes_without_a_logit_are_not_counted_as_others() -> None:
    with pytest.raises(TrainError, match="classes from 0 to 3 and the model gives logits of 2"):
        meters.Confusion(("accuracy",)).add(torch.zeros(4, 2), torch.arange(4))


def test_one_output_is_no_metric_of_classes() -> None:
    """Softmax of one logit is 1, and the largest of one the first, whatever is right."""
    for meter in (meters.CalibrationError(), meters.Confusion(("accuracy",))):
        for targets in (torch.tensor([0, 1, 1]), torch.zeros(3, dtype=torch.long)):
            with pytest.raises(TrainError, match="the model gives one output a sample"):
                meter.add(torch.randn(3, 1), targets)


def test_a_class_without_an_output_has_no_calibration_error() -> None:
    with pytest.raises(TrainError, match="classes from 0 to 3 and the model gives logits of 3"):
        meters.CalibrationError().add(torch.randn(2, 3), torch.tensor([0, 3]))
    meters.CalibrationError(ignore=255).add(torch.randn(2, 3), torch.tensor([0, 255]))


@pytest.mark.parametrize("make", [meters.CalibrationError, lambda: meters.Tokens(-100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probabilities_are_not_taken_for_logits(make: Callable[[], meters.Meter], dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    logits, targets = 3 * torch.randn(24, 5, generator=draw), torch.randint(0, 5, (24,), generator=draw)
    likely = torch.softmax(logits, -1)
    with pytest.raises(TrainError, match="all 24 outputs of the model are probabilities.*give their logarithms"):
        measured(make(), likely.to(dtype), targets, [3, 9])
    assert measured(make(), likely.log(), targets, []) == pytest.approx(measured(make(), logits, targets, []), rel=1e-5)
    assert measured(make(), torch.cat([likely, logits]), targets.repeat(2), [24])  # not all of them
    assert measured(make(), likely[:4], targets[:4], [])  # too few to say


def test_a_binary_model_of_one_logit_is_told_so() -> None:
    x = torch.randn(40, 4)
    y = (x[:, 0] > 0).long()

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(output[:, 0], targets.float())

    task = nas.Task.of((x[:20], y[:20]), (x[20:], y[20:]), loss=loss, metrics=["calibration_error"], batch=10)
    with pytest.raises(TrainError, match="the model gives one output a sample"):
        task.evaluate(torch.nn.Linear(4, 1))
