"""SortedNet (Valipour et al. 2023): one set of weights for models nested in width and depth, one of them drawn each step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from compress_common.compare import trained
from runs_common.folder import kept
from soft import bits, spread

import nas
from nas.train import FixedList, Labels, as_supernet
from nas.train.text import LanguageModelling
from searchspaces import sorted_lm

BATCH, RATE = 4, 3e-3


def compare(
    task: LanguageModelling,
    folder: Path,
    *,
    seeds: int,
    steps: int,
    widths: Sequence[int],
    depths: Sequence[int],
    head: int,
    alone: bool,
) -> dict[str, Any]:
    """Bits per byte of the smallest, the middle and the largest model: nested, apart and alone.

    *Nested*: `steps` in all, each of one of the models.  *Apart*: each as a network of its own with as many steps as it had in
    the nested training on average, so that all the models together cost as many operations.  *Alone*: `steps` for each.

    Args:
        task: what is learnt.
        folder: of the runs.
        seeds: of weights and windows.
        steps: of the nested training.
        widths: of the models, every one with every depth; as many key-value heads as the width has pairs of heads.
        depths: of the models.
        head: features of a head.
        alone: the third way too, which is the most expensive.
    """
    models = [{"width": width, "kv": width // head // 2, "depth": depth} for width in widths for depth in depths]
    smallest, middle, largest = models[0], models[len(models) // 2], models[-1]
    share = steps // len(models)
    counts = {"apart": share, "alone": steps} if alone else {"apart": share}
    rows = []
    for seed in range(seeds):
        ours = dataclasses.replace(task, seed=seed, batch=BATCH)
        net = _nested(models, ours, head)
        nested = kept(
            folder / f"nested-{seed}.json",
            lambda net=net, ours=ours, seed=seed: _of_all(net, models, ours, folder / f"nested-{seed}", steps),
        )
        row = {"nested": nested}
        for name, count in counts.items():
            row[name] = {
                _name(model): kept(
                    folder / f"{name}-{_name(model)}-{seed}.json",
                    lambda model=model, ours=ours, seed=seed, name=name, count=count: {
                        "bits": _single(model, ours, head, folder / f"{name}-{_name(model)}-{seed}", count)
                    },
                )["bits"]
                for model in (smallest, middle, largest)
            }
        rows.append(row)
        print(f"SortedNet, {seed}: done", flush=True)
    return {
        "steps": {"nested": steps, **counts},
        "macs": {_name(model): net.macs(_arch(net, model), task.example) for model in models},
        **{way: {name: spread([row[way][name] for row in rows]) for name in rows[0][way]} for way in rows[0]},
        **{f"nested - {way}": _differences(rows, way) for way in counts},
    }


def _differences(rows: Sequence[dict[str, Any]], way: str) -> dict[str, list[float]]:
    return {name: spread([row["nested"][name] - row[way][name] for row in rows]) for name in rows[0][way]}


def _nested(models: Sequence[dict[str, int]], task: LanguageModelling, head: int) -> nas.Supernet:
    choices = {name: sorted({model[name] for model in models}) for name in ("width", "depth", "kv")}
    space = sorted_lm.space(
        widths=choices["width"],
        depths=choices["depth"],
        kvs=choices["kv"],
        ratios=(3,),
        head=head,
        vocabulary=task.vocabulary,
        context=task.context,
    )
    return sorted_lm.supernet(space, seed=task.seed)


def _of_all(
    net: nas.Supernet, models: Sequence[dict[str, int]], task: LanguageModelling, folder: Path, steps: int
) -> dict[str, float]:
    """Bits per byte of every model after a training of one of them a step."""
    training = nas.Training(
        net,
        task,
        path=folder,
        sampler=FixedList(models, n=1),
        loss=Labels(),
        steps=steps,
        lr=RATE,
        checkpoint_every=min(250, steps),
        validate_every=steps,
        seed=task.seed,
    )
    if not training.trained:
        print(training.run(), flush=True)
    found = training.load()
    return {_name(model): bits(found, task, _arch(found, model)) for model in models}


def _single(model: dict[str, int], task: LanguageModelling, head: int, folder: Path, steps: int) -> float:
    """Bits per byte of a network of its own."""
    torch.manual_seed(task.seed)
    net = sorted_lm.sorted_lm(**model, ratio=3, head=head, vocabulary=task.vocabulary, context=task.context)()
    done = trained(
        net,
        task,
        folder,
        steps=steps,
        lr=RATE,
        sampler=FixedList([{}]),
        checkpoint_every=min(250, steps),
        validate_every=steps,
        seed=task.seed,
    )
    whole = as_supernet(done, example=task.example)
    return bits(whole, task, whole.space.largest)


def _arch(net: nas.Supernet, model: dict[str, int]) -> nas.Arch:
    open_ = set(net.space.names)
    return net.space.arch({name: value for name, value in model.items() if name in open_})


def _name(model: dict[str, int]) -> str:
    return f"width {model['width']}, depth {model['depth']}"
