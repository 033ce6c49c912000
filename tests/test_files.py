"""Files appear whole or not at all, what killed writers left goes, and nothing is written over by mistake."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas import files
from nas.errors import DeployError, NasError


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has swept no folder yet."""
    monkeypatch.setattr(files, "_swept", set())


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- writing


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("content", [b"\0bytes", "tëxt", b""])
def test_a_file_is_written_whole(tmp_path: Path, content: bytes | str, durable: bool) -> None:
    for _ in range(2):
        files.write(tmp_path / "f", content, durable=durable)
        assert (tmp_path / "f").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert left(tmp_path) == ["f"]


def test_an_error_or_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    for error in (RuntimeError, KeyboardInterrupt, OSError):
        with pytest.raises(error):
            _fail(tmp_path / "f", error)
    assert left(tmp_path) == ["f"]
    assert (tmp_path / "f").read_text() == "old"


def _fail(target: Path, error: type[BaseException]) -> None:
    with files.replacing(target) as half:
        half.write_text("ne")
        raise error


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with files.replacing(tmp_path / "d", durable=True) as half:
            (half / "sub").mkdir(parents=True)
            (half / "sub" / name).write_text(name)
    assert left(tmp_path) == ["d"]
    assert left(tmp_path / "d" / "sub") == ["second"]


def test_permissions_are_those_of_the_old_file_or_the_usual_ones(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    with files.replacing(tmp_path / "f") as half:
        half.touch(mode=0o600)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == usual
    (tmp_path / "f").chmod(0o640)
    files.write(tmp_path / "f", "new")
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "f")
    for content in ("a", "b"):
        files.write(tmp_path / "link", content)
        assert (tmp_path / "there" / "f").read_text() == content
    assert (tmp_path / "link").is_symlink()
    assert left(tmp_path / "there") == ["f"]


def test_pipes_and_devices_are_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_text()))
    reader.start()
    files.write(tmp_path / "pipe", "hello")
    reader.join(20)
    assert heard == ["hello"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    files.write("/dev/null", "gone")
    with pytest.raises(OSError, match="cannot be replaced"), files.replacing("/dev/null"):
        pass
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_writers_of_one_file_at_a_time_leave_one_of_their_contents(tmp_path: Path) -> None:
    contents = [str(number) * 10_000 for number in range(8)]

    def write(content: str) -> None:
        for _ in range(10):
            files.write(tmp_path / "f", content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f").read_text() in contents
    assert left(tmp_path) == ["f"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_says_what_to_do(number: int) -> None:
    assert files.is_full(OSError(number, os.strerror(number)))
    assert files.why(OSError(number, os.strerror(number))).endswith(
        "; make room and do it again, nothing is half written"
    )
    assert files.why(OSError(errno.EACCES, "Permission denied")) == "Permission denied"


# -- what killed writers leave

WRITER = """
import sys, time
from nas import files
with files.replacing(sys.argv[1]) as half:
    half.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "f")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def test_what_a_killed_writer_left_goes_and_what_a_running_one_has_stays(
    tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    (scratch,) = tmp_path.iterdir()
    files.sweep(tmp_path)
    files.write(tmp_path / "other", "")
    assert left(tmp_path) == [scratch.name, "other"], "its writer lives"
    writer.kill()
    writer.wait()
    files.write(tmp_path / "other", "")
    assert left(tmp_path) == [scratch.name, "other"], "a process looks once"
    files._swept.clear()
    files.write(tmp_path / "other", "")
    assert left(tmp_path) == ["other"]


def test_an_empty_folder_of_a_writer_that_was_killed_at_once_goes(tmp_path: Path) -> None:
    (tmp_path / f"{files.SCRATCH}abc").mkdir()
    files.sweep(tmp_path)
    assert left(tmp_path) == []


def test_nothing_but_scratch_folders_is_swept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lock").touch()
    (tmp_path / f"{files.SCRATCH}link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"{files.SCRATCH}file").touch()
    (tmp_path / f"{files.SCRATCH}mine").mkdir()
    (tmp_path / f"{files.SCRATCH}mine" / "notes").touch()
    before = left(tmp_path)
    files.sweep(tmp_path)
    assert left(tmp_path) == before
    assert left(tmp_path / "elsewhere") == ["lock"]


def test_sweeping_and_writing_at_once_lose_nothing(tmp_path: Path) -> None:
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            files._swept.clear()
            files.sweep(tmp_path)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            files.write(tmp_path / "f", "whole")
            assert (tmp_path / "f").read_text() == "whole"
    finally:
        done.set()
        sweeper.join()
    assert left(tmp_path) == ["f"]


# -- what may be written over


def test_only_what_the_same_writer_made_is_written_over(tmp_path: Path) -> None:
    target = tmp_path / "f"
    files.check(target, NasError)
    target.touch()
    files.check(target, NasError)  # nothing is lost
    target.write_text("mine")
    for named in (target, _link(tmp_path / "link", target), _hard_link(tmp_path / "hard", target)):
        with pytest.raises(
            DeployError, match="exists already and is no earlier output of this kind; give another file, or"
        ):
            files.check(named, DeployError)
        files.check(named, NasError, force=True)
        files.check(named, NasError, lambda path: path.read_text() == "mine")
    with pytest.raises(NasError, match="is a folder; give a file"):
        files.check(tmp_path, NasError, force=True)
    with pytest.raises(NasError, match="does not exist; make it first"):
        files.check(tmp_path / "none" / "f", NasError, force=True)
    files.check(Path("/dev/null"), NasError)


def _link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def _hard_link(path: Path, target: Path) -> Path:
    path.hardlink_to(target)
    return path


def test_a_folder_is_written_over_only_where_all_of_it_is_an_earlier_output(tmp_path: Path) -> None:
    folder = tmp_path / "d"

    def listed(path: Path) -> list[str] | None:
        return ["index", "sub/part"] if (path / "index").exists() else None

    files.check_folder(folder, NasError)
    folder.mkdir()
    files.check_folder(folder, NasError)
    (folder / "index").touch()
    (folder / "sub").mkdir()
    with pytest.raises(
        DeployError, match="exists already; give a folder that is empty or not there, or insist with --force"
    ):
        files.check_folder(folder, DeployError, listed)
    files.check_folder(folder, NasError, listed, force=True)
    with pytest.raises(NasError, match="it holds 'index'; remove it yourself"):
        files.check_folder(folder, NasError, force=True)
    (folder / "sub" / "mine").touch()
    with pytest.raises(NasError, match="it holds 'sub/mine'; remove it yourself"):
        files.check_folder(folder, NasError, listed, force=True)
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", _link(tmp_path / "dangling", tmp_path / "nowhere")):
        with pytest.raises(NasError, match="exists already; give a folder that is empty or not there$"):
            files.check_folder(target, NasError, listed, force=True)


def test_a_database_is_known_by_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = tmp_path / "nas.db"
    database.touch()
    (tmp_path / "sub").mkdir()
    _link(tmp_path / "link.db", database)
    _hard_link(tmp_path / "hard.db", database)
    names = [
        "nas.db",
        "./nas.db",
        "sub/../nas.db",
        str(database),
        "link.db",
        "hard.db",
        "nas.db-wal",
        "link.db-wal",
        "nas.db-shm",
    ]
    for name in names:
        for store in (database, Path("nas.db"), tmp_path / "link.db"):
            own = name != "link.db-wal" or store.name == "link.db"
            assert files.beside_database(Path(name), store) == own, (name, store)
    for name in ("nas.db2", "front.csv", "sub/nas.db", "nas.db-walrus"):
        assert not files.beside_database(Path(name), database)
