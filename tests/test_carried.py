"""Folders that a machine does not have: copied once, whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
import threading
import time
from pathlib import Path

import pytest

from nas import carried
from nas.carried import CHUNK, File, Folder
from nas.errors import CheckpointError, RunnerError
from nas.supernet import checkpoint
from searchspaces import conv


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies go to a temporary folder of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(carried, "_copies", {})
    return tmp_path / "tmp" / f"supernas-{os.getuid()}" / "carried"


CONTENT = [os.urandom(CHUNK + 17), b"{}"]


def folder(content: list[bytes] = CONTENT) -> Folder:
    files = [File(f"f{i}", len(one), hashlib.sha256(one).hexdigest()) for i, one in enumerate(content)]
    return Folder("/no/such/folder", files[0].sha256, tuple(files))


def read(index: int, offset: int, size: int) -> bytes:
    return CONTENT[index][offset : offset + size]


def test_a_folder_that_is_not_here_is_copied_and_found() -> None:
    wanted = folder()
    assert not wanted.is_here
    assert carried.find(wanted.path, wanted.digest) == wanted.path
    place = carried.fetch(wanted, read)
    assert [(place / file.name).read_bytes() for file in wanted.files] == CONTENT
    assert carried.find(wanted.path, wanted.digest) == str(place)


def test_whoever_comes_later_waits_and_reads_nothing() -> None:
    asked: list[int] = []

    def slowly(index: int, offset: int, size: int) -> bytes:
        asked.append(offset)
        time.sleep(0.05)
        return read(index, offset, size)

    threads = [threading.Thread(target=carried.fetch, args=(folder(), slowly)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [0, CHUNK, 0]


def test_a_copy_that_arrives_changed_is_refused_and_leaves_nothing(home: Path) -> None:
    def changed(index: int, offset: int, size: int) -> bytes:
        return bytes(size)

    with pytest.raises(RunnerError, match="arrived on .* with another hash than it was sent with"):
        carried.fetch(folder(), changed)
    assert [path.name for path in home.iterdir() if path.is_dir()] == []
    carried.fetch(folder(), read)


def test_a_copy_that_was_damaged_is_made_again() -> None:
    place = carried.fetch(folder(), read)
    (place / "f0").write_bytes(b"short")
    assert [(carried.fetch(folder(), read) / file.name).read_bytes() for file in folder().files] == CONTENT


def test_no_room_for_a_copy_is_one_sentence() -> None:
    def full(index: int, offset: int, size: int) -> bytes:
        raise OSError(28, "No space left on device")  # as the write behind it would

    with pytest.raises(RunnerError, match=r"cannot be copied to .* \(No space left on device\); make room there"):
        carried.fetch(folder(), full)


def test_copies_that_nobody_used_for_a_day_are_removed(home: Path) -> None:
    old = carried.fetch(folder(), read)
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    CONTENT.append(b"another")
    try:
        new = carried.fetch(folder([*CONTENT[2:]]), lambda index, offset, size: b"another")
    finally:
        CONTENT.pop()
    assert new.exists()
    assert not old.exists()


def test_a_supernet_in_a_pickle_is_noted_and_loads_from_the_copy(tmp_path: Path) -> None:
    supernet = conv.supernet()
    digest = supernet.save(tmp_path / "net")
    with carried.collecting() as found:
        body = pickle.dumps([supernet, supernet])
    ((key, noted),) = found.items()
    assert key == (str(tmp_path / "net"), digest)
    assert noted.is_here
    content = [(tmp_path / "net" / file.name).read_bytes() for file in noted.files]
    (tmp_path / "net").rename(tmp_path / "gone")
    assert not noted.is_here
    checkpoint._revived.clear()
    carried.fetch(noted, lambda index, offset, size: content[index][offset : offset + size])
    revived = pickle.loads(body)[0]
    arch = supernet.space.smallest
    assert revived.params(arch) == supernet.params(arch)
    assert revived.source[1] == digest


def test_a_checkpoint_that_was_saved_again_is_not_carried_as_the_old_one(tmp_path: Path) -> None:
    supernet = conv.supernet()
    supernet.save(tmp_path / "net")
    conv.supernet(seed=1).save(tmp_path / "net")
    with carried.collecting(), pytest.raises(CheckpointError, match="was saved again since"):
        pickle.dumps(supernet)
