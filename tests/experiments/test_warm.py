"""A script run by the process that forks does what `python script` does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.experiments.warm import Done, Warm

TELL = """
import atexit, json, os, pickle, random, sys
import beside

class Mine:
    pass

atexit.register(lambda: print("the last line of", Mine.__module__))
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "folder": os.getcwd(), "name": __name__, "file": __file__, "beside": beside.VALUE,
    "input": sys.stdin.read(), "class": pickle.loads(pickle.dumps(Mine)).__name__, "cached": "nas" in sys.modules,
    "environment": sorted(os.environ.keys()), "mark": getattr(json, "mark", None),
}))
json.mark = os.environ["MARK"] = "of an earlier script"
print("a warning", file=sys.stderr)
"""
ENDS = {"return": "", "sys.exit(3)": "", "sys.exit('why')": "why", "raise ValueError(4)": "ValueError: 4"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "beside.py").write_text("VALUE = 7\n")
    return folder


@pytest.fixture(scope="module")
def warm(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with closing(Warm(tmp_path_factory.mktemp("outputs"), home, ["decimal"])) as warm:
        yield warm


@pytest.fixture
def script(home: Path) -> Path:
    return home / "script.py"


def shell(script: Path, *arguments: str) -> Done:
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=script.parent, stdin=subprocess.DEVNULL, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("end", ENDS)
def test_what_it_finds_prints_and_ends_with_is_what_a_shell_gives(end: str, warm: Warm, script: Path) -> None:
    script.write_text(TELL + end.replace("return", ""))
    here, there = warm(script, "--smoke", "two words"), shell(script, "--smoke", "two words")
    assert (here.returncode, here.stdout) == (there.returncode, there.stdout)
    assert here.stderr.splitlines()[0] == "a warning"
    if ENDS[end]:
        assert here.stderr.splitlines()[-1] == there.stderr.splitlines()[-1] == ENDS[end]
    found = json.loads(here.stdout.splitlines()[0])
    assert found["argv"] == [str(script), "--smoke", "two words"]
    assert found["mark"] is None


def test_a_killed_script_is_told_from_one_that_ended(warm: Warm, script: Path) -> None:
    script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert warm(script) == shell(script) == (-9, "", "")


def test_a_file_beside_the_script_is_not_taken_for_a_library(warm: Warm, script: Path) -> None:
    beside = script.with_name("decimal.py")
    beside.write_text("")
    script.write_text("import decimal")
    done = warm(script)
    beside.unlink()
    assert done.returncode == 1
    assert "['decimal'] would be a library's module here" in done.stderr
