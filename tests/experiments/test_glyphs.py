"""Rendering fonts, and the task of their images (`experiments/glyphs`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch

GLYPHS = Path(__file__).parents[2] / "experiments" / "glyphs"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(GLYPHS.parent))
    import glyphs.letters

    return glyphs.letters  # type: ignore[no-any-return]


def render(folder: Path, to: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(GLYPHS / "render.py"), str(folder), "--to", str(to)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fonts, to = tmp_path_factory.mktemp("fonts"), tmp_path_factory.mktemp("to") / "glyphs.npz"
    for name in ("DejaVuSans", "DejaVuSansMono-Bold", "DejaVuSerif-Italic", "STIXSizOneSymReg"):
        (fonts / f"{name}.ttf").write_bytes((FONTS / f"{name}.ttf").read_bytes())
    (fonts / "again.ttf").write_bytes((FONTS / "DejaVuSans.ttf").read_bytes())
    (fonts / "broken.ttf").write_bytes(b"no font")
    done = render(fonts, to)
    assert done.returncode == 0, done.stderr
    left = {"lacks a character": 1, "repeats another": 1, "cannot be read": 1}
    assert json.loads(done.stdout) == {"typefaces": 3, "images": 186, "left out": left}
    return to


def test_images_fill_fourteen_pixels_and_are_centred(file: Path) -> None:
    data: Any = np.load(file)
    assert data["images"].shape == (186, 16, 16)
    assert (data["labels"] == np.tile(np.arange(62), 3)).all()
    for image in data["images"]:
        rows, columns = np.nonzero(image.max(1))[0], np.nonzero(image.max(0))[0]
        sides = [np.ptp(one) + 1 for one in (rows, columns)]
        assert 13 <= max(sides) <= 14, "an edge may round to black"
        assert all(abs((one[0] + one[-1]) - 15) <= 2 for one in (rows, columns))
    assert (
        list(data["names"]) == ["DejaVuSans", "DejaVuSansMono-Bold", "DejaVuSerif-Italic"] or "again" in data["names"]
    )


def test_a_folder_without_fonts_is_refused(tmp_path: Path) -> None:
    done = render(tmp_path, tmp_path / "glyphs.npz")
    assert done.returncode == 1
    assert "has no font that can be used (no file ends with .ttf" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "glyphs.npz").exists()


def test_splits_are_of_typefaces_and_classes_are_those_asked_for(tmp_path: Path, letters: ModuleType) -> None:
    images = np.repeat(np.arange(1300, dtype=np.uint8)[:, None, None] % 251, 62, 0)
    images = np.broadcast_to(images, (1300 * 62, 16, 16)).copy()
    images[:, 0, 0] = np.tile(np.arange(62), 1300)
    labels, faces = np.tile(np.arange(62), 1300), np.repeat(np.arange(1300), 62)
    np.savez(tmp_path / "made.npz", images=images, labels=labels, typeface=faces)
    task = letters.glyphs(
        tmp_path / "made.npz", seed=0, characters=letters.CAPITALS_AND_DIGITS, train=32, valid=2, test=3
    )
    batches = list(task.train_batches(0))
    assert sum(len(batch.targets) for batch in batches) == 32 * 36
    for batch in batches:  # each image says which character it is
        characters = torch.tensor(letters.CAPITALS_AND_DIGITS)[batch.targets]
        assert torch.equal((batch.inputs[:, 0, 0, 0] * 255).round().long(), characters)
    small = letters.glyphs(tmp_path / "made.npz", seed=0, side=8, train=2, valid=1, test=1)
    assert small.example.shape[1:] == (1, 8, 8)
