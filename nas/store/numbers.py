"""Single decisions out of very many stored archs, without parsing the others.

A stored arch is `[0,2,null,0.25]`: numbers and nulls, a comma between two of them.  Of archs joined by commas, decision `j` of
arch `i` of `width` decisions stands between commas `i * width + j - 1` and `i * width + j`, which numpy finds for all at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.store.damage import Suspect

_COMMA, _NULL, _ZERO, _NINE, _OPEN, _CLOSE = (ord(letter) for letter in ",n09[]")


class Numbers:
    """The numbers of archs of one width.

    Args:
        text: the archs joined by commas, as stored; may be empty.
        width: numbers in each, 1 or more.

    Raises:
        Suspect: the text is not that.
    """

    def __init__(self, text: str, width: int) -> None:
        self._letters = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
        commas = np.flatnonzero(self._letters == _COMMA)
        ends = np.append(commas, len(self._letters)) if text else commas
        if len(ends) % width or "_" in text:
            raise Suspect("an arch is of another width")
        starts = np.concatenate([[0], commas + 1]) if text else ends
        self._starts, self._ends = starts.reshape(-1, width), ends.reshape(-1, width)
        self._width = width
        opened, closed = self._letters[self._starts[:, 0]], self._letters[self._ends[:, -1] - 1]
        if (opened != _OPEN).any() or (closed != _CLOSE).any():
            raise Suspect("an arch is no list of numbers")

    def column(self, index: int) -> NDArray[np.float64]:
        """(n,) numbers of one decision; NaN where it is null."""
        starts = self._starts[:, index] + (index == 0)  # after the bracket
        ends = self._ends[:, index] - (index == self._width - 1)
        if not len(starts):
            return np.empty(0)
        lengths = ends - starts
        if (lengths < 1).any():
            raise Suspect("an arch is no list of numbers")
        null = (self._letters[starts] == _NULL) & (lengths == len("null"))
        longest = int(lengths[~null].max(initial=0))
        if longest <= 4:
            values, whole = self._integers(starts, lengths, longest, null)
            if whole:
                values[null] = np.nan
                return values
        return self._any(starts, lengths, null)

    def _integers(
        self, starts: NDArray[np.int64], lengths: NDArray[np.int64], longest: int, null: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], bool]:
        """Numbers of a few digits, and whether all are that."""
        values = np.zeros(len(starts))
        whole = True
        for place in range(longest):
            there = ~null & (place < lengths)
            letters = self._letters[np.where(there, starts + place, 0)]
            whole = whole and bool((((letters >= _ZERO) & (letters <= _NINE)) | ~there).all())
            values = np.where(there, values * 10 + (letters.astype(np.float64) - _ZERO), values)
        return values, whole

    def _any(
        self, starts: NDArray[np.int64], lengths: NDArray[np.int64], null: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        text = self._letters.tobytes()
        spans = zip(starts.tolist(), lengths.tolist(), null.tolist(), strict=True)
        found = np.array([np.nan if absent else float(text[at : at + size]) for at, size, absent in spans])
        if np.isnan(found[~null]).any():
            raise Suspect("an arch has a value that is no number")
        return found
