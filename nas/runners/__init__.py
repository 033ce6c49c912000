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

from typing import TYPE_CHECKING, Any

from nas.runners.base import Outcome, Runner, Task
from nas.runners.inline import InlineRunner
from nas.runners.local import LocalRunner
from nas.runners.stages import StagedRunner
from nas.runners.work import import_file

if TYPE_CHECKING:
    from nas.runners.actors import RayRunner

__all__ = ["InlineRunner", "LocalRunner", "Outcome", "RayRunner", "Runner", "StagedRunner", "Task", "import_file"]


def __getattr__(name: str) -> Any:
    if name == "RayRunner":  # Ray takes seconds to import
        from nas.runners.actors import RayRunner

        return RayRunner
    raise AttributeError(f"module 'nas.runners' has no attribute {name!r}")
