"""Scripts, each run in a process of its own that has already imported the libraries that most of them need."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

# Other people's modules alone: a script that forgot an import of ours, or two of ours that import each other,
# must fail here as they do in a shell.  Without Ray, which starts threads.
LIBRARIES = (
    *("moocore", "networkx", "pandas", "pyglove", "rich.progress", "scipy.stats", "sklearn.datasets"),
    *("sqlalchemy.dialects.sqlite", "sqlalchemy.orm", "torch", "torch._dynamo", "torch.export"),
    "torch.fx.experimental.symbolic_shapes",
)


class Done(NamedTuple):
    """How a script ended."""

    returncode: int
    stdout: str
    stderr: str


class Warm:
    """A process that forks for every script.

    It only imports, so that no thread of its own can hold a lock when it forks, and runs no script itself, so that
    none finds the state of another.

    Args:
        folder: for what the scripts write to their standard outputs.
        root: where they run.
        imports: modules that they find imported.
    """

    def __init__(self, folder: Path, root: Path, imports: Sequence[str] = LIBRARIES) -> None:
        self._folder, self._ran = folder, 0
        self._server = subprocess.Popen(
            [sys.executable, __file__, *imports], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
        )

    def __call__(self, script: Path, *arguments: str) -> Done:
        """Runs it as `python script arguments` does."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._ran += 1  # a process that a script left behind writes to files of its own
        outputs = [self._folder / f"{self._ran}.{name}" for name in ("stdout", "stderr")]
        self._server.stdin.write("\0".join([*map(str, outputs), str(script), *arguments]) + "\n")
        self._server.stdin.flush()
        code = self._server.stdout.readline()
        assert code, "the process that forks has ended"
        return Done(int(code), *(file.read_text(encoding="utf-8") for file in outputs))

    def close(self) -> None:
        """Ends the process."""
        with self._server:
            assert self._server.stdin is not None
            self._server.stdin.close()


def _serve(imports: Sequence[str]) -> None:
    """One fork for each line; in it this returns after the script, and the interpreter ends as after any other."""
    for name in imports:
        __import__(name)
    gc.collect()
    gc.freeze()  # else every script's collections look at all that was imported again, and copy its pages
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return _run(*line.rstrip("\n").split("\0"))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()
    return None


def _run(out: str, err: str, script: str, *arguments: str) -> None:
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    folder = Path(script).parent
    # A shell's `import name` finds the script's own file first, this process what it has imported.
    if hidden := sorted({file.stem for file in folder.glob("*.py")} & sys.modules.keys()):
        sys.exit(f"{folder}: {hidden} would be a library's module here and the script's own in a shell")
    sys.argv, sys.path[0] = [script, *arguments], str(folder)
    main = ModuleType("__main__")
    main.__file__ = script
    sys.modules["__main__"] = main
    exec(compile(Path(script).read_bytes(), script, "exec"), main.__dict__)


if __name__ == "__main__":
    _serve(sys.argv[1:])
