"""Who holds a trial's lease, and whether they still live.

A lease that ends by itself is enough for correctness.  Knowing that the process is gone makes a restart on the same machine
immediate instead of a minute late.
"""

from __future__ import annotations

import itertools
import os
import socket

_drivers = itertools.count()


def owner_id() -> str:
    """A new owner in this process: `host/pid/start#n`, where start tells it from a later process with the same pid."""
    return f"{socket.gethostname()}/{os.getpid()}/{_start_of(os.getpid())}#{next(_drivers)}"


def is_gone(owner: str) -> bool:
    """True when `owner` was a process of this machine that no longer runs; False when it runs or cannot be known."""
    try:
        host, pid, start = owner.rsplit("/", 2)
        if host != socket.gethostname():
            return False
        return _start_of(int(pid)) != start.split("#")[0]
    except ValueError:
        return False


def _start_of(pid: int) -> str:
    """Start time of a process in clock ticks since boot, `"0"` where the system does not tell, `""` when it is not there."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return "" if fields[0] in ("Z", "X") else fields[19]
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return ""
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass  # it runs, as another user
    return "0"
