"""A rank's side: make the steps, or leave in the training's folder why that cannot be done."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from nas import errors
from nas.errors import NasError, RunnerError, TrainError
from nas.failures import describe, interrupts
from nas.runners.work import Payload

TOKEN, STOP, FAILED = "token", "stop", "failed.json"
ROOM, ROOM_BYTES = "room", 8192  # blank, becomes FAILED
_LOOK_S = 0.2


@dataclass(frozen=True)
class Order:
    """What every rank is told.

    Args:
        payload: (None, training).
        folder: of this launch, inside the training's; holds the supernet to begin with, and `token`.
        token: what the file of that name holds, so that another machine's folder of the same name is not taken for it.
    """

    payload: Payload
    folder: str
    token: str


def make_steps(order: Order, device: str) -> None:
    """Train until the end, a request to stop, or a failure, in a process group that has been joined.

    Raises:
        PeerLost: another rank is gone, which may be tried again.
        Exception: anything else will happen again; it is in the folder for the driver, and other attempts end at once.
    """
    folder = Path(order.folder)
    if blind := sees(order.folder, order.token):
        raise RunnerError(blind)
    if (folder / FAILED).exists():
        raise RunnerError("an earlier attempt has failed")
    from nas.train.ranks import Group, PeerLost

    with interrupts() as is_interrupt:
        try:
            import torch

            _, training = order.payload.unpack()
            training.device = torch.device(device)  # type: ignore[attr-defined]
            training.run(progress=False, ranks=Group(Asked(folder / STOP)))  # type: ignore[attr-defined]
        except PeerLost:
            raise
        except BaseException as error:
            asked = isinstance(error, KeyboardInterrupt) and (folder / STOP).exists()  # by the driver, without a signal
            if not asked and not is_interrupt(error):
                leave(folder, error)
            raise


class Asked:
    """Whether a file is there; looks at most five times a second, because it may be on a network."""

    def __init__(self, file: Path) -> None:
        self._file, self._looked, self._there = file, 0.0, False

    def __call__(self) -> bool:
        """True from then on."""
        if not self._there and time.monotonic() - self._looked > _LOOK_S:
            self._there, self._looked = self._file.exists(), time.monotonic()
        return self._there


def sees(folder: str, token: str) -> str:
    """Why this machine cannot work in `folder`; "" when it can."""
    here = platform.node()
    try:
        found = (Path(folder) / TOKEN).read_text(encoding="utf-8")
    except OSError as error:
        return f"worker on {here} does not see the folder '{folder}' ({error.strerror}); give a path that all machines share"
    if found != token:
        return f"worker on {here} has another folder of the name '{folder}'; give a path that all machines share"
    if not os.access(folder, os.W_OK):
        return f"worker on {here} may not write into '{folder}'; give it the right to"
    return ""


def leave(folder: Path, error: BaseException) -> None:
    """For the driver: what the first rank that cannot go on has to say.  It is written where there is room on a full disk too."""
    kind = type(error).__name__ if isinstance(error, NasError) else ""
    body = json.dumps({"kind": kind, "text": describe(error)[: ROOM_BYTES // 8]})
    with contextlib.suppress(OSError), (folder / ROOM).open("r+b", buffering=0) as room:
        room.write(body.encode())
        os.replace(folder / ROOM, folder / FAILED)


def failure(folder: Path) -> NasError | None:
    """What a rank has left, as the error that it was."""
    try:
        record = json.loads((folder / FAILED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    kind = getattr(errors, record["kind"], None) if record["kind"] else None
    return kind(record["text"]) if isinstance(kind, type) and issubclass(kind, NasError) else TrainError(record["text"])
