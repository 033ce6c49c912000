"""A user's own folder of images."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from nas.errors import TrainError
from nas.train.images import Crop, class_names, image_folder
from tests.conformance.machines import MACHINES


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, red in (("dog", 30), ("cat", 220)):
        (tmp_path / name).mkdir()
        for number in range(20):
            pixels = rng.integers(0, 30, (9 + number, 14, 3), dtype=np.uint8)
            pixels[..., 0] += red
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    (tmp_path / "notes.md").write_text("not a class")
    return tmp_path


@pytest.mark.parametrize("machine", MACHINES)
def test_a_folder_is_the_same_data_on_every_machine(folder, machine):
    here = image_folder(folder, 8, 10).describe()
    with MACHINES[machine]():
        assert image_folder(folder, 8, 10).describe() == here


def test_a_folder_becomes_a_standardised_stratified_task(folder):
    task = image_folder(folder, 8, 10, valid=0.2, test=0.1)
    parts = (task.train, task.valid, task.test)
    assert [len(part[0]) for part in parts] == [28, 8, 4]
    assert class_names(folder) == ["cat", "dog"]
    for images, classes in parts:
        assert images.shape[1:] == (3, 8, 8)
        assert torch.bincount(classes).tolist() == [len(classes) // 2] * 2
        assert torch.equal(images[:, 0].mean((1, 2)) < 0, classes == 1)  # dogs have less red
    assert task.train[0].mean((0, 2, 3)).abs().max() < 1e-5
    assert (task.train[0].std((0, 2, 3)) - 1).abs().max() < 1e-4
    again, other = (image_folder(folder, 8, 10, seed=seed) for seed in (0, 1))
    assert torch.equal(image_folder(folder, 8, 10).train[0], again.train[0])
    assert not torch.equal(again.train[0], other.train[0])
    assert pickle.loads(pickle.dumps(task)).describe() == task.describe()


def test_grey_images_have_one_channel_and_no_test_is_none(folder):
    task = image_folder(folder, 6, 4, grey=True, test=0.0)
    assert task.example.shape == (1, 1, 6, 6)
    assert task.test is None


def test_the_longer_side_is_cut_in_the_middle(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(4):
            pixels = np.zeros((4, 12, 3), np.uint8)
            pixels[:, 4:8] = 200 + number
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    task = image_folder(tmp_path, 4, 2, valid=0.25, test=0.0)
    assert all(float(image.max() - image.min()) < 1e-4 for image in task.train[0])  # nothing of the dark sides


def test_crops_and_mirrors_come_from_the_generator():
    images = torch.arange(2.0 * 3 * 6 * 6).reshape(2, 3, 6, 6)
    make = [Crop(2, flip=True)(images, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*make)
    mirrored = Crop(0)(images.repeat(20, 1, 1, 1), torch.Generator().manual_seed(0))
    kept = [torch.equal(image, images[index % 2]) for index, image in enumerate(mirrored)]
    turned = [torch.equal(image, images[index % 2].flip(2)) for index, image in enumerate(mirrored)]
    assert all(left != right for left, right in zip(kept, turned, strict=True))
    assert 10 < sum(kept) < 30
    assert torch.equal(Crop(0, flip=False)(images, torch.Generator()), images)


def test_bad_folders_get_one_sentence(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(TrainError, match="is not a folder"):
        image_folder(empty / "none")
    with pytest.raises(TrainError, match="has 0 folders"):
        image_folder(empty)
    with pytest.raises(TrainError, match="smaller batch"):
        image_folder(folder, batch=64)
    with pytest.raises(TrainError, match="nothing to train on"):
        image_folder(folder, valid=0.0)
    with pytest.raises(TrainError, match="crop=40"):
        image_folder(folder, 32, crop=40)
    (folder / "dog" / "3.png").write_bytes(b"no image")
    with pytest.raises(TrainError, match=r"3.png' cannot be read as an image"):
        image_folder(folder, batch=4)
    (folder / "bird").mkdir()
    with pytest.raises(TrainError, match="bird' has no image"):
        image_folder(folder, batch=4)
