"""Where archs are evaluated.

Runner          what the driver of a study talks to
Task, Outcome   what goes in, what comes out
InlineRunner    in this process
LocalRunner     worker processes on this machine (the default)
RayRunner       persistent actors on Ray; `cluster` starts or joins it
StagedRunner    runners one behind the other, for evaluators that need different places
import_file     import a job file so that workers can import it too
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas import lazy
from nas.runners.base import Outcome, Runner, Task
from nas.runners.inline import InlineRunner
from nas.runners.local import LocalRunner
from nas.runners.stages import StagedRunner
from nas.runners.work import import_file

if TYPE_CHECKING:
    from nas.runners.actors import RayRunner

__all__ = ["InlineRunner", "LocalRunner", "Outcome", "RayRunner", "Runner", "StagedRunner", "Task", "import_file"]

_HOME = {"RayRunner": "nas.runners.actors"}  # Ray takes seconds to import

if not TYPE_CHECKING:
    __getattr__ = lazy.names(__name__, _HOME)
