"""Words with glosses and hypernyms: WordNet's nouns, or Python's exceptions where that is enough.

Fellbaum 1998, "WordNet: An Electronic Lexical Database"; the format of its files is that of `man 5 wndb`.  Similarity of two
senses is that of Wu & Palmer 1994, "Verb Semantics and Lexical Selection": twice the depth of the deepest sense that is above
both, divided by the sum of the lengths of the two ways from the root through it.
"""

from __future__ import annotations

import builtins
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

UP = ("@", "@i")
"""Pointers to a hypernym, and to what something is an instance of."""


class Missing(Exception):
    """There is no WordNet where it was said to be."""


@dataclass(frozen=True)
class Sense:
    """A synset."""

    words: tuple[str, ...]
    gloss: str
    above: tuple[int, ...]
    """Its hypernyms, as places in the list of senses."""


def nouns(folder: Path) -> list[Sense]:
    """The nouns of `data.noun`, in its order.

    Raises:
        Missing: the folder has none.
    """
    file = folder / "data.noun"
    if not file.is_file():
        raise Missing(f"{folder} has no data.noun; `apt-get install wordnet-base` puts it into /usr/share/wordnet")
    lines = [line for line in file.read_text(encoding="latin-1").splitlines() if not line.startswith("  ")]
    places = {line[:8]: place for place, line in enumerate(lines)}
    return [_sense(line, places) for line in lines]


def _sense(line: str, places: dict[str, int]) -> Sense:
    """offset lexfile type count(hex) (word id)… count (symbol offset type ends)… | gloss."""
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    words = int(fields[3], 16)
    first = 5 + 2 * words  # of the pointers
    pointers = (fields[at : at + 4] for at in range(first, first + 4 * int(fields[first - 1]), 4))
    above = tuple(places[offset] for symbol, offset, kind, _ in pointers if symbol in UP and kind == "n")
    return Sense(tuple(fields[4 : 4 + 2 * words : 2]), gloss.split('; "')[0].strip(), above)


def exceptions() -> list[Sense]:
    """Python's own exceptions: documentation as glosses, bases as hypernyms."""
    found = [one for one in vars(builtins).values() if isinstance(one, type) and issubclass(one, BaseException)]
    found = sorted(set(found), key=lambda one: (len(one.__mro__), one.__name__))
    return [
        Sense(
            (one.__name__,),
            str(one.__doc__).split("\n", 1)[0],
            tuple(found.index(base) for base in one.__bases__ if base in found),
        )
        for one in found
    ]


def tokens(texts: Sequence[str], vocabulary: int, length: int) -> np.ndarray:
    """(n, length) numbers of words: a hash from 1 to `vocabulary` − 1, and 0 after the last word."""
    table = np.zeros((len(texts), length), dtype=np.int64)
    for row, text in zip(table, texts, strict=True):
        words = re.findall(r"[a-z0-9]+", text.lower())[:length]
        row[: len(words)] = [1 + zlib.crc32(word.encode()) % (vocabulary - 1) for word in words]
    return table


class Taxonomy:
    """How similar senses are."""

    def __init__(self, senses: Sequence[Sense]) -> None:
        self._senses = senses
        self._known: dict[int, dict[int, int]] = {}

    def above(self, place: int) -> dict[int, int]:
        """Every sense above one, and itself, with the length of the shortest way there."""
        if place not in self._known:
            found = {place: 0}
            for parent in self._senses[place].above:
                for sense, steps in self.above(parent).items():
                    found[sense] = min(found.get(sense, steps + 1), steps + 1)
            self._known[place] = found
        return self._known[place]

    def depth(self, place: int) -> int:
        """Senses on the shortest way to a root: 1 for a root."""
        return 1 + min(steps for sense, steps in self.above(place).items() if not self._senses[sense].above)

    def similarity(self, one: int, other: int) -> float:
        """Wu & Palmer's, from 0 (nothing in common) to 1 (the same sense)."""
        left, right = self.above(one), self.above(other)
        common = [(self.depth(sense), -left[sense] - right[sense]) for sense in left.keys() & right.keys()]
        if not common:
            return 0.0
        depth, steps = max(common)
        return 2 * depth / (2 * depth - steps)


def graded(
    taxonomy: Taxonomy, places: np.ndarray, count: int, draw: np.random.Generator, bins: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) pairs of different senses and their similarities, at most `count` / `bins` in each tenth of the scale.

    Partners are drawn from senses that have a common ancestor a few steps up half of the time, since pairs at random are
    nearly all unlike.
    """
    pairs: list[tuple[int, int]] = []
    scores: list[float] = []
    full, seen = [count // bins] * bins, set()
    for one, other in _candidates(taxonomy, places, 20 * count, draw):
        key = (min(one, other), max(one, other))
        if one == other or key in seen:
            continue
        seen.add(key)
        score = taxonomy.similarity(one, other)
        place = min(int(score * bins), bins - 1)
        if full[place]:
            full[place] -= 1
            pairs.append((one, other))
            scores.append(score)
    return np.array(pairs), np.array(scores, dtype=np.float32)


def _candidates(
    taxonomy: Taxonomy, places: np.ndarray, tries: int, draw: np.random.Generator
) -> Iterator[tuple[int, int]]:
    below: dict[int, list[int]] = {}
    for place in places.tolist():
        for sense in taxonomy.above(place):
            below.setdefault(sense, []).append(place)
    for one in draw.choice(places, tries).tolist():
        if draw.random() < 0.5:
            yield one, int(draw.choice(places))
            continue
        near = sorted(taxonomy.above(one).items(), key=lambda found: (found[1], found[0]))
        sense = near[int(draw.integers(min(len(near), 6)))][0]
        yield one, below[sense][int(draw.integers(len(below[sense])))]
