"""A set of arch keys that never stalls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_SHARDS = 256


class KeySet:
    """A set of strings in many small ones.

    A single set of 100,000 keys is copied whole when it grows, which holds an ask up for milliseconds; here the
    growing is spread, and no step copies more than its 256th part.
    """

    __slots__ = ("_shards", "_size")

    def __init__(self) -> None:
        self._shards: list[set[str]] = [set() for _ in range(_SHARDS)]
        self._size = 0

    def add(self, key: str) -> bool:
        """Whether `key` is new; it is in the set from now on."""
        shard = self._shards[hash(key) % _SHARDS]
        if key in shard:
            return False
        shard.add(key)
        self._size += 1
        return True

    def update(self, keys: Iterable[str]) -> None:
        """Add all of `keys`."""
        for key in keys:
            self.add(key)

    def __contains__(self, key: object) -> bool:
        return key in self._shards[hash(key) % _SHARDS]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        for shard in self._shards:
            yield from shard
