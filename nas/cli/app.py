"""The commands.  Nothing heavy is imported before a command needs it: `--help` must answer at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

import nas
from nas.errors import NasError

if TYPE_CHECKING:
    from nas.store import Store
    from nas.study import Study
    from nas.study.take_home import Winner

DEFAULT_STORE = "nas.db"

StoreOption = Annotated[
    str | None,
    Parameter(name="--store", help="Database: a path or URL. [default: $NAS_STORE, or nas.db in this folder]"),
]
JobArgument = Annotated[str, Parameter(help="A Python file that builds a nas.Study, or package.module:name.")]
JobOption = Annotated[str | None, Parameter(help="The job, if it is not where the study was run from.")]
TrialArgument = Annotated[int, Parameter(help="Number of a trial, as 'nas front' lists them.")]
DeviceOption = Annotated[
    str,
    Parameter(help="A label as 'cpu,threads=2,runtime=onnx' or 'cuda:0', or a name of the job or the database."),
]
StudyArgument = Annotated[str, Parameter(help="Name of a study; 'nas studies' lists them.")]

# What a command opened, to be closed when it ends.
_stores: list[Store] = []

app = App(
    name="nas",
    help="Search a space of networks that share one set of weights, on your hardware.",
    version=nas.__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # `run` says how to go on
)
db = App(name="db", help="The database's schema.")
app.command(db)
predictor = App(name="predictor", help="Predictors of latency, kept for each device.")
app.command(predictor)


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    try:
        try:
            app(list(arguments), exit_on_error=False, print_error=True, result_action="return_value")
        finally:
            while _stores:
                _stores.pop().close()
    except CycloptsError:
        return 2  # cyclopts has printed what is wrong, with its suggestion
    except BrokenPipeError:  # `nas front ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except NasError as error:
        sys.stderr.write(f"nas: {error}\n")
        return 2
    except OSError as error:  # a full disk, a folder that may not be written
        sys.stderr.write(f"nas: {error.strerror or error}{f': {error.filename}' if error.filename else ''}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("nas: interrupted; the same command goes on where it stopped\n")
        return 130
    return 0


@app.command
def train(
    job: JobArgument,
    *,
    workers: int = 1,
    ray: bool = False,
    address: str | None = None,
    restart: bool = False,
    quiet: bool = False,
) -> None:
    """Train the supernet of a job; goes on where it stopped, with as many workers as it is given then.

    Args:
        workers: processes that share every batch, each with a core, or a GPU where the training is on "cuda".
        ray: use Ray Train's workers; the training's path is one that all machines share.
        address: host:port of the Ray head, on a machine of the cluster; implies --ray. [default: $RAY_ADDRESS, or its own]
        restart: begin anew, even if there is a checkpoint.
        quiet: no progress.
    """
    from nas.cli.job import load_job
    from nas.cli.output import print_text
    from nas.errors import JobError

    study = load_job(job)
    if study.training is None:
        raise JobError(f"job {job!r} has nothing to train; give its study Study(training=nas.Training(...))")
    if workers == 1 and not ray and address is None:
        result = study.training.run(progress=not quiet, resume=not restart)
    else:
        from nas.distributed import run as run_on

        result = run_on(study.training, workers, ray=ray, address=address, progress=not quiet, resume=not restart)
    last = result.history.iloc[-1] if len(result.history) else {}
    watched = ", ".join(f"{name} {value:.4g}" for name, value in last.items() if str(name).endswith("accuracy"))
    print_text(f"trained {result.steps} steps in {result.seconds:.0f} s{': ' + watched if watched else ''}")
    if study.training.path is not None:
        print_text(f"supernet and logs: {study.training.path}")
    print_text(f"search it with: nas run {_quoted(job)}")


@app.command(name="run")
def run_study(
    job: JobArgument,
    *,
    trials: int | None = None,
    workers: int = 2,
    ray: bool = False,
    address: str | None = None,
    name: str | None = None,
    store: StoreOption = None,
    time_limit: float | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> None:
    """Search: evaluate archs until the study has enough trials; goes on where it stopped.

    A front of predicted latencies is measured at the end, where its device can be reached from here.

    Args:
        trials: finished trials to go on to. [default: what the job says]
        workers: worker processes; 0 evaluates in this one.
        ray: use Ray actors as workers.
        address: host:port of the Ray head, on a machine of the cluster; implies --ray. [default: $RAY_ADDRESS, or its own]
        name: of the study, instead of the job's.
        time_limit: stop an evaluation that takes longer than this many seconds.
        dry_run: check everything and evaluate one arch here, without a record.
        quiet: no progress.
    """
    from nas.cli.job import load_job
    from nas.cli.output import print_json, print_text
    from nas.cli.show import is_predicted

    study = load_job(job)
    if name is not None or store is not None or "NAS_STORE" in os.environ:
        study.rename(name or study.name, store=store or os.environ.get("NAS_STORE"))
    if dry_run:
        print_json(study.rehearse())
        return
    summary = study.run(trials, workers=workers, ray=ray, address=address, progress=not quiet, time_limit_s=time_limit)
    _stores.append(study.store)
    print_text(str(summary))
    predicted = is_predicted(study.record)
    if predicted:
        from nas.cli.hardware import measure_front

        measure_front(study, quiet)
    measure = " --measure" if predicted else ""
    print_text(f"see it with: nas front {_quoted(study.name)}{measure}{_store_hint(study.where)}")


@app.command(name="submit")
def submit_job(
    job: Annotated[str | None, Parameter(help="A Python file that builds a nas.Study, or package.module:name.")] = None,
    *,
    address: str | None = None,
    trials: int | None = None,
    workers: int = 2,
    name: str | None = None,
    store: StoreOption = None,
    time_limit: float | None = None,
    submission_id: str | None = None,
    no_wait: bool = False,
    logs: str | None = None,
    cancel: str | None = None,
) -> None:
    """Search on a Ray cluster, driven from there: sends the job file's folder along and follows what is printed.

    Ctrl-C cancels the job, which hands back the trials under way; the same command goes on. Token and ids are Ray's own.

    Args:
        address: http://HOST:8265 of the cluster's head. [default: $RAY_API_SERVER_ADDRESS]
        trials: finished trials to go on to. [default: what the job says]
        workers: actors.
        name: of the study, instead of the job's.
        time_limit: stop an evaluation that takes longer than this many seconds.
        submission_id: the job's id. [default: Ray chooses]
        no_wait: print the job's id and leave it running.
        logs: follow a job that was submitted before.
        cancel: stop a job that was submitted before.
    """
    from nas.cli import submit
    from nas.errors import JobError
    from nas.runners.jobs import Jobs

    if sum(one is not None for one in (job, logs, cancel)) != 1:
        raise JobError("say one of: a job to submit, --logs ID, or --cancel ID")
    if cancel is not None:
        submit.cancel(Jobs(address), cancel)
    elif logs is not None:
        submit.follow(Jobs(address), logs)
    else:
        assert job is not None
        given = {"--trials": trials, "--workers": workers, "--name": name, "--time-limit": time_limit}
        options = [text for option, value in given.items() if value is not None for text in (option, str(value))]
        submit.submit(
            job, options, store or os.environ.get("NAS_STORE"), address=address, name=submission_id, wait=not no_wait
        )


@app.command
def studies(*, store: StoreOption = None, format: Literal["table", "json"] = "table") -> None:
    """List the studies of a database."""
    from nas.cli.output import print_json, print_table
    from nas.store import STATES

    found = _reading(store).studies()
    if format == "json":
        print_json(
            [
                {
                    "study": summary.name,
                    "space": summary.space,
                    "objectives": [f"{metric.goal} {metric.name}" for metric in summary.objectives],
                    "trials": summary.counts,
                    "front": summary.front_size,
                    "best": summary.best,
                }
                for summary in found
            ]
        )
        return
    print_table(
        ["study", "space", "objectives", *(state.lower() for state in STATES), "front"],
        [
            [
                summary.name,
                summary.space,
                ", ".join(f"{metric.goal} {metric.name}" for metric in summary.objectives),
                *(summary.counts.get(state, 0) for state in STATES),
                summary.front_size,
            ]
            for summary in found
        ],
    )


@app.command
def show(
    study: StudyArgument,
    *,
    store: StoreOption = None,
    state: Literal["WAITING", "RUNNING", "COMPLETED", "INFEASIBLE", "FAILED"] | None = None,
    where: str | None = None,
    limit: int = 20,
    format: Literal["table", "json"] = "table",
    everything: Annotated[bool, Parameter(name="--all")] = False,
) -> None:
    """Show what a study is, how far it is, and its latest trials.

    Args:
        state: only trials in this state.
        where: only trials that satisfy this filter, as in "latency_ms <= 2".
        limit: this many trials at the most.
        everything: show every measurement, also how it was measured.
    """
    from nas.cli.show import show_study

    clauses = [f"({where})"] if where else []
    clauses += [f"state == {state!r}"] if state else []
    show_study(_reading(store).open_study(study), " and ".join(clauses) or None, limit, format, everything)


@app.command
def front(
    study: StudyArgument,
    *,
    store: StoreOption = None,
    where: str | None = None,
    format: Literal["table", "json", "csv", "html", "png"] | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    everything: Annotated[bool, Parameter(name="--all")] = False,
    measure: bool = False,
    job: JobOption = None,
) -> None:
    """Print or draw the Pareto front of a study.

    Args:
        where: the front of the trials that satisfy this filter, as in "latency_ms <= 2 and params < 50_000".
        format: table unless given, or what the output's ending says.
        output: file to write instead of printing; html and png need one. [default: STUDY-front.FORMAT]
        everything: print every measurement, also how it was measured.
        measure: measure every trial of a front of predicted latencies, until all of the front is measured.
    """
    from nas.cli.show import write_front

    record, found = _reading(store).open_study(study), None
    if measure:
        from nas.cli.hardware import ticker
        from nas.study.measuring import measured_front

        found = measured_front(_declared(study, job, store), where, ticker(quiet=False))
    write_front(record, where, format, output, everything, measured=found)


@app.command
def extract(
    study: StudyArgument,
    trial: TrialArgument,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    job: JobOption = None,
    store: StoreOption = None,
) -> None:
    """Take a trial's network home, after checking that it computes what was evaluated.

    Writes DIR/model.safetensors, DIR/arch.json and DIR/load.py, whose load() gives an ordinary PyTorch module.

    Args:
        output: folder to write; it must not exist, or be empty.
    """
    from nas.cli.output import print_text
    from nas.study.take_home import check_folder

    check_folder(output)
    winner = _winner(study, trial, job, store)
    winner.write(output)
    print_text(str(winner))
    print_text(f"wrote {output}/: model.safetensors, arch.json, load.py")


@app.command
def export(
    study: StudyArgument,
    trial: Annotated[int | None, Parameter(help="Number of a trial; without one, the whole front as elastic.")] = None,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    format: Literal["pt2", "onnx", "safetensors", "pretrained", "elastic"] | None = None,
    fixed_batch: bool = False,
    where: str | None = None,
    job: JobOption = None,
    store: StoreOption = None,
) -> None:
    """Write a trial's network, or the whole front, for another program, after checking that it computes what was evaluated.

    What was written is read back and its outputs are compared; nothing is left where they differ.

    Args:
        output: file to write; a folder for pretrained and elastic.
        format: pt2 is torch.export; onnx is one file; safetensors has the weights alone; pretrained is what the model's class
            itself saves; elastic is the front on one set of weights, for nas.ElasticModel.load. [default: elastic without a
            trial, else what the output's ending says]
        fixed_batch: a graph for one sample, for a model that cannot have an open batch.
        where: the front of the trials that satisfy this filter; without a trial only.
    """
    from nas.cli.output import print_text
    from nas.deploy import export as write
    from nas.deploy import format_of
    from nas.errors import DeployError

    if trial is None:
        if format not in (None, "elastic") or fixed_batch:
            raise DeployError(
                "pt2, onnx, safetensors and pretrained hold one network; say which trial, as 'nas front' lists"
            )
        from nas.cli.fronts import write_elastic

        print_text(write_elastic(_declared(study, job, store), output, where))
        return
    if format == "elastic" or where is not None:
        raise DeployError(
            f"elastic holds the whole front; leave out the trial {trial}, or --format elastic and --where"
        )
    chosen = format_of(output, format)
    winner = _winner(study, trial, job, store)
    done = write(winner.module, output, chosen, winner.example, any_batch=not fixed_batch)
    print_text(str(winner))
    print_text(str(done))


@app.command(name="export-optuna")
def export_optuna(
    study: StudyArgument,
    url: Annotated[str, Parameter(help="Optuna's database: a path, or a URL as sqlite:///optuna.db.")],
    *,
    name: str | None = None,
    store: StoreOption = None,
    quiet: bool = False,
) -> None:
    """Write a study for optuna-dashboard: parameters, values, states, times, and the rest as user attributes.

    Args:
        name: of the study there. [default: as it is called here]
        quiet: no progress.
    """
    from nas.cli.output import print_text, showing
    from nas.optuna import export_study

    record = _reading(store).open_study(study)
    with showing(f"writing {study}", quiet) as progress:
        done = export_study(record, url, name, progress)
    print_text(str(done))
    print_text(f"see it with: optuna-dashboard {_quoted(done.database)}")


def _winner(study: str, trial: int, job: str | None, store: str | None) -> Winner:
    """A trial's network, checked."""
    from nas.study.take_home import take_home

    return take_home(_declared(study, job, store), trial)


def _declared(study: str, job: str | None, store: str | None) -> Study:
    """A study as the job declares it that it was run from."""
    from nas.cli.job import load_job
    from nas.errors import JobError

    opened = _reading(store)
    record = opened.open_study(study)
    reference = job or record.settings.get("job")
    if reference is None:
        raise JobError(f"study {study!r} was not run from a job file; say which builds it with --job")
    declared = load_job(reference)
    declared.rename(study, store=opened)
    return declared


@app.command
def devices(*, store: StoreOption = None, format: Literal["table", "json"] = "table") -> None:
    """List this machine's devices and those of a database, with what was measured on them."""
    from nas.cli.hardware import show_devices
    from nas.store import open_store

    there = store is not None or "NAS_STORE" in os.environ or Path(DEFAULT_STORE).exists()
    show_devices(open_store(_url(store), create=False) if there else None, format == "json")


@app.command
def measure(
    job: JobArgument,
    *,
    device: DeviceOption = "cpu",
    archs: int = 100,
    few: bool = False,
    command: str | None = None,
    energy: bool = False,
    store: StoreOption = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> None:
    """Measure archs of a job's space on a device, alone on the machine; goes on where it stopped.

    Args:
        archs: go on until the device has so many.
        few: choose the archs that say most about a new device, given the other devices of the database.
        command: the device is this command, which reads {model} (an ONNX file) and prints milliseconds.
        energy: also energy and memory, where the platform exposes them.
        dry_run: check everything and say what would be measured.
        quiet: no progress.
    """
    from nas.cli import hardware

    study, opened = _job_and_store(job, store)
    hardware.measure(study, opened, device, archs, command, few=few, energy=energy, dry_run=dry_run, quiet=quiet)


@predictor.command(name="fit")
def predictor_fit(
    job: JobArgument,
    *,
    device: DeviceOption = "cpu",
    kind: Literal["auto", "ridge", "gp", "gbdt", "mlp", "lookup", "fewshot"] = "auto",
    noisy: bool = False,
    store: StoreOption = None,
    quiet: bool = False,
) -> None:
    """Fit a predictor to what 'nas measure' found, and keep it with its error on archs held out.

    Args:
        kind: auto takes the regressor that cross-validation prefers; lookup measures the parts of models and adds them up;
            fewshot uses every other device of the database and needs ten archs.
        noisy: use measurements that are flagged as noisy, too.
        quiet: no progress.
    """
    from nas.cli import hardware

    study, opened = _job_and_store(job, store)
    hardware.fit(study, opened, device, kind, noisy=noisy, quiet=quiet)


@predictor.command(name="show")
def predictor_show(*, store: StoreOption = None, format: Literal["table", "json"] = "table") -> None:
    """List predictors with their errors on archs held out of the fit."""
    from nas.cli.hardware import show_predictors

    show_predictors(_reading(store), format == "json")


def _job_and_store(job: str, store: str | None) -> tuple[Study, Store]:
    """A job's study, and the database that it or the command line names."""
    from nas.cli.job import load_job

    study = load_job(job)
    if store is not None or "NAS_STORE" in os.environ:
        study.rename(study.name, store=store or os.environ["NAS_STORE"])
    return study, study.store


@app.command
def doctor(*, store: StoreOption = None) -> None:
    """Check versions, devices, threads and the database, and say what to mend."""
    from nas.cli.doctor import examine
    from nas.cli.output import print_table

    findings = examine(_url(store))
    print_table(["what", "found", "advice"], [[f.what, f.found, f.advice] for f in findings])
    if any(finding.bad for finding in findings):
        raise NasError("something needs mending: see the advice above")


@db.command
def upgrade(*, store: StoreOption = None) -> None:
    """Bring the database to the schema of this version."""
    from nas.cli.output import print_text

    with _of_any_revision(store) as opened:
        before, head = opened.current()
        opened.upgrade()
    done = "nothing to do" if before == head else f"upgraded from {before or 'none'}"
    print_text(f"{_shown(store)}: schema {head}, {done}")


@db.command
def current(*, store: StoreOption = None) -> None:
    """Print the database's schema revision and the one this version needs."""
    from nas.cli.output import print_text

    with _of_any_revision(store) as opened:
        revision, head = opened.current()
    print_text(f"{_shown(store)}: schema {revision or 'none'}, this version of supernas needs {head}")


@db.command(name="copy")
def copy_database(source: str, target: str, *, quiet: bool = False) -> None:
    """Copy a database into another, empty one, from SQLite to PostgreSQL or back, and compare the two.

    All of it is copied or nothing.  A study that runs meanwhile is copied as it was at the start.

    Args:
        source: path or URL of what to copy.
        target: path or URL; made if it is a file that is not there.
        quiet: no progress.
    """
    from nas.cli.output import copying, print_text
    from nas.store import open_store
    from nas.store.database import shown

    _stores.append(open_store(source, create=False, read_only=True))
    _stores.append(open_store(target))
    with copying(quiet) as progress:
        copied = _stores[-2].copy_to(_stores[-1], progress)
    print_text(f"copied {shown(source)} to {shown(target)}: {copied}")


def _url(store: str | None) -> str:
    return store or os.environ.get("NAS_STORE") or DEFAULT_STORE


def _reading(store: str | None) -> Store:
    """The database to read: it must exist."""
    from nas.store import open_store

    _stores.append(open_store(_url(store), create=False))
    return _stores[-1]


def _of_any_revision(store: str | None) -> Store:
    from nas.store import open_store

    return open_store(_url(store), create=False, any_revision=True)


def _shown(store: str | None) -> str:
    from nas.store.database import shown

    return shown(_url(store))


def _store_hint(where: str) -> str:
    return "" if where == _shown(None) else f" --store {_quoted(where)}"


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
