"""What `nas.Task.of` and `nas.Training` cost beside a loop written by hand, on images that are read from files.

One network, one loss, one optimizer; both read the same PNG files by the same data set, shift them at random, shuffle, clip
gradients and measure 500 images at the end.  What is compared is everything around that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import nas
from nas.train import as_supernet

BATCH, LR = 64, 2e-3


class Folder(Dataset[tuple[Tensor, int]]):
    """The images of `folder/CLASS/NAME.png`, moved at random by up to `shift` pixels."""

    def __init__(self, folder: Path, shift: int) -> None:
        self.files, self.shift = sorted(folder.glob("*/*.png")), shift

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        with Image.open(self.files[row]) as image:
            pixels = torch.from_numpy(np.asarray(image, np.float32) / 255)[None]
        if self.shift:
            down, right = torch.randint(-self.shift, self.shift + 1, (2,)).tolist()
            pixels = pixels.roll((down, right), (1, 2))
        return pixels, int(self.files[row].parent.name)


def write(folder: Path, count: int, side: int, seed: int) -> None:
    """`count` of scikit-learn's digits as PNG files of `side` pixels."""
    digits, rng = load_digits(), np.random.default_rng(seed)
    for number, row in enumerate(rng.integers(0, len(digits.images), count)):
        where = folder / str(digits.target[row])
        where.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((digits.images[row] * 15.9).astype(np.uint8))
        image.resize((side, side), Image.Resampling.BICUBIC).save(where / f"{number:05d}.png")


def network() -> nn.Module:
    """Images (n, 1, side, side) -> logits (n, 10)."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def by_hand(train: Folder, valid: Folder, epochs: int, workers: int) -> float:
    """The loop that a training script has; its accuracy."""
    model = network()
    loader = DataLoader(train, BATCH, shuffle=True, drop_last=True, num_workers=workers)
    steps = epochs * len(loader)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps)
    model.train()
    for _ in range(epochs):
        for images, classes in loader:
            loss = functional.cross_entropy(model(images), classes)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loss.item()  # what a log takes, and what notices a loss that is not finite
    model.eval()
    right = 0
    with torch.no_grad():
        for images, classes in DataLoader(valid, BATCH, num_workers=workers):
            right += int((model(images).argmax(1) == classes).sum())
    return right / len(valid)


def by_task(train: Folder, valid: Folder, epochs: int, workers: int) -> float:
    """The same by this library."""
    task = nas.Task.of(train, valid, loss="cross_entropy", metrics="accuracy", batch=BATCH, num_workers=workers)
    net = as_supernet(network(), example=task.example)
    steps = epochs * task.steps_per_epoch
    training = nas.Training(
        net, task, steps=steps, lr=LR, sampler=nas.Uniform(1), loss=nas.Labels(), validate_every=steps
    )
    return float(training.run(progress=False).history["largest_accuracy"].iloc[-1])


def main() -> None:
    """Measure, interleaved, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="few images, one repeat")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="processes that read")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, epochs, repeats = (200, 1, 1) if options.smoke else (options.images, options.epochs, options.repeats)
    ways: dict[str, Callable[[Folder, Folder, int, int], float]] = {"by_hand": by_hand, "by_task": by_task}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    accuracy: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for split, count, seed in (("train", images, 0), ("valid", max(20, images // 10), 1)):
            write(Path(folder) / split, count, options.side, seed)
        train, valid = Folder(Path(folder) / "train", 4), Folder(Path(folder) / "valid", 0)
        warm = Path(folder) / "warm"
        write(warm, 2 * BATCH, options.side, 2)
        for way in ways.values():  # imports what is imported late
            way(Folder(warm, 1), Folder(Path(folder) / "valid", 0), 1, 0)
        for repeat in range(repeats):
            for name, way in list(ways.items())[:: 1 if repeat % 2 == 0 else -1]:
                begun, processor = time.perf_counter(), time.process_time()
                accuracy[name] = way(train, valid, epochs, options.workers)
                wall[name].append(time.perf_counter() - begun)
                spent[name].append(time.process_time() - processor)
                print(
                    f"repeat {repeat}: {name} {wall[name][-1]:.2f} s, processor {spent[name][-1]:.2f} s",
                    file=sys.stderr,
                )
    seen = images * epochs
    speeds = {name: [seen / one for one in values] for name, values in spent.items()}
    ratios = [hand / task for hand, task in zip(spent["by_hand"], spent["by_task"], strict=True)]
    walls = [hand / task for hand, task in zip(wall["by_hand"], wall["by_task"], strict=True)]
    print(
        json.dumps(
            {
                "experiment": "data_loading",
                "images": images,
                "epochs": epochs,
                "workers": options.workers,
                "repeats": repeats,
                **{
                    f"{name}_images_per_processor_s": round(statistics.median(values), 1)
                    for name, values in speeds.items()
                },
                "ratio": round(statistics.median(ratios), 3),
                "ratio_spread": [round(min(ratios), 3), round(max(ratios), 3)],
                "wall_ratio": round(statistics.median(walls), 3),
                "accuracy": {name: round(value, 3) for name, value in accuracy.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
