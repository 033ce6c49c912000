"""Images in a folder, read by loaders with augmentation: which digit is it; accuracy against operations."""

from pathlib import Path

import numpy as np
import pyglove as pg
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import nas


class Folder(Dataset):
    """Folder/class/number.png as (1, 16, 16); moved by up to two pixels if asked for."""

    def __init__(self, folder: Path, move: bool = False) -> None:
        self.files, self.move = sorted(folder.glob("*/*.png")), move

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(np.asarray(Image.open(self.files[row]), np.float32))[None] / 128 - 1
        moved = torch.randint(-2, 3, (2,)).tolist() if self.move else [0, 0]
        return image.roll(moved, (1, 2)), int(self.files[row].parent.name)


folder = Path("runs/digits_png")
for row, (image, digit) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
    file = folder / ("train" if row < 1000 else "valid" if row < 1400 else "test") / str(digit) / f"{row}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image * 15).reshape(8, 8).astype(np.uint8)).resize((16, 16)).save(file)

train = DataLoader(Folder(folder / "train", move=True), batch_size=50, shuffle=True)
valid, test = (DataLoader(Folder(folder / part), batch_size=200) for part in ("valid", "test"))
task = nas.Task.of(train, valid, test=test, loss=nn.CrossEntropyLoss(label_smoothing=0.1), metrics="accuracy")


@nas.model
def network(width: int, kernel: int, hidden: int) -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))
    body = nn.Conv2d(width, 2 * width, kernel, padding="same"), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(stem, *body, nn.Flatten(), nn.Linear(32 * width, hidden), nn.ReLU(), nn.Linear(hidden, 10))


space = network(width=pg.oneof([4, 8, 12, 16]), kernel=pg.oneof([1, 3, 5]), hidden=pg.oneof([16, 32, 64]))
supernet = nas.Supernet(nas.Space(space), example=task.example)
training = nas.Training(supernet, task, path="runs/image_folder", steps=400, lr=3e-3, loss=nas.InPlace(labels=0.5))
study = nas.Study(
    "image_folder",
    space=supernet.space,
    objectives=["max accuracy", "min macs"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
    training=training,
    store="runs/gallery.db",
    trials=36,  # all there are
)
