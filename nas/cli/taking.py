"""The commands that take something home: extract, export, export-optuna."""

from __future__ import annotations

from shlex import quote
from typing import Annotated, Literal

from cyclopts import Parameter

from nas.cli.root import (
    TAKE,
    ForceOption,
    JobOption,
    OutputOption,
    StoreOption,
    StudyArgument,
    TrialArgument,
    WhereOption,
    app,
    natural,
    text,
)
from nas.cli.stores import declared, reading, refuse_database


@app.command(group=TAKE)
def extract(
    study: StudyArgument,
    trial: TrialArgument,
    *,
    output: OutputOption,
    fold: bool = False,
    force: ForceOption = False,
    job: JobOption = None,
    store: StoreOption = None,
) -> None:
    """Take a trial's network home, after checking that it computes what was evaluated.

    Writes DIR/model.safetensors, DIR/arch.json and DIR/load.py, whose load() gives an ordinary PyTorch module.

    load() compares every file with its hash.  With --force an earlier winner is replaced, if nothing else is in its folder.

    Args:
        output: folder to write; it must not exist, or be empty.
        fold: merge layers that compute as one, such as a convolution and its BatchNorm; outputs are compared.
    """
    from nas.cli.output import print_text
    from nas.study.take_home import check_folder, take_home

    refuse_database(output, store)
    check_folder(output, force=force)
    words = ["extract", study, str(trial), "-o", str(output), *(["--fold"] if fold else [])]
    winner = take_home(declared(study, job, store, words), trial, fold=fold)
    winner.write(output, force=force)
    print_text(str(winner))
    if winner.folded is not None:
        print_text(str(winner.folded))
    print_text(f"wrote {output}/: model.safetensors, arch.json, load.py")


@app.command(group=TAKE)
def export(
    study: StudyArgument,
    trial: Annotated[
        int | None, natural, Parameter(help="Number of a trial; without one, the whole front as elastic.")
    ] = None,
    *,
    output: OutputOption,
    format: Literal["pt2", "onnx", "safetensors", "pretrained", "elastic"] | None = None,
    fixed_batch: bool = False,
    fold: bool = False,
    where: WhereOption = None,
    force: ForceOption = False,
    job: JobOption = None,
    store: StoreOption = None,
) -> None:
    """Write a trial's network, or the whole front, for another program, after checking that it computes what was evaluated.

    What was written is read back and its outputs are compared; nothing is left where they differ.

    Args:
        output: file to write; a folder, empty or not there, for pretrained and elastic.
        format: pt2 is torch.export; onnx is one file; safetensors has the weights alone; pretrained is what the model's class
            itself saves; elastic is the front on one set of weights, for nas.ElasticModel.load. [default: elastic without a
            trial, else what the output's ending says]
        fixed_batch: a graph for one sample, for a model that cannot have an open batch.
        fold: merge layers that compute as one, such as a convolution and its BatchNorm; outputs are compared.
        where: the front of the trials that satisfy this filter; without a trial only.
    """
    from nas.cli.output import print_text
    from nas.deploy import check_target, format_of
    from nas.deploy import export as write
    from nas.errors import DeployError
    from nas.study.take_home import take_home

    refuse_database(output, store)
    if trial is None:
        if format not in (None, "elastic") or fixed_batch or fold:
            what = "--fold is for one network" if fold else "pt2, onnx, safetensors and pretrained hold one network"
            raise DeployError(f"{what}; say which trial, as 'nas front' lists")
        from nas.cli.fronts import write_elastic

        words = ["export", study, "-o", str(output), *(["--where", where] if where else [])]
        print_text(write_elastic(declared(study, job, store, words), output, where, force=force))
        return
    if format == "elastic" or where is not None:
        raise DeployError(
            f"elastic holds the whole front; leave out the trial {trial}, or --format elastic and --where"
        )
    chosen = format_of(output, format)
    check_target(output, chosen, force=force)
    words = ["export", study, str(trial), "-o", str(output), *(["--format", format] if format else [])]
    words += ["--fold"] if fold else []
    if fold and chosen == "pretrained":
        raise DeployError(
            "pretrained is read by the class itself, which builds all layers; leave out --fold or choose pt2 or onnx"
        )
    winner = take_home(declared(study, job, store, words), trial, fold=fold)
    done = write(winner.module, output, chosen, winner.example, any_batch=not fixed_batch, force=force)
    print_text(str(winner))
    if winner.folded is not None:
        print_text(str(winner.folded))
    print_text(str(done))


@app.command(group=TAKE, name="export-optuna")
def export_optuna(
    study: StudyArgument,
    url: Annotated[str, text, Parameter(help="Optuna's database: a path, or a URL as sqlite:///optuna.db.")],
    *,
    name: Annotated[str | None, text] = None,
    store: StoreOption = None,
    quiet: bool = False,
) -> None:
    """Write a study for optuna-dashboard: parameters, values, states, times, and the rest as user attributes.

    Args:
        name: of the study there. [default: as it is called here]
        quiet: no progress.
    """
    from nas.cli.output import print_text, showing
    from nas.optuna import export_study, file_of

    path = file_of(url)
    if path is not None:
        refuse_database(path, store)
    record = reading(store).open_study(study)
    with showing(f"writing {study}", quiet) as progress:
        done = export_study(record, url, name, progress)
    print_text(str(done))
    print_text(f"see it with: optuna-dashboard {quote(done.database)}")
