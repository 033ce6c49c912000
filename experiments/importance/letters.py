"""Images of letters as a task."""

from __future__ import annotations

import numpy as np
import torch

import nas


def glyphs(file: str, seed: int) -> nas.Classification:
    """26 capital letters, split by typeface: unseen typefaces are the test."""
    found = np.load(file)
    chosen = found["labels"] < 26
    images = torch.from_numpy(found["images"][chosen]).float()[:, None] / 255
    labels, faces = torch.from_numpy(found["labels"][chosen]).long(), torch.from_numpy(found["typeface"][chosen]).long()
    order = torch.randperm(int(faces.max()) + 1, generator=torch.Generator().manual_seed(seed))
    test, valid = torch.isin(faces, order[:100]), torch.isin(faces, order[100:200])
    train = ~(test | valid)
    mean, spread = images[train].mean(), images[train].std()
    images = (images - mean) / spread
    splits = [(images[rows], labels[rows]) for rows in (train, valid, test)]
    return nas.Classification(*splits, batch=64, seed=seed)
