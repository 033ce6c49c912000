"""What a training step of several exits costs beside one of the full model."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

import nas
from nas.train import Labels, trunk
from nas.train.exits import ExitMean, SortedExits
from nas.train.losses import Step
from nas.train.text import LanguageModelling


def cost_of_exits(net: nas.Supernet, task: LanguageModelling, rounds: int) -> dict[str, Any]:
    """Median over rounds of forward and backward of all exits over those of the full model, in this process's own time.

    Args:
        net: sorted language models that differ in depth.
        task: gives the batch.
        rounds: that are measured, after two that warm up.
    """
    net.train()
    batch = next(task.train_batches(0))
    exits = SortedExits().archs(net.space, 0, random.Random(0))

    def seconds(archs: Sequence[nas.Arch], loss: nas.train.Loss) -> float:
        step = Step(0, task, net.space, list(archs), archs[0])
        net.zero_grad()
        begun = time.process_time()
        for group in trunk.groups(net, archs):
            total = torch.zeros(())
            for step.arch, output in trunk.outputs(net, group, batch.inputs):
                total = total + loss(output, batch, step)
            total.backward()
        return time.process_time() - begun

    ratios = []
    for _ in range(2 + rounds):
        whole = seconds(exits[:1], Labels())
        ratios.append(seconds(exits, ExitMean()) / whole)
    low, _, high = statistics.quantiles(ratios[2:], n=4)
    full = net.macs(exits[0], task.example)
    head = task.context * net.get_parameter("embedding.weight").numel()
    return {
        "time": round(statistics.median(ratios[2:]), 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "macs": round((full + (len(exits) - 1) * head) / full, 3),
    }
