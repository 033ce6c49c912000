"""Source code of the standard library and of installed packages as a language to model, split by package."""

from __future__ import annotations

import dataclasses
import random
import sysconfig
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

import nas
from nas.train.text import LanguageModelling

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "_bundled", "_vendor"}
MOST = 300_000
"""Characters of one package, so that no large one is most of the language."""
LEAST = 2_000
MERGES, CONTEXT, PIECE = 512, 128, 1024


def packages(folder: Path) -> dict[str, list[Path]]:
    """Source files by the package or module of the top level that they belong to."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        names = path.relative_to(folder).parts
        if not LEFT_OUT & set(names) and not names[0].startswith("__"):
            found[names[0].removesuffix(".py")].append(path)
    return found


def written(folder: Path, limit: int) -> Path:
    """A folder with one text file a package, made once; packages in an order drawn by seed 0, until `limit` characters."""
    if (folder / "whole").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    # Packages are installed where torch is, in any environment.
    roots = {"library": Path(sysconfig.get_paths()["stdlib"]), "installed": Path(torch.__file__).parent.parent}
    every = [(f"{kind}-{name}", files) for kind, root in roots.items() for name, files in packages(root).items()]
    draw, total = random.Random(0), 0
    draw.shuffle(every)
    for name, files in every:
        text = _some(draw.sample(files, len(files)))
        if len(text) >= LEAST and total < limit:
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
            total += len(text)
    (folder / "whole").touch()
    return folder


def corpus(folder: Path, *, limit: int, batch: int, seed: int = 0) -> LanguageModelling:
    """The task: no package is in two splits, which every seed has alike; a seed draws windows.

    Args:
        folder: texts and tokens are kept in it.
        limit: characters.
        batch: windows of a step.
        seed: of the windows.
    """
    texts = written(folder / "texts", limit)
    task = nas.text_files(texts, CONTEXT, batch, merges=MERGES, valid=0.05, test=0.05, cache=folder)
    return dataclasses.replace(task, seed=seed)


def shorter(task: LanguageModelling, train: int, held: int) -> LanguageModelling:
    """As many tokens of the training split, and of the others, in pieces from everywhere in them."""
    assert task.test is not None
    return dataclasses.replace(
        task, train=_pieces(task.train, train), valid=_pieces(task.valid, held), test=_pieces(task.test, held)
    )


def _pieces(tokens: Tensor, count: int) -> Tensor:
    """(about count,) tokens: pieces of `PIECE`, as far from each other."""
    whole = tokens[: len(tokens) // PIECE * PIECE].view(-1, PIECE)
    return whole[torch.linspace(0, len(whole) - 1, min(len(whole), max(1, count // PIECE))).long()].flatten()


def _some(files: list[Path]) -> str:
    """Whole files, up to `MOST` characters."""
    kept, size = [], 0
    for path in files:
        text = path.read_text(encoding="utf-8", errors="ignore")
        if size + len(text) <= MOST:
            kept.append(text)
            size += len(text)
    return "\n".join(kept)
