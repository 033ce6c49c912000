"""Who holds a trial's lease, and whether they still live.

A lease that ends by itself is enough for correctness.  Knowing that the process is gone makes a restart on the same machine
immediate instead of a minute late.
"""

from __future__ import annotations

import itertools
import socket

from nas.runners import guard

_drivers = itertools.count()


def owner_id() -> str:
    """A new owner in this process: `host/pid/start#n`, where start tells it from a later process with the same pid."""
    return f"{socket.gethostname()}/{guard.identity()}#{next(_drivers)}"


def is_gone(owner: str) -> bool:
    """True when `owner` was a process of this machine that no longer runs; False when it runs or cannot be known."""
    try:
        host, pid, start = owner.rsplit("/", 2)
        if host != socket.gethostname():
            return False
        return guard.start_of(int(pid)) != start.split("#")[0]
    except ValueError:
        return False
