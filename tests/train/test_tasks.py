"""Tasks of a user's own data: each as every task, its metrics against scikit-learn, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyglove as pg
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

import nas
from nas.errors import TrainError
from nas.train import Batch, BytePairs, LanguageModelling, Task
from nas.train.tasks import InUnits
from tests.conformance.task import TaskConformance
from tests.train import family

torch.set_num_threads(1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@nas.model
def dense(width: int, outputs: int, inputs: int = 5) -> nn.Module:
    model = nn.Sequential(nn.Linear(inputs, width), nn.ReLU())
    model.head = nn.Linear(width, outputs)
    return model


@nas.model
def maps(width: int) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
    model.head = nn.Conv2d(width, 3, 1)
    return model


@nas.model
def tokens(width: int) -> nn.Module:
    model = nn.Sequential(nn.Embedding(11, width))
    model.head = nn.Linear(width, 11)
    return model


@nas.model
def embedder(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width))


def widths() -> Any:
    return pg.oneof([4, 8])


class TestClassification(TaskConformance):
    def make(self, **options: Any) -> Task:
        return family.blobs(**options)

    def space(self) -> nas.Space:
        return family.space()


class TestRegression(TaskConformance):
    def make(self, seed: int = 0, **options: Any) -> nas.Regression:
        x, u = draw(50, 5, seed=seed), draw(23, 5, seed=seed + 100)
        return nas.Regression((x, 30 + 10 * x.sum(1)), (u, 30 + 10 * u.sum(1)), batch=8, seed=seed, **options)

    def space(self) -> nas.Space:
        return nas.Space(dense(width=widths(), outputs=1))

    def test_metrics_are_in_units_and_those_of_scikit_learn(self) -> None:
        task = self.make()
        mean, deviation = (float(one) for one in task.scale)
        assert (mean, deviation) == pytest.approx(
            (float(task.train[1].mean()), float(task.train[1].std(correction=0))), rel=1e-5
        )
        truth = task.valid[1]
        predicted = truth + 4 * draw(23, seed=7)
        found = task.evaluate(lambda _: (predicted - mean) / deviation)
        assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, predicted), rel=1e-5)
        assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, predicted), rel=1e-5)
        assert found["r2"] == pytest.approx(sk.r2_score(truth, predicted), rel=1e-5)
        assert found["loss"] == pytest.approx((found["rmse"] / deviation) ** 2, rel=1e-5)

    def test_a_column_is_no_table(self) -> None:
        """(n, 1) outputs beside (n,) targets broadcast to (n, n) without a word."""
        task = self.make()
        truth = task.valid[1]
        scores = (truth - task.scale[0]) / task.scale[1]
        assert task.evaluate(lambda _: scores[:, None])["rmse"] == pytest.approx(0.0, abs=1e-3)
        batch = next(task.valid_batches())
        assert task.loss(scores[:, None], batch).item() == pytest.approx(0.0, abs=1e-6)
        with pytest.raises(TrainError, match=r"gives \(23, 2\) for targets of \(23,\)"):
            task.loss(scores[:, None].expand(-1, 2), batch)

    def test_a_module_in_units_gives_units(self) -> None:
        task = self.make()
        module = nn.Linear(5, 1)
        inside = task.in_units(module)
        assert isinstance(inside, InUnits)
        torch.testing.assert_close(inside(task.valid[0]), task.units(module(task.valid[0])))
        torch.testing.assert_close(task.units(torch.zeros(3)), task.scale[0].expand(3))
        assert set(inside.state_dict()) >= {"mean", "deviation"}

    @pytest.mark.parametrize("loss", [nas.Teacher, lambda module: nas.Interpolated(module, 5)])
    def test_a_teacher_in_units_is_refused(self, loss: Any) -> None:
        """Its numbers beside standardised ones would teach nonsense without a word."""
        task = self.make()
        exact = nn.Linear(5, 1)
        with torch.no_grad():
            exact.weight.fill_(10.0)
            exact.bias.fill_(30.0)
        net = nas.Supernet(self.space(), example=task.example)
        with pytest.raises(TrainError, match="the teacher gives numbers in the units of the targets"):
            nas.Training(net, task, loss=loss(exact), steps=2).run(progress=False)
        with torch.no_grad():
            exact.weight.div_(task.scale[1])
            exact.bias.sub_(task.scale[0]).div_(task.scale[1])
        nas.Training(net, task, loss=loss(exact), steps=2).run(progress=False)

    def test_candidates_are_trained_alone_and_by_a_teacher(self, tmp_path: Any) -> None:
        task = self.make()
        teacher = nas.Supernet(self.space(), example=task.example)
        trained = nas.Trained(task, tmp_path, epochs=1, teacher=teacher)
        assert tuple(trained(self.space().smallest)) == ("rmse", "mae", "r2", "loss", "epochs")
        softened = nas.Trained(task, tmp_path, epochs=1, teacher=teacher, temperature=2.0)
        with pytest.raises(
            TrainError, match="temperature=2.0, which has no effect on outputs that are compared by MeanSq"
        ):
            softened.check(self.space())

    def test_several_outputs_are_averaged(self) -> None:
        x, y = draw(40, 5), torch.stack([draw(40, seed=1), 100 * draw(40, seed=2)], 1)
        task = nas.Regression((x, y), (x + 1, y + 1), batch=8)
        predicted = task.valid[1] + draw(40, 2, seed=3)
        found = task.evaluate(lambda _: (predicted - task.scale[0]) / task.scale[1])
        assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(task.valid[1], predicted), rel=1e-4)
        assert found["r2"] == pytest.approx(sk.r2_score(task.valid[1], predicted), rel=1e-4)

    def test_the_scale_can_be_given_or_left_out(self) -> None:
        x, y = draw(40, 5), draw(40, seed=1)
        given = nas.Regression((x, y), (x + 1, y), batch=8, standardise=(2.0, 4.0))
        assert given.units(torch.ones(2)).tolist() == [6.0, 6.0]
        plain = nas.Regression((x, y), (x + 1, y), batch=8, standardise=False)
        assert plain.evaluate(lambda _: y)["rmse"] == 0.0
        assert given.describe() != plain.describe()
        with pytest.raises(TrainError, match="deviation 0.0; deviations are positive"):
            nas.Regression((x, torch.ones(40)), (x + 1, y), batch=8)


class TestSegmentation(TaskConformance):
    def make(self, seed: int = 0, **options: Any) -> nas.Segmentation:
        def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
            classes = torch.randint(0, 3, (count, 6, 7), generator=torch.Generator().manual_seed(seed))
            classes[:, 0, 0] = 255
            return draw(count, 2, 6, 7, seed=seed), classes

        return nas.Segmentation(images(20, seed), images(9, seed + 50), batch=4, seed=seed, **options)

    def space(self) -> nas.Space:
        return nas.Space(maps(width=widths()))

    def test_metrics_are_of_the_whole_split_and_those_of_scikit_learn(self) -> None:
        task = self.make()
        scores = draw(9, 3, 6, 7, seed=5)
        scores[:, 2] -= 100  # a class that is never predicted, and occurs
        found = task.evaluate(lambda _: scores)
        truth, predicted = task.valid[1].flatten(), scores.argmax(1).flatten()
        counted = truth != 255
        truth, predicted = truth[counted], predicted[counted]
        assert found["mean_iou"] == pytest.approx(sk.jaccard_score(truth, predicted, average="macro"))
        assert found["pixel_accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
        expected = functional.cross_entropy(scores, task.valid[1], ignore_index=255)
        assert found["loss"] == pytest.approx(float(expected), rel=1e-5)
        torch.testing.assert_close(task.loss(scores, next(task.valid_batches())), expected)

    def test_distillation_is_over_classes_and_not_over_the_width(self) -> None:
        task = self.make()
        student, teacher = draw(4, 3, 6, 7, seed=1), draw(4, 3, 6, 7, seed=2)
        assert task.divergence is not None
        found = task.divergence(task.logits(student), task.logits(teacher))
        log_p, log_q = teacher.log_softmax(1), student.log_softmax(1)
        torch.testing.assert_close(found, (log_p.exp() * (log_p - log_q)).sum(1).mean())

    @pytest.mark.parametrize("shape", [(4, 3, 7, 6), (4, 3), (4, 1, 6, 7)])
    def test_other_outputs_are_refused(self, shape: tuple[int, ...]) -> None:
        task = self.make()
        with pytest.raises(TrainError, match="the model gives"):
            task.loss(torch.zeros(shape), next(task.train_batches(0)))

    def test_classes_without_a_logit_are_refused(self) -> None:
        task = self.make()
        with pytest.raises(TrainError, match="class 2 and the model gives logits of 2 classes"):
            task.loss(torch.zeros(4, 2, 6, 7), next(task.train_batches(0)))


class TestMultiLabel(TaskConformance):
    def make(self, seed: int = 0, **options: Any) -> nas.MultiLabel:
        x, u = draw(50, 5, seed=seed), draw(23, 5, seed=seed + 100)
        return nas.MultiLabel((x, (x[:, :4] > 0.5).float()), (u, u[:, :4] > 0.5), batch=8, seed=seed, **options)

    def space(self) -> nas.Space:
        return nas.Space(dense(width=widths(), outputs=4))

    def test_metrics_are_those_of_scikit_learn(self) -> None:
        task = self.make()
        truth = task.valid[1].int().clone()
        truth[:, 3] = 0  # a label that does not occur
        task = nas.MultiLabel(task.train, (task.valid[0], truth), batch=8)
        scores = draw(23, 4, seed=9).round(decimals=1)  # with ties
        found = task.evaluate(lambda _: scores)
        precise = [sk.average_precision_score(truth[:, at], scores[:, at]) for at in range(3)]
        assert found["map"] == pytest.approx(np.mean(precise))
        for kind in ("micro", "macro"):
            expected = sk.f1_score(truth, scores > 0, average=kind, zero_division=0)
            assert found[f"{kind}_f1"] == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("targets", "sentence"),
        [(torch.zeros(50), r"has targets \(50,\)|targets \(8,\)"), (2 * torch.ones(50, 4), "neither 0 nor 1")],
    )
    def test_other_targets_are_refused(self, targets: Tensor, sentence: str) -> None:
        task = self.make()
        with pytest.raises(TrainError, match=sentence):
            nas.MultiLabel((task.train[0], targets), task.valid, batch=8)


class TestLanguageModel(TaskConformance):
    def make(self, seed: int = 0, **options: Any) -> nas.LanguageModel:
        source = torch.Generator().manual_seed(seed)
        train, valid = (torch.randint(0, 11, (count,), generator=source) for count in (200, 90))
        return nas.LanguageModel(train, valid, context=6, batch=4, seed=seed, **options)

    def space(self) -> nas.Space:
        return nas.Space(tokens(width=widths()))

    def test_perplexity_is_that_of_all_tokens(self) -> None:
        task = self.make()
        table = draw(11, 11, seed=3)
        found = task.evaluate(lambda inputs: table[inputs])
        stream, total = task.valid, 0.0
        for at in range(84):  # 14 windows of 6
            total -= float(table[stream[at]].log_softmax(0)[stream[at + 1]])
        assert found["loss"] == pytest.approx(total / 84, rel=1e-5)
        assert found["perplexity"] == pytest.approx(np.exp(total / 84), rel=1e-5)

    def test_labels_that_are_the_inputs_are_shifted(self) -> None:
        """Otherwise a model that copies would be perfect."""
        ids = torch.randint(0, 11, (12, 6), generator=torch.Generator().manual_seed(0))
        labels = ids.clone()
        labels[:, 4:] = -100
        task = nas.LanguageModel(
            {"input_ids": ids, "labels": labels},
            {"input_ids": ids.flip(0), "labels": ids.flip(0)},
            batch=4,
            inputs="input_ids",
        )
        batch = next(task.train_batches(0))
        assert torch.equal(batch.targets[:, :3], batch.inputs[:, 1:4])
        assert (batch.targets[:, 3:] == -100).all()
        shifted = nas.LanguageModel((ids[:, :-1], ids[:, 1:]), (ids[:5, :-1], ids[:5, 1:]), batch=4)
        again = next(shifted.train_batches(0))
        assert torch.equal(again.targets[:, :-1], again.inputs[:, 1:])
        copies = task.evaluate(lambda inputs: 50.0 * functional.one_hot(inputs, 11))
        assert copies["perplexity"] > 100

    def test_a_sequence_may_be_mapped_from_a_file(self, tmp_path: Any) -> None:
        np.arange(300, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
        mapped = np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r")
        task = nas.LanguageModel(mapped, mapped[100:], context=8, batch=4)
        batch = next(task.train_batches(0))
        assert batch.inputs.dtype == torch.int64  # type: ignore[union-attr]
        assert torch.equal(batch.targets, batch.inputs + 1)


class TestLanguageModelling(TaskConformance):
    """Text by its own tokenizer."""

    def make(self, seed: int = 0, **options: Any) -> Task:
        source = torch.Generator().manual_seed(seed)
        train, valid = (torch.randint(0, 11, (count,), generator=source) for count in (200, 90))
        return LanguageModelling(train, valid, None, BytePairs(()), context=6, batch=4, seed=seed, **options)

    def space(self) -> nas.Space:
        return nas.Space(tokens(width=widths()))


class TestEmbedding(TaskConformance):
    group = 2

    def make(self, seed: int = 0, **options: Any) -> nas.Embedding:
        x, u = draw(50, 5, seed=seed), draw(23, 5, seed=seed + 100)
        return nas.Embedding(
            (x, x + 0.3 * draw(50, 5, seed=1)), (u, u + 0.3 * draw(23, 5, seed=2)), batch=8, seed=seed, **options
        )

    def space(self) -> nas.Space:
        return nas.Space(embedder(width=widths()))

    def exact_metrics(self, task: Task) -> tuple[str, ...]:
        return ("recall_at_1", "mrr")  # the loss compares within batches

    def test_recall_is_over_the_whole_split(self) -> None:
        task = self.make(ranks=(1, 5))
        one, other = task.valid
        similar = functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T
        place = (similar > similar.diagonal()[:, None]).sum(1)
        found = task.evaluate(lambda inputs: inputs)
        assert found["recall_at_1"] == pytest.approx(float((place < 1).double().mean()))
        assert found["recall_at_5"] == pytest.approx(float((place < 5).double().mean()))
        assert found["mrr"] == pytest.approx(float((1 / (place + 1).double()).mean()))
        assert task.evaluate(lambda inputs: torch.ones(len(inputs), 3))["recall_at_1"] == 0.0, (
            "all the same finds nothing"
        )

    def test_the_loss_is_info_nce_in_both_directions(self) -> None:
        task = self.make()
        batch = next(task.train_batches(0))
        rows = functional.normalize(batch.inputs, dim=1)  # type: ignore[arg-type]
        similar = rows[0::2] @ rows[1::2].T / 0.05
        total = -sum(float(similar[at].log_softmax(0)[at] + similar[:, at].log_softmax(0)[at]) for at in range(8))
        assert task.loss(batch.inputs, batch).item() == pytest.approx(total / 16, rel=1e-5)

    def test_scores_of_pairs_are_compared_by_rank(self) -> None:
        scipy = pytest.importorskip("scipy.stats")
        task = self.make()
        scores = draw(23, seed=4).round(decimals=1)
        scored = nas.Embedding(task.train, (*task.valid, scores), batch=8)
        assert scored.metric_names == ("spearman",)
        similar = functional.cosine_similarity(*task.valid)
        expected = scipy.spearmanr(similar.numpy(), scores.numpy()).statistic
        assert scored.evaluate(lambda inputs: inputs)["spearman"] == pytest.approx(expected)
        with pytest.raises(TrainError, match="train has scores"):
            nas.Embedding((*task.valid, scores), task.valid, batch=8)

    def test_which_part_of_an_output_is_the_embedding_is_not_guessed(self) -> None:
        task, named = self.make(), self.make(output="pooler_output")
        output = {"last_hidden_state": draw(4, 7, 5), "pooler_output": draw(4, 5)}
        with pytest.raises(
            TrainError, match=r"'last_hidden_state', 'pooler_output'.* none is known to be the embedding"
        ):
            task.logits(output)
        assert named.logits(output) is output["pooler_output"]
        with pytest.raises(TrainError, match="no 'pooler_output'"):
            named.logits({"last_hidden_state": draw(4, 7, 5)})


class TestSupervised(TaskConformance):
    def make(self, seed: int = 0, **options: Any) -> Task:
        x, u = draw(50, 5, seed=seed), draw(23, 5, seed=seed + 100)
        return nas.Task.of(
            (x, x[:, :3].argmax(1)), (u, u[:, :3].argmax(1)), loss="cross_entropy", metrics=["accuracy", "f1"], batch=8,
            seed=seed, **options,
        )  # fmt: skip

    def space(self) -> nas.Space:
        return nas.Space(dense(width=widths(), outputs=3))


class Numbers(Dataset[tuple[Tensor, Tensor]]):
    """Numbered samples, with an augmentation that draws from the global generators."""

    def __init__(self, count: int, noise: float = 0.0) -> None:
        self.x, self.noise, self.read = draw(count, 5, seed=count), noise, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        self.read += 1
        x = self.x[row] + self.noise * torch.randn(5) + self.noise * float(np.random.rand())
        return x, self.x[row].sum()


class TestDataset(TaskConformance):
    """A data set that is read as it is needed."""

    def make(self, seed: int = 0, **options: Any) -> Task:
        return nas.Regression(Numbers(50, noise=0.1), Numbers(23), batch=8, seed=seed, **options)

    def space(self) -> nas.Space:
        return nas.Space(dense(width=widths(), outputs=1))


class Answer:
    """As models of Hugging Face give their output."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def test_a_model_is_called_by_the_names_of_a_mapping() -> None:
    table = draw(11, 11, seed=3)
    ids = torch.randint(0, 11, (12, 6), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": one, "attention_mask": torch.ones(6).long(), "labels": one} for one in ids]

    def model(input_ids: Tensor, attention_mask: Tensor) -> Answer:
        assert attention_mask.shape == input_ids.shape
        return Answer(table[input_ids])

    task = nas.LanguageModel(data[:8], data[8:], batch=4)
    found = task.evaluate(lambda inputs: model(**inputs))
    expected = functional.cross_entropy(table[ids[8:, :-1]].flatten(0, 1), ids[8:, 1:].flatten())
    assert found["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_metrics_of_a_batch_are_named_as_those_of_a_split() -> None:
    task = TestRegression().make()
    batch = next(task.valid_batches())
    assert set(task.metrics(torch.zeros(23), batch)) == set(task.metric_names)
    assert isinstance(batch, Batch)
