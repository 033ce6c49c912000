"""What is read is what was written, or it is said of which file that is not so."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from nas import sealed
from nas.sealed import Damaged

CONTENT: dict[str, Any] = {
    "text": "ünï\n",
    "rate": 1e-05,
    "rows": [[1, 2.5], {"a": None}],
    "endless": float("inf"),
    "empty": {},
}


@pytest.mark.parametrize("indent", [None, 1])
def test_what_is_sealed_is_read_back_and_is_json(indent: int | None) -> None:
    text = sealed.seal(CONTENT, indent)
    assert sealed.unseal(text) == (CONTENT, True)
    assert json.loads(text) == {"sealed": True, **CONTENT, "sha256": json.loads(text)["sha256"]}
    assert sealed.unseal(sealed.seal({})) == ({}, True)


@pytest.mark.parametrize("indent", [None, 1])
def test_every_flipped_bit_is_noticed(indent: int | None) -> None:
    text = sealed.seal(CONTENT, indent)
    for place in range(len(text)):
        for bit in range(8):
            other = bytearray(text)
            other[place] ^= 1 << bit
            with pytest.raises(Damaged):
                sealed.unseal(bytes(other))


def test_every_cut_and_every_addition_is_noticed() -> None:
    text = sealed.seal(CONTENT)
    for length in range(len(text)):
        with pytest.raises(Damaged):
            sealed.unseal(text[:length])
    for more in (b" ", b"\n", b"\0", text):
        with pytest.raises(Damaged):
            sealed.unseal(text + more)
        with pytest.raises(Damaged):
            sealed.unseal(more + text)


def test_what_is_written_again_by_something_else_is_noticed() -> None:
    with pytest.raises(Damaged, match="its hash differs"):
        sealed.unseal(json.dumps(json.loads(sealed.seal(CONTENT))).encode())


def test_what_an_earlier_version_wrote_is_read_and_known_as_such() -> None:
    assert sealed.unseal(json.dumps(CONTENT).encode()) == (CONTENT, False)
    assert sealed.unseal(b"[1]") == ([1], False)
    with pytest.warns(UserWarning, match="'net' was written by an earlier version of supernas, without hashes"):
        sealed.warn("net")
    for text in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        with pytest.raises(Damaged):
            sealed.unseal(text)


def test_a_file_has_the_hash_that_was_recorded(tmp_path: Path) -> None:
    file, draw = tmp_path / "f", random.Random(0)
    content = draw.randbytes(3_000_000)
    file.write_bytes(content)
    digest = sealed.digest(file)
    sealed.verify(file, digest)
    for _ in range(10):
        other = bytearray(content)
        other[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(other)
        with pytest.raises(Damaged, match="not what was saved .its hash differs"):
            sealed.verify(file, digest)
    file.unlink()
    with pytest.raises(Damaged, match="it is missing"):
        sealed.verify(file, digest)
    with pytest.raises(Damaged):
        sealed.verify(tmp_path, digest)


@pytest.mark.parametrize("name", ["a", "a.b", "sub/a", "sub/sub/a", "ä", "..a", "a..", " "])
def test_names_of_files_in_the_folder(name: str, tmp_path: Path) -> None:
    assert sealed.inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../a", "sub/../../a", "sub/../a", "/a", "/etc/passwd", "//a", "a//b", "a/", "a\0b"),
        *("a\\b", "..\\a", "C:a", "C:\\a", "\\\\host\\share", "link", "link/a", "file-link"),
        *(None, 3, ["a"], {}, b"a"),
    ],
)
def test_names_that_lead_out_of_the_folder(name: object, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").touch()
    (folder / "link").symlink_to("../outside")
    (folder / "file-link").symlink_to("../outside/a")
    with pytest.raises(Damaged, match="leads out of the folder"):
        sealed.inside(folder, name)


def test_a_link_within_the_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").symlink_to("a")
    (tmp_path.parent / f"{tmp_path.name}-link").symlink_to(tmp_path)
    assert sealed.inside(tmp_path, "b").exists()
    assert sealed.inside(tmp_path.parent / f"{tmp_path.name}-link", "a").exists()
