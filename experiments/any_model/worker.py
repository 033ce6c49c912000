"""One function in a process of its own, with a limit of time and of memory."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def forked(work: Callable[[], Any], *, seconds: float, gib: float) -> Any:
    """What `work` returns, as JSON has it, from a fork of this process; else a sentence that says how the fork ended.

    A fork has imported everything already, so that a model costs no start of an interpreter.
    """
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder) / "result", Path(folder) / "log"
        child = os.fork()
        if not child:
            _child(work, result, log, seconds, gib)
        return _waited(child, result, log, seconds)


def _child(work: Callable[[], Any], result: Path, log: Path, seconds: float, gib: float) -> None:
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.dump_traceback_later(max(1.0, seconds - 2))
        limit = _mapped() + int(gib * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        result.write_text(json.dumps(work()), encoding="utf-8")
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _mapped() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _waited(child: int, result: Path, log: Path, seconds: float) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if result.exists() and result.stat().st_size:
                return json.loads(result.read_text(encoding="utf-8"))
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] if log.exists() else []
            return f"crashed ({os.waitstatus_to_exitcode(status)}): {' '.join(last)[:300]}"
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    where = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    frames = [line.strip() for line in where if line.strip().startswith("File ")]
    ours = [frame for frame in frames if "/nas/" in frame or "/any_model/" in frame]
    return f"hangs after {seconds:.0f} s: {(ours or frames or [''])[0]}"
