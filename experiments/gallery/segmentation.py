"""Segmentation: which pixels of a striped image belong to the digit on it; mean intersection over union against operations."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import nas


def scenes(part: slice, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 1, 16, 16) images of a digit somewhere on stripes with noise, and (n, 16, 16): 1 where a pixel is of the digit."""
    draw = np.random.default_rng(seed)
    digits, (y, x) = load_digits().images[part] / 16, np.mgrid[:16, :16]
    images, masks = np.zeros((count, 1, 16, 16), np.float32), np.zeros((count, 16, 16), np.int64)
    for image, mask in zip(images, masks, strict=True):
        angle, phase, speed = draw.uniform(0, np.pi), draw.uniform(0, 2 * np.pi), draw.uniform(0.5, 2)
        image[0] = np.sin((x * np.cos(angle) + y * np.sin(angle)) * speed + phase) + draw.normal(0, 0.3, (16, 16))
        digit, top, left = digits[draw.integers(len(digits))], *draw.integers(9, size=2)
        place = slice(top, top + 8), slice(left, left + 8)
        image[0][place] += digit * (1.5 - image[0][place])  # the stroke covers the stripes
        mask[place] = digit > 0.4
    return images, masks


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.above, self.below, self.after = convolution(1, 16), convolution(16, 32), convolution(48, 16)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.above(x)
        coarse = self.below(nn.functional.max_pool2d(fine, 2))
        return self.head(self.after(torch.cat([fine, nn.functional.interpolate(coarse, scale_factor=2)], 1)))


splits = (slice(0, 1000), 2000, 1), (slice(1000, 1400), 300, 2), (slice(1400, None), 300, 3)  # no digit is in two
task = nas.Segmentation(*(scenes(*split) for split in splits), batch=32)
torch.manual_seed(0)
model = UNet()
supernet = nas.Supernet(nas.elastic(model, task.example, granule=4), example=task.example, weights=model)
training = nas.Training(supernet, task, path="runs/segmentation", steps=400, lr=5e-3, loss=nas.InPlace(labels=0.5))

study = nas.Study(
    "segmentation",
    space=supernet.space,
    objectives=["max mean_iou", "min macs"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
    training=training,
    store="runs/gallery.db",
    trials=50,
)
