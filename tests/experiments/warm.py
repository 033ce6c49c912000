"""Scripts, each run in a process of its own that has imported already what most of them need."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

IMPORTS = (
    "sklearn.datasets scipy.stats torch torch._dynamo pandas rich.progress nas.convert.elastic nas.deploy nas.evaluate.predicted "
    "nas.evaluate.subnets nas.evaluate.trained nas.hardware nas.predict nas.search nas.store.frames nas.study nas.supernet "
    "nas.train nas.train.data searchspaces.conv searchspaces.vit"
)


class Done(NamedTuple):
    """How a script ended."""

    returncode: int
    stdout: str
    stderr: str


class Warm:
    """A process that forks for every script.

    It only imports, so that no thread of its own can hold a lock when it is forked.

    Args:
        folder: for what the scripts write to their standard outputs.
        root: where they run.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._server = subprocess.Popen(
            [sys.executable, __file__, *IMPORTS.split()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        )

    def __call__(self, script: Path, *arguments: str) -> Done:
        """Runs it as `python script arguments` does."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        outputs = [self._folder / "stdout", self._folder / "stderr"]
        self._server.stdin.write("\0".join([*map(str, outputs), str(script), *arguments]) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Done(code, *(file.read_text(encoding="utf-8") for file in outputs))

    def close(self) -> None:
        """Ends the process."""
        with self._server:
            assert self._server.stdin is not None
            self._server.stdin.close()


def _serve() -> None:
    """One fork for each line; in it this returns after the script, and the interpreter ends as after any other."""
    for name in sys.argv[1:]:
        __import__(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return _run(*line.rstrip("\n").split("\0"))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()
    return None


def _run(out: str, err: str, script: str, *arguments: str) -> None:
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    _serve()
