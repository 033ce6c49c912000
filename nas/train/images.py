"""A folder of your own images, one folder a class; Pillow reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas.checking import checked
from nas.errors import TrainError
from nas.train.data import Shift, mean_and_deviation, stratified
from nas.train.task import Classification, recipe

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Crop:
    """A random crop after padding by `pixels` (He et al. 2016), and a mirror image of every other one where `flip` is true."""

    pixels: int
    flip: bool = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        if self.pixels:
            images = Shift(self.pixels)(images, generator)  # the mean, which is 0, comes in from outside
        if self.flip:
            mirrored = torch.rand(len(images), generator=generator) < 0.5
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        return images


@recipe
@checked(TrainError)
def image_folder(
    folder: str | Path,
    size: int = 32,
    batch: int = 64,
    *,
    grey: bool = False,
    valid: float = 0.1,
    test: float = 0.1,
    crop: int = 4,
    flip: bool = True,
    smoothing: float = 0.0,
    seed: int = 0,
) -> Classification:
    """The images of `folder/CLASS/…`; classes are numbered in the order of their names.

    The shorter side is resized to `size`, the middle is cut out, channels are standardised by the training split's mean and
    deviation.  Splits are stratified and depend on `seed` alone.  All images are held in memory as float32:
    12 · size² bytes each.

    Args:
        folder: with one folder a class.
        size: height and width that the images get.
        batch: samples a training batch.
        grey: one channel instead of three.
        valid: fraction of the images held out for the search.
        test: fraction held out for the end; 0 is none.
        crop: training images are padded by this many pixels and cropped at random; 0 does not.
        flip: mirror half of the training images, anew each time.
        smoothing: label smoothing.
        seed: of the split, the order of the batches and the augmentation.

    Raises:
        TrainError: Pillow is not installed; there is no such folder; it has no two classes; a class has no image; a file
            cannot be read; the splits leave no batch to train on.
    """
    if size < 1 or not 0 <= crop <= size:
        raise TrainError(f"size={size} and crop={crop}: the size is 1 or more, the crop's padding 0 to that many")
    if valid <= 0.0 or test < 0.0 or valid + test >= 1.0:
        raise TrainError(f"valid={valid} and test={test} leave nothing to train on; give fractions with a sum below 1")
    files, labels = _listed(Path(folder))
    counts = [round(share * len(files)) for share in (test, valid)]
    if min(counts[1], len(files) - sum(counts) - batch + 1) < 1:
        raise TrainError(
            f"'{folder}' has {len(files)} images: {counts[1]} to validate on, {counts[0]} to test with and "
            f"{len(files) - sum(counts)} to train on, with batch={batch}; give more images or a smaller batch"
        )
    pixels = torch.from_numpy(np.stack([_read(path, size, grey) for path in files])).permute(0, 3, 1, 2).float()
    classes = torch.from_numpy(labels)
    held, search, train = np.split(stratified(labels, np.random.default_rng(seed)), np.cumsum(counts))
    mean, deviation = (one.view(1, -1, 1, 1) for one in mean_and_deviation(pixels[train], correction=1))
    deviation = deviation.clamp_min(1.0)  # of 255; a blank channel has none
    scaled = (pixels - mean) / deviation
    return Classification(
        (scaled[train], classes[train]),
        (scaled[search], classes[search]),
        (scaled[held], classes[held]) if len(held) else None,
        batch=batch,
        smoothing=smoothing,
        seed=seed,
        augment=Crop(crop, flip) if crop or flip else None,
    )


@checked(TrainError)
def class_names(folder: str | Path) -> list[str]:
    """Names of the classes that `image_folder` numbers 0, 1, …

    Raises:
        TrainError: there is no such folder, or it has no two classes.
    """
    root = Path(folder)
    if not root.is_dir():
        raise TrainError(f"'{root}' is not a folder; give one with a folder of images for each class")
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise TrainError(f"'{root}' has {len(names)} folders; give one for each class, two or more")
    return names


def _listed(root: Path) -> tuple[list[Path], np.ndarray]:
    """Every image and its class."""
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names(root)):
        found = [path for path in sorted((root / name).rglob("*")) if path.suffix.lower() in SUFFIXES]
        if not found:
            raise TrainError(f"'{root / name}' has no image; a class needs files that end in {', '.join(SUFFIXES)}")
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, np.int64)


def _read(path: Path, size: int, grey: bool) -> np.ndarray:
    """One image: (size, size, channels) uint8."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise TrainError("reading images needs Pillow; install it: pip install 'supernas[images]'") from None
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
            fitted = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        raise TrainError(f"'{path}' cannot be read as an image ({error}); repair it, or take it out") from None
    return np.asarray(fitted, np.uint8).reshape(size, size, -1)
