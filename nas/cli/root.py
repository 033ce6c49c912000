"""The application that the commands belong to, and the arguments that several of them have."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter, Token

import nas
from nas.checking import shown
from nas.checking.kinds import Float, Int, Kind, Range, Text, Unfit
from nas.checking.kinds import Path as PathKind
from nas.errors import NasError


def _taking(kind: Kind, read: Callable[[str], Any] = str) -> Callable[[Any, Sequence[Token]], Any]:
    """A converter: one word of the command line as `kind` takes it; the library's own sentence where it does not."""

    def convert(_: Any, tokens: Sequence[Token]) -> Any:
        word = tokens[0].value
        name = tokens[0].keyword or "the argument"
        try:
            value = read(word)
        except ValueError:
            value = word
        try:
            if not word:
                raise Unfit(name, word, kind.expected)
            return kind.take(name, value)
        except Unfit as unfit:
            raise NasError(f"{name} was given {shown(unfit.value)}; it is {unfit.expected}{unfit.hint}") from None

    return convert


# What a word of the command line must be.  They stand beside a type: `Annotated[int | None, count]`.
count = Parameter(converter=_taking(Int(Range(least=1)), int))
natural = Parameter(converter=_taking(Int(Range(least=0)), int))
seconds = Parameter(converter=_taking(Float(Range(above=0)), float))
text = Parameter(converter=_taking(Text(), lambda word: os.fsencode(word).decode()))  # UTF-8 in any locale
_PATH = _taking(PathKind())

PATH = Parameter(converter=_taking(PathKind(), Path))

StoreOption = Annotated[
    str | None,
    Parameter(
        name="--store", converter=_PATH, help="Database: a path or URL. [default: $NAS_STORE, or nas.db in this folder]"
    ),
]
DatabaseArgument = Annotated[str, Parameter(converter=_PATH)]
WhereOption = Annotated[str | None, text]
ColumnsOption = Annotated[str | None, text]
WaitOption = Annotated[
    float | None,
    Parameter(
        converter=_taking(Float(Range(least=0)), float),
        help="Seconds to wait for a quiet machine before latencies are measured; 0 does not. [default: $NAS_WAIT_S, or 60]",
    ),
]
OutputOption = Annotated[Path, Parameter(name=["--output", "-o"], converter=_taking(PathKind(), Path))]
HtmlOption = Annotated[
    Path | None,
    Parameter(
        name="--html", converter=_taking(PathKind(), Path), help="Also write the report to this file, as a page."
    ),
]
JobArgument = Annotated[
    str, Parameter(converter=_PATH, help="A Python file that builds a nas.Study, or package.module:name.")
]


def job_with(what: str) -> Parameter:
    """A job that defines something else than a study."""
    return Parameter(converter=_PATH, help=f"A Python file, or package.module, that defines {what}.")


JobOption = Annotated[str | None, Parameter(converter=_PATH, help="The job, where it is not the one that you ran.")]
TrialArgument = Annotated[int, natural, Parameter(help="Number of a trial, as 'nas front' lists them.")]
ForceOption = Annotated[
    bool, Parameter(name="--force", help="Write over what is there, though the same command did not make it.")
]
DeviceOption = Annotated[
    str,
    text,
    Parameter(help="A label as 'cpu,threads=2,runtime=onnx' or 'cuda:0', or a name of the job or the database."),
]
StudyArgument = Annotated[str, text, Parameter(help="Name of a study; 'nas studies' lists them.")]

# What `nas --help` lists, in this order.
WORK = Group("Train and search", sort_key=1)
LOOK = Group("Read results", sort_key=2)
TAKE = Group("Take networks home", sort_key=3)
CHANGE = Group("Change studies", sort_key=4)
HARDWARE = Group("Latency of hardware", sort_key=5)
MODELS = Group("Models", sort_key=6)
KEEP = Group("Installation and database", sort_key=7)

app = App(
    name="nas",
    help="Search a space of networks that share one set of weights, on your hardware.",
    version=nas.__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # `run` says how to go on
    help_epilogue="All commands: nas --help. What each option takes: nas COMMAND --help.",
)
app["--help"].group = app["--version"].group = Group("Options", sort_key=9)
