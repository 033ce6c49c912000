"""Several processes train every task as one does: each has its rows of a batch, and their gradients' sum is the batch's."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.supernet.inputs import call
from nas.train import Task
from nas.train.ranks import Group, Ranks
from nas.train.synced import synced
from tests.train import test_tasks as ours
from tests.train.ranks import Found, in_ranks

X, CLASSES = ours.draw(40, 5), torch.arange(40) % 3


def contrast(output: Tensor, targets: Tensor) -> Tensor:
    """No mean over samples."""
    near = (targets[:, None] == targets[None]).float()
    return functional.mse_loss(functional.normalize(output) @ functional.normalize(output).T, near)


def of(loss: Any) -> Task:
    classes = CLASSES.clone()
    classes[::3] = -100
    return nas.Task.of((X, classes), (X + 1, CLASSES), loss=loss, batch=10)


def padded() -> Task:
    ids = torch.arange(60).reshape(10, 6) % 11
    ids[:5, 2:] = -100  # one process has more to predict than the other
    return nas.LanguageModel((ids.clamp_min(0), ids), (ids.clamp_min(0)[:4], ids[:4]), batch=10)


CASES = {
    "regression": (ours.TestRegression().make, ours.TestRegression().space),
    "segmentation": (ours.TestSegmentation().make, ours.TestSegmentation().space),
    "labels": (ours.TestMultiLabel().make, ours.TestMultiLabel().space),
    "tokens": (ours.TestLanguageModel().make, ours.TestLanguageModel().space),
    "padded tokens": (padded, ours.TestLanguageModel().space),
    "pairs": (ours.TestEmbedding().make, ours.TestEmbedding().space),
    "a loss by name": (ours.TestSupervised().make, ours.TestSupervised().space),
    "weighed classes": (
        functools.partial(of, nn.CrossEntropyLoss(weight=torch.tensor([0.1, 1.0, 5.0]))),
        ours.TestSupervised().space,
    ),
    "a contrast": (functools.partial(of, contrast), ours.TestSupervised().space),
}


def gradients(ranks: Ranks) -> Found:
    """Of a first batch, for the labels' loss and for the divergence from other weights."""
    found: Found = {}
    for name, (make, space) in CASES.items():
        task = make()
        torch.manual_seed(0)
        model, teacher = (space().build(space().largest) for _ in range(2))
        batch = next(task.train_batches(0))
        share = ranks.share(task.samples(batch))
        part = share.of(batch, task.example) if ranks.size > 1 else batch
        for one in (model, teacher):
            one.train()
        inputs = part.inputs
        with synced(ranks, share):
            output = call(model, inputs)
            loss = task.loss(output, part)
            if task.divergence is not None:
                loss = loss + task.divergence(task.logits(output), task.logits(call(teacher, inputs)))
        (loss * share.weight).backward()
        flat = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
        total = torch.cat([flat, (loss.detach() * share.weight).double().reshape(1)])
        if ranks.size > 1:
            torch.distributed.all_reduce(total)
        found[name] = total
    return found


def in_a_group() -> Found:
    return gradients(Group())


def test_two_processes_find_the_gradient_of_one(tmp_path: Path) -> None:
    alone = gradients(Ranks())
    for found in in_ranks(2, in_a_group, tmp_path):
        assert found.keys() == alone.keys()
        for name, expected in alone.items():
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6, msg=name)
