"""Images of characters as a task, split by typeface: unseen typefaces are the difficulty.

The file is an `.npz` with `images` (n, 16, 16) of bytes, `labels`, an index into `A…Za…z0…9`, and `typeface`; `render.py` makes
one from any folder of fonts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import nas

CAPITALS = tuple(range(26))
CAPITALS_AND_DIGITS = (*range(26), *range(52, 62))
ALL = tuple(range(62))


def glyphs(
    file: Path | str,
    *,
    seed: int,
    characters: tuple[int, ...] = ALL,
    side: int = 16,
    train: int = 1000,
    valid: int = 100,
    test: int = 222,
    batch: int = 64,
    calibration: int = 512,
) -> nas.Classification:
    """A task of these characters; which typefaces are in a split does not depend on the seed.

    Args:
        file: see above.
        seed: of the order of the batches.
        characters: classes.
        side: 16, or 8: pixels are averaged.
        train: typefaces to train with, at most 1,000.
        valid: typefaces that decide, at most 200.
        test: typefaces that judge, at most 222.
        batch: images a step.
        calibration: images that BatchNorm statistics are taken from.
    """
    data = np.load(file)
    typeface = data["typeface"]
    order = np.random.default_rng(0).permutation(typeface.max() + 1)
    class_of = torch.full((len(ALL),), -1)
    class_of[list(characters)] = torch.arange(len(characters))
    labels = class_of[torch.from_numpy(data["labels"]).long()]

    def some(begin: int, count: int) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(np.isin(typeface, order[begin : begin + count])) & (labels >= 0)
        images = torch.from_numpy(data["images"][rows.numpy()]).float()[:, None] / 255
        return functional.avg_pool2d(images, images.shape[-1] // side), labels[rows]

    splits = some(0, train), some(1000, valid), some(1200, test)
    return nas.Classification(*splits, batch=batch, calibration=calibration, seed=seed)
