"""Text to train language models on: the standard library's own source, or files of yours, in byte-pair tokens."""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
import json
import math
import re
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas import files
from nas.checking import checked
from nas.errors import TrainError
from nas.identity import added
from nas.train.divergences import KL, Divergence
from nas.train.task import Batch, Forward, Split, Task, mixed, pieces, recipe

PIECES = re.compile(r"\n+ *| ?[^\W\d]+| ?\d{1,3}| ?[^\s\w]+|\s")
"""What a token never crosses: an indented line's beginning, a word, up to three digits, signs; every character is in one."""


@dataclass(frozen=True)
class BytePairs:
    """A byte-pair tokenizer (Sennrich et al. 2016): 256 bytes, one token a merge, and one for the end of a file.

    Args:
        merges: pairs of tokens; the i-th becomes token 256 + i.
    """

    merges: tuple[tuple[int, int], ...]

    @classmethod
    def train(cls, texts: Iterable[str], merges: int = 512) -> BytePairs:
        """The most frequent pair becomes a token, `merges` times; of equally frequent ones the smallest.

        Fewer merges come back where no pair occurs twice.
        """
        pieces = Counter(piece for text in texts for piece in PIECES.findall(text))
        words = [(list(piece.encode()), count) for piece, count in sorted(pieces.items())]
        counts: Counter[tuple[int, int]] = Counter()
        places: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        for index, (word, count) in enumerate(words):
            _count(word, count, index, counts, places)
        found: list[tuple[int, int]] = []
        while len(found) < merges and counts:
            pair = min(counts, key=lambda each: (-counts[each], each))
            if counts[pair] < 2:
                break
            for index in places.pop(pair):
                word, count = words[index]
                _count(word, -count, index, counts, None)
                word[:] = _merge(word, pair, 256 + len(found))
                _count(word, count, index, counts, places)
            counts.pop(pair, None)
            found.append(pair)
        return cls(tuple(found))

    @functools.cached_property
    def tokens(self) -> list[bytes]:
        """The bytes of each token; none for the end of a file."""
        known = [bytes([byte]) for byte in range(256)]
        for left, right in self.merges:
            known.append(known[left] + known[right])
        return [*known, b""]

    @property
    def end(self) -> int:
        """The token of the end of a file."""
        return 256 + len(self.merges)

    @functools.cached_property
    def _ranks(self) -> dict[tuple[int, int], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    def encode(self, text: str) -> np.ndarray:
        """Tokens of a text, int32."""
        known: dict[str, list[int]] = {}
        ids: list[int] = []
        for piece in PIECES.findall(text):
            if piece not in known:
                known[piece] = self._encode(piece.encode())
            ids += known[piece]
        return np.array(ids, np.int32)

    def _encode(self, piece: bytes) -> list[int]:
        word, last = list(piece), len(self.merges)
        while len(word) > 1:
            rank = min(self._ranks.get(pair, last) for pair in itertools.pairwise(word))
            if rank == last:
                break
            word = _merge(word, self.merges[rank], 256 + rank)
        return word

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens; bytes that are no UTF-8 become �."""
        return b"".join(self.tokens[int(token)] for token in ids).decode(errors="replace")


def _count(
    word: Sequence[int],
    count: int,
    index: int,
    counts: Counter[tuple[int, int]],
    places: defaultdict[tuple[int, int], set[int]] | None,
) -> None:
    """Add a word's pairs to the counts, or take them away."""
    for pair in itertools.pairwise(word):
        counts[pair] += count
        if places is not None:
            places[pair].add(index)
        elif not counts[pair]:
            del counts[pair]


def _merge(word: Sequence[int], pair: tuple[int, int], token: int) -> list[int]:
    """`word` with every `pair` in it, from the left, made one token."""
    merged: list[int] = []
    place = 0
    while place < len(word):
        if tuple(word[place : place + 2]) == pair:
            merged.append(token)
            place += 2
        else:
            merged.append(word[place])
            place += 1
    return merged


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class LanguageModelling(Task):
    """Predicting the next token, in windows of a fixed length.

    An epoch's windows do not overlap; where they begin and their order depend on `(seed, epoch)`.  Metrics are the mean
    cross entropy of a token in nats (`loss`) and `bits_per_byte`, which does not depend on the tokenizer: all bits of a split
    divided by all bytes, the end of a file being a token of no bytes.

    Args:
        train: tokens, (length,) int64.
        valid: the same, for the search.
        test: the same, for the end; None if there is none.
        tokenizer: that made them.
        context: tokens a window.
        batch: windows a training batch.
        seed: of the windows.

    Raises:
        TrainError: a split is shorter than a window, or the training split than a batch.
    """

    train: Tensor
    valid: Tensor
    test: Tensor | None
    tokenizer: BytePairs
    context: int = 128
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.context < 1 or self.batch < 1:
            raise TrainError(f"context={self.context} and batch={self.batch} must be 1 or more")
        for name, tokens, windows in (
            ("train", self.train, self.batch + 1),
            ("valid", self.valid, 1),
            ("test", self.test, 1),
        ):
            least = windows * self.context + 1
            if tokens is not None and len(tokens) < least:
                raise TrainError(
                    f"{name} has {len(tokens)} tokens and context={self.context}, batch={self.batch} need {least}; "
                    "give more text or a shorter context"
                )

    @property
    def vocabulary(self) -> int:
        """Number of different tokens."""
        return len(self.tokenizer.tokens)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of windows, wherever the first begins."""
        return (len(self.train) - 1 - self.context) // self.context // self.batch

    @property
    def example(self) -> Tensor:
        """First training window: (1, context)."""
        return self.train[None, : self.context]

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Bits per byte first."""
        return ("bits_per_byte", "loss")

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Shuffled windows of one epoch."""
        generator = torch.Generator().manual_seed(mixed(self.seed, epoch))
        first = int(torch.randint(self.context, (1,), generator=generator))
        windows = (len(self.train) - 1 - first) // self.context
        order = torch.randperm(windows, generator=generator)[: self.steps_per_epoch * self.batch]
        for rows in torch.split(order, self.batch):  # whole ones
            yield self._windows(self.train, first + rows * self.context)

    def valid_batches(self) -> Iterator[Batch]:
        """The validation split in order."""
        return self._in_order(self.valid)

    def test_batches(self) -> Iterator[Batch]:
        """The test split in order."""
        return self._in_order(self.test) if self.test is not None else iter(())

    def calibration_inputs(self) -> Iterator[Tensor]:
        """The first training windows."""
        starts = torch.arange(min(64, self.steps_per_epoch * self.batch)) * self.context
        yield self.train[starts[:, None] + torch.arange(self.context)]

    def divided(self, share: float, batch: int | None = None) -> tuple[Task, Task]:
        """The last tokens of the training split are held out."""
        cut = round((1 - share) * len(self.train))
        first = replace(self, train=self.train[:cut])
        return first, replace(self, train=self.train[cut:], batch=self.batch if batch is None else batch)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Cross entropy of a token, in nats."""
        return functional.cross_entropy(self.logits(output).flatten(0, -2), batch.targets.flatten())

    def metrics(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Of one batch; `evaluate` takes the bytes of the whole split instead of the batch's."""
        loss = functional.cross_entropy(self.logits(output).float().flatten(0, -2), batch.targets.flatten())
        return {"bits_per_byte": loss / math.log(2) / self._bytes(batch.targets), "loss": loss}

    @torch.no_grad()
    def evaluate(
        self, forward: Forward, split: Split = "valid", *, device: torch.device | str = "cpu"
    ) -> dict[str, float]:
        """Bits per byte and cross entropy over a split; see `Task.evaluate`."""
        measured = super().evaluate(forward, split, device=device)
        tokens = self.valid if split == "valid" else self.test
        assert tokens is not None
        windows = (len(tokens) - 1) // self.context
        each = float(self._bytes(tokens[1 : 1 + windows * self.context]))
        return {"bits_per_byte": measured["loss"] / math.log(2) / each, "loss": measured["loss"]}

    @property
    def divergence(self) -> Divergence:
        """Of distributions over tokens."""
        return KL()

    def describe(self) -> dict[str, Any]:
        """Sizes, options and a digest of the data."""
        digest = hashlib.blake2b(digest_size=8)
        for tokens in (self.train, self.valid):
            digest.update(tokens.numpy().tobytes())
        return {
            "class": type(self).__qualname__,
            "tokens": [len(self.train), len(self.valid)],
            "vocabulary": self.vocabulary,
            "context": self.context,
            "batch": self.batch,
            "seed": self.seed,
            "data": digest.hexdigest(),
            **added(self),
        }

    @functools.cached_property
    def _sizes(self) -> Tensor:
        return torch.tensor([len(token) for token in self.tokenizer.tokens], dtype=torch.float32)

    def _bytes(self, tokens: Tensor) -> Tensor:
        """Mean bytes of a token."""
        return self._sizes.to(tokens.device)[tokens].mean()

    def _windows(self, tokens: Tensor, starts: Tensor) -> Batch:
        rows = tokens[starts[:, None] + torch.arange(self.context + 1)]  # (n, context + 1)
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())

    def _in_order(self, tokens: Tensor) -> Iterator[Batch]:
        starts = torch.arange((len(tokens) - 1) // self.context) * self.context
        for some in pieces(starts, max(self.batch, 32)):
            yield self._windows(tokens, some)


@recipe
@checked(TrainError)
def python_corpus(
    context: int = 128,
    batch: int = 16,
    *,
    merges: int = 512,
    limit: int = 3_000_000,
    valid: float = 0.05,
    test: float = 0.05,
    seed: int = 0,
    cache: str | Path | None = None,
) -> LanguageModelling:
    """The source text of Python's standard library, without its tests: whole files train, validate or test.

    Which files there are depends on the Python version: compare figures of one version only.

    Args:
        context: tokens a window.
        batch: windows a training batch.
        merges: of the tokenizer, which is trained on the training files.
        limit: characters to take, in files that depend on `seed`; a few files' worth may be missing to it.
        valid: fraction of the files' text for the search.
        test: fraction for the end.
        seed: of the choice and split of files, and of the windows.
        cache: folder to keep the tokens in; None computes them (seconds) each time.

    Raises:
        TrainError: the splits leave too little.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "_bundled"}
    paths = [path for path in sorted(root.rglob("*.py")) if not left_out & set(path.relative_to(root).parts)]
    texts = {str(path.relative_to(root)): path.read_text(encoding="utf-8", errors="replace") for path in paths}
    return _task(
        texts,
        context=context,
        batch=batch,
        merges=merges,
        limit=limit,
        fractions=(valid, test),
        seed=seed,
        cache=cache,
    )


@recipe
@checked(TrainError)
def text_files(
    folder: str | Path,
    context: int = 128,
    batch: int = 16,
    *,
    pattern: str = "*.txt",
    merges: int = 512,
    limit: int | None = None,
    valid: float = 0.05,
    test: float = 0.05,
    seed: int = 0,
    cache: str | Path | None = None,
) -> LanguageModelling:
    """Your own text files: whole files train, validate or test.

    Args:
        folder: is searched with all folders in it.
        context: tokens a window.
        batch: windows a training batch.
        pattern: of the files' names.
        merges: of the tokenizer, which is trained on the training files.
        limit: characters to take; None is all.
        valid: fraction of the text for the search.
        test: fraction for the end.
        seed: of the split of files, and of the windows.
        cache: folder to keep the tokens in; None computes them each time.

    Raises:
        TrainError: there is no such folder, too few files in it, one that is not UTF-8, or too little text.
    """
    root = Path(folder)
    if not root.is_dir():
        raise TrainError(f"'{root}' is not a folder; give one with text files in it")
    texts = {}
    for path in sorted(path for path in root.rglob(pattern) if path.is_file()):
        try:
            texts[str(path.relative_to(root))] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise TrainError(f"'{path}' is not UTF-8 text (byte {error.start}); convert it, or leave it out") from None
    if len(texts) < 3:
        raise TrainError(f"'{root}' has {len(texts)} files like '{pattern}'; a split by file needs 3 or more")
    return _task(
        texts,
        context=context,
        batch=batch,
        merges=merges,
        limit=limit,
        fractions=(valid, test),
        seed=seed,
        cache=cache,
    )


def _task(
    texts: Mapping[str, str],
    *,
    context: int,
    batch: int,
    merges: int,
    limit: int | None,
    fractions: tuple[float, float],
    seed: int,
    cache: str | Path | None,
) -> LanguageModelling:
    """The task of some files."""
    valid, test = fractions
    if valid <= 0.0 or test < 0.0 or valid + test >= 1.0:
        raise TrainError(f"valid={valid} and test={test} leave nothing to train on; give fractions with a sum below 1")
    if merges < 0:
        raise TrainError(f"merges={merges} is negative")
    splits = split_by_file(texts, limit, fractions, seed)
    tokenizer, tokens = _tokenized(splits, merges, cache)
    train, search, held = (torch.from_numpy(each.astype(np.int64)) for each in tokens)
    return LanguageModelling(train, search, held if len(held) else None, tokenizer, context, batch, seed)


def split_by_file(
    texts: Mapping[str, str], limit: int | None, fractions: tuple[float, float], seed: int
) -> tuple[list[str], list[str], list[str]]:
    """Texts to train on, to validate on and to test with: each file in one of them, in an order that depends on `seed`.

    A file that would go beyond `limit` is left out.  Each file goes where most is missing, so that large ones do not make the
    small splits larger than they should be.
    """
    shares = (1.0 - sum(fractions), *fractions)
    order = heapq.nsmallest(len(texts), texts, key=lambda name: mixed("file", seed, name))
    kept, total = [], 0
    for name in order:
        if limit is None or total + len(texts[name]) <= limit:
            kept.append(name)
            total += len(texts[name])
    splits: tuple[list[str], list[str], list[str]] = ([], [], [])
    sizes = [0, 0, 0]
    for name in kept:
        text = texts[name]
        missing = [share * total - size if share else -math.inf for share, size in zip(shares, sizes, strict=True)]
        fits = [index for index in (1, 2) if missing[index] >= len(text)]
        place = max(fits, key=lambda index: missing[index]) if fits else 0
        splits[place].append(text)
        sizes[place] += len(text)
    return splits


def _tokenized(
    splits: Sequence[Sequence[str]], merges: int, cache: str | Path | None
) -> tuple[BytePairs, list[np.ndarray]]:
    """A tokenizer trained on the first split, and the tokens of all; from `cache` where it has them."""
    if cache is None:
        return _tokenize(splits, merges)
    digest = hashlib.blake2b(f"{merges} {PIECES.pattern}".encode(), digest_size=12)
    for split in splits:
        digest.update(json.dumps(split).encode())
    path = Path(cache) / f"tokens-{digest.hexdigest()}.npz"
    if not path.exists():
        tokenizer, tokens = _tokenize(splits, merges)
        with files.explained(path, TrainError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.replacing(path) as half:
                np.savez(half, np.array(tokenizer.merges, np.int32).reshape(-1, 2), *tokens)
        return tokenizer, tokens
    with np.load(path, allow_pickle=False) as kept:
        pairs, *arrays = (kept[f"arr_{index}"] for index in range(4))
    return BytePairs(tuple((int(left), int(right)) for left, right in pairs)), arrays


def _tokenize(splits: Sequence[Sequence[str]], merges: int) -> tuple[BytePairs, list[np.ndarray]]:
    tokenizer = BytePairs.train(splits[0], merges)
    end = np.array([tokenizer.end], np.int32)
    none = np.zeros(0, np.int32)
    return tokenizer, [
        np.concatenate([none, *(part for text in split for part in (tokenizer.encode(text), end))]) for split in splits
    ]
