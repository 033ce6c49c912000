"""Data that needs no download: scikit-learn's handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas.checking import Natural, checked
from nas.errors import TrainError
from nas.train.task import Classification, recipe


@checked(TrainError)
@dataclass(frozen=True)
class Shift:
    """Moves each image by up to `pixels` in each direction; what comes in from outside is `fill`."""

    pixels: int
    fill: float = 0.0

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        n, _, height, width = images.shape
        padded = functional.pad(images, [self.pixels] * 4, value=self.fill)
        top, left = torch.randint(0, 2 * self.pixels + 1, (2, n, 1, 1, 1), generator=generator)
        rows = top + torch.arange(height).view(1, 1, -1, 1)  # (n, 1, h, 1)
        columns = left + torch.arange(width)  # (n, 1, 1, w)
        channels = torch.arange(images.shape[1]).view(1, -1, 1, 1)
        return padded[torch.arange(n).view(-1, 1, 1, 1), channels, rows, columns]


@recipe
@checked(TrainError)
def digits(
    batch: int = 64, *, valid: int = 297, test: int = 500, seed: Natural = 0, smoothing: float = 0.0, shift: int = 0
) -> Classification:
    """The 1,797 digits of scikit-learn: 8×8 grey images, ten classes (UCI "Optical Recognition of Handwritten Digits").

    Pixels are standardised by the training split's mean and deviation.  The splits are stratified and depend on `seed`
    alone; by default 1,000 images train, 297 validate, 500 test.

    Args:
        batch: samples a training batch.
        valid: images held out for the search.
        test: images held out for the end.
        seed: of the split, the order of the batches and the augmentation.
        smoothing: label smoothing.
        shift: training images are moved by up to this many pixels; 0 is no augmentation.

    Raises:
        TrainError: the splits leave no training data.
    """
    images, classes = _images_and_classes()
    if valid < 10 or test < 10 or len(images) - valid - test < batch:
        raise TrainError(
            f"valid={valid} and test={test} leave {len(images) - valid - test} of {len(images)} digits to train on"
        )
    if not 0 <= shift <= 4:
        raise TrainError(f"shift={shift} is not between 0 and 4 pixels of an 8-pixel image")
    order = stratified(classes, np.random.default_rng(seed))
    parts = np.split(order, [test, test + valid])
    mean, deviation = (one.numpy()[0] for one in mean_and_deviation(torch.from_numpy(images[parts[2]])[:, None]))
    scaled = torch.from_numpy((images - mean) / deviation).unsqueeze(1)  # (n, 1, 8, 8)
    labels = torch.from_numpy(classes)
    held, search, train = ((scaled[rows], labels[rows]) for rows in map(torch.from_numpy, parts))
    augment = Shift(shift, float(-mean / deviation)) if shift else None  # the background is pixel value 0
    return Classification(train, search, held, batch=batch, smoothing=smoothing, seed=seed, augment=augment)


@cache
def _images_and_classes() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(1797, 8, 8) from 0 to 16 and (1797,); read once, from text."""
    from sklearn.datasets import load_digits

    source = load_digits()
    return source.images.astype(np.float32), source.target.astype(np.int64)


def mean_and_deviation(pixels: Tensor, *, correction: int = 0) -> tuple[Tensor, Tensor]:
    """(c,) float32 mean and deviation of each channel of (n, c, h, w) whole numbers up to 255.

    Sums of whole numbers are exact, so that the same images are the same data on every processor: a training and a study compare
    a digest of them.  `correction` as torch's `std`.
    """
    axes, count = (0, 2, 3), pixels[:, 0].numel()
    total, squares = (one.sum(axes, dtype=torch.float64) for one in (pixels, pixels.square()))
    variance = (squares * count - total.square()).clamp_min(0) / count / (count - correction)
    return (total / count).float(), variance.sqrt().float()


def stratified(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order in which every prefix holds each class in its share: rank within the class, scaled, decides."""
    place = np.empty(len(classes))
    for label in np.unique(classes):
        rows = np.flatnonzero(classes == label)
        place[rows] = (rng.permutation(len(rows)) + rng.random()) / len(rows)
    return np.argsort(place, kind="stable")
