"""The application that the commands belong to, and the arguments that several of them have."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

import nas

StoreOption = Annotated[
    str | None,
    Parameter(name="--store", help="Database: a path or URL. [default: $NAS_STORE, or nas.db in this folder]"),
]
JobArgument = Annotated[str, Parameter(help="A Python file that builds a nas.Study, or package.module:name.")]
JobOption = Annotated[str | None, Parameter(help="The job, where it is not the one that you ran.")]
ForceOption = Annotated[
    bool, Parameter(name="--force", help="Write over what is there, though the same command did not make it.")
]
TrialArgument = Annotated[int, Parameter(help="Number of a trial, as 'nas front' lists them.")]
DeviceOption = Annotated[
    str,
    Parameter(help="A label as 'cpu,threads=2,runtime=onnx' or 'cuda:0', or a name of the job or the database."),
]
StudyArgument = Annotated[str, Parameter(help="Name of a study; 'nas studies' lists them.")]

app = App(
    name="nas",
    help="Search a space of networks that share one set of weights, on your hardware.",
    version=nas.__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # `run` says how to go on
)
