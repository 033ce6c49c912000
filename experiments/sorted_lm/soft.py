"""Sorted fine-tuning of a trained decoder (SoFT: Kavehzadeh et al. 2024, "Sorted LLaMA") beside plain fine-tuning."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from runs_common.folder import kept
from torch import Tensor, nn

import nas
from nas.decode import greedy, speculative
from nas.train import FixedList, Labels
from nas.train.exits import ExitMean, SortedExits
from nas.train.text import LanguageModelling
from searchspaces import sorted_lm

WAYS: Mapping[str, tuple[nas.train.Sampler, nas.train.Loss]] = {
    "sorted": (SortedExits(), ExitMean()),
    "plain": (FixedList([{}]), Labels()),
}
BATCH, RATE = 4, 1e-3


def compare(
    task: LanguageModelling,
    model: nn.Module,
    folder: Path,
    *,
    seeds: int,
    steps: int,
    new: int,
    prompts: int,
    drafters: Sequence[int],
    drafts: Sequence[int],
) -> dict[str, Any]:
    """Bits per byte of every exit, and what drafting gives, of both fine-tunings; mean and deviation over the seeds.

    Args:
        task: that the model was trained on; a seed draws other windows of it.
        model: a trained Llama.
        folder: of the runs.
        seeds: of the fine-tunings.
        steps: of each.
        new: tokens that are generated, after as many of a prompt.
        prompts: from the test split.
        drafters: exits that draft.
        drafts: numbers of drafted tokens.
    """
    before = kept(folder / "pretrained.json", lambda: {"bits": exits(sorted_lm.pretrained(model), task)})
    texts = _prompts(task, new, prompts)

    def measure(way: str, seed: int) -> dict[str, Any]:
        ours = dataclasses.replace(task, seed=seed + 1, batch=BATCH)  # the decoder has seen the windows of seed 0
        net = fine_tuned(model, ours, way, folder / f"{way}-{seed}", steps)
        full: Any = net.extract(net.space.largest)
        pairs = itertools.product(drafters, drafts)
        table = {f"exit {exit_}, draft {draft}": drafting(full, texts, new, exit_, draft) for exit_, draft in pairs}
        return {"bits": exits(net, task), "draft": table}

    rows: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for seed, way in itertools.product(range(seeds), WAYS):
        rows[way].append(kept(folder / f"{way}-{seed}.json", functools.partial(measure, way, seed)))
        print(f"fine-tuning, {way}, {seed}: done", flush=True)
    return {"pretrained": before["bits"], "steps": steps, **{way: _means(rows[way]) for way in WAYS}}


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds of everything."""
    first = rows[0]
    return {
        "bits": {depth: spread([row["bits"][depth] for row in rows]) for depth in first["bits"]},
        "first - last exit": spread([row["bits"]["1"] - row["bits"][max(row["bits"], key=int)] for row in rows]),
        "draft": {
            name: {key: spread([row["draft"][name][key] for row in rows]) for key in one}
            for name, one in first["draft"].items()
        },
    }


def fine_tuned(model: nn.Module, task: LanguageModelling, way: str, folder: Path, steps: int) -> nas.Supernet:
    """The decoder's supernet after one of `WAYS`; a training in `folder` goes on, or is taken as it is if it has ended."""
    sampler, loss = WAYS[way]
    training = nas.Training(
        sorted_lm.pretrained(model),
        task,
        path=folder,
        sampler=sampler,
        loss=loss,
        steps=steps,
        lr=RATE,
        checkpoint_every=min(100, steps),
        validate_every=steps,
        seed=task.seed,
    )
    if not training.trained:
        print(training.run(), flush=True)
    return training.load()


def exits(net: nas.Supernet, task: LanguageModelling) -> dict[str, float]:
    """Bits per byte of every depth on the test split."""
    depths = net.space.decisions[0].labels
    return {str(depth): bits(net, task, net.space.arch({"depth": depth})) for depth in depths}


def bits(net: nas.Supernet, task: LanguageModelling, arch: nas.Arch) -> float:
    """Bits per byte of one arch on the test split."""
    net.eval()
    return task.evaluate(lambda tokens: net(tokens, arch), "test")["bits_per_byte"]


def drafting(model: Any, texts: Sequence[Tensor], new: int, exit_: int, draft: int) -> dict[str, float]:
    """What an exit's drafts give: greedy generation and drafting take turns, and both must give the same tokens."""
    wall, cpu, accepted, passes, replayed = [], [], 0, 0, 0
    greedy(model, texts[0], new)  # warms up
    for text in texts:
        plain, slow = _timed(lambda text=text: greedy(model, text, new))
        fast, quick = _timed(lambda text=text: speculative(model, text, new, exit_=exit_, draft=draft))
        assert torch.equal(plain.tokens, fast.tokens)
        wall.append(slow[0] / quick[0])
        cpu.append(slow[1] / quick[1])
        accepted, passes, replayed = accepted + fast.accepted, passes + fast.passes, replayed + fast.replayed
    return {
        "accepted_per_pass": accepted / passes,
        "speed_up_wall": statistics.median(wall),
        "speed_up_cpu": statistics.median(cpu),
        "replayed_per_token": replayed / (new * len(texts)),
    }


def spread(values: Sequence[float]) -> list[float]:
    """Mean and standard deviation."""
    return [round(statistics.mean(values), 4), round(statistics.stdev(values), 4) if len(values) > 1 else 0.0]


def _timed(generate: Any) -> tuple[Any, tuple[float, float]]:
    """What is generated, and its seconds: of the wall, and of this process's own work."""
    begun = time.perf_counter(), time.process_time()
    found = generate()
    return found, (time.perf_counter() - begun[0], time.process_time() - begun[1])


def _prompts(task: LanguageModelling, length: int, count: int) -> list[Tensor]:
    """Pieces of the test split, as far from each other."""
    assert task.test is not None
    starts = torch.linspace(0, len(task.test) - length, count).long().tolist()
    return [task.test[start : start + length][None] for start in starts]
