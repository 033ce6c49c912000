"""A module as a file that other runtimes read, checked by reading it back and comparing outputs."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nas import files, sealed
from nas.checking import checked
from nas.deploy.folding import Folded
from nas.deploy.folding import fold as merged
from nas.deploy.probes import probes
from nas.errors import DeployError, suggest
from nas.sealed import Damaged
from nas.supernet import Inputs, tensors
from nas.supernet.configuring import fitted
from nas.supernet.inputs import arguments, batch_axes, call, convert, has_batch, plain, repeated, tensors_in
from nas.supernet.rounding import first_difference, gap

Format: TypeAlias = Literal["pt2", "onnx", "safetensors", "pretrained"]
FORMATS: tuple[Format, ...] = get_args(Format)
TOLERANCE = 1e-4
"""Largest difference of an output, relative to the largest, where another runtime computes it: its exponentials are its own."""


@dataclass(frozen=True)
class Export:
    """What was written, and how near its outputs are."""

    path: Path
    format: Format
    difference: float
    """Largest absolute difference between outputs of what was read back and of the module, over the inputs compared."""
    hashes: Mapping[str, str]
    """SHA-256 by the name of the file, or of each file in the folder."""
    left_out: tuple[str, ...] = ()
    """Types among the module's outputs that no graph gives, such as a cache of keys and values."""
    folded: Folded | None = None
    """How layers were merged before; None if that was not asked for."""

    def __str__(self) -> str:
        said = f"wrote {self.path} ({self.format}); outputs differ by at most {self.difference:.2g} from the module's"
        said += f"; without its {', '.join(self.left_out)}, which a graph cannot give" if self.left_out else ""
        said += f"; {self.folded}" if self.folded is not None else ""
        return f"{said}; sha256 {self.hashes[self.path.name]}" if self.path.name in self.hashes else said

    def verify(self, path: str | Path | None = None) -> None:
        """Compare what was exported, or the copy of it in `path`, with its hashes: the programs that read it have none.

        Raises:
            DeployError: a file is missing or another one.
        """
        target = Path(path) if path is not None else self.path
        for name, digest in self.hashes.items():
            file = target / name if self.format == "pretrained" else target
            try:
                sealed.verify(file, digest)
            except Damaged as error:
                raise DeployError(f"{str(file)!r} is not the export: {error}; copy it or export it again") from error


@checked(DeployError)
def export(
    module: nn.Module,
    path: str | Path,
    format: Format | None = None,
    example: Inputs | None = None,
    *,
    any_batch: bool = True,
    fold: bool = False,
    force: bool = False,
) -> Export:
    """Write `module` in eval mode, read it back, compare outputs, and only then let the file appear under its name.

    - "pt2": `torch.export`, for `torch.export.load(path).module()`.
    - "onnx": one ONNX file (extra `onnx`), compared in onnxruntime.
    - "safetensors": the weights alone, for `safetensors.torch.load_model` into a module of the same shape.
    - "pretrained": a folder by the class's own `save_pretrained`, for its `from_pretrained`.

    Weights that are read back into the same class are compared bit for bit, outputs within their rounding; those of a graph,
    which another runtime computes, within `TOLERANCE`.  Compared are the example and, where inputs are numbers with a fraction,
    normal noise of the same shape; of a graph with an open batch also three samples of each.  The graph is for a CPU, whatever
    device the module is on.  Objects among the outputs that are neither numbers nor containers known to `torch.utils._pytree`, as
    the cache of a language model, are left out of a graph, which is said.

    Args:
        module: ordinary, as `extract` gives.  It is left alone.
        path: file, which must be empty or not there; folder of "pretrained", likewise.
        format: what the ending of `path` says unless given; no ending is "pretrained".
        example: inputs that the module takes: a tensor, a tuple, or a mapping.
        any_batch: the axis of the batch stays open in "pt2" and "onnx": the first, or what a `nas.Example` says.
        fold: merge layers first, as `nas.fold` does; a class's own "pretrained" has no place for that.
        force: replace the file that is there; a folder is never replaced.

    Raises:
        DeployError: something else would be written over, the file cannot be written, the format is unknown, the backend is
            not installed or cannot express the module, or outputs differ.  Nothing is written then.
    """
    target = Path(path)
    chosen = format_of(target, format)
    if example is None:
        raise DeployError("export needs inputs to compare with; give example=, as the task's or the supernet's example")
    check_target(target, chosen, force=force)
    if fold and chosen == "pretrained":
        raise DeployError(
            f"{type(module).__name__}.from_pretrained builds all layers; export a folded network as pt2, onnx or safetensors"
        )
    own, left_out = copy.deepcopy(module).cpu().eval(), set[str]()
    sample = convert(example, lambda tensor: tensor.detach().cpu())
    folded = merged(own, sample) if fold else None
    own = own if folded is None else folded.module
    if chosen in ("pt2", "onnx"):
        own.register_forward_hook(functools.partial(_known_outputs, left_out))
    any_batch = any_batch and has_batch(sample)
    with files.explained(target, DeployError), files.replacing(target, durable=True) as half, _quiet():
        try:
            again, compared = _WRITERS[chosen](own, half, sample, any_batch)
            gaps = [
                gap(own, again, probe, relative=TOLERANCE if chosen in ("pt2", "onnx") else 0.0) for probe in compared
            ]
        except DeployError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and files.is_full(error):
                raise
            raise DeployError(_refusal(own, chosen, any_batch, error)) from error
        far = max(one.absolute for one in gaps)
        if not all(one.same for one in gaps):
            raise DeployError(
                f"{type(module).__name__} as {chosen} gives outputs that differ by {far:.2g}; nothing was written"
            )
        written = sorted(file for file in half.rglob("*") if file.is_file()) if half.is_dir() else [half]
        home = half if half.is_dir() else half.parent
        hashes = {str(file.relative_to(home)): sealed.digest(file) for file in written}
    return Export(target, chosen, far, hashes, tuple(sorted(left_out)), folded)


def format_of(path: Path, format: str | None = None) -> Format:
    """The format given, or what the ending of `path` says.

    Raises:
        DeployError: it is none of `FORMATS`.
    """
    name = format if format is not None else path.suffix[1:] or "pretrained"
    for known in FORMATS:
        if name == known:
            return known
    what = f"format {name!r}" if format is not None else f"ending of {str(path)!r}"
    raise DeployError(f"{what} is not one of {', '.join(FORMATS)}{suggest(name, FORMATS)}")


# -- one writer a format: writes to a path; what was read back, and the inputs to compare with

Reader: TypeAlias = Callable[[Inputs], Any]
Written: TypeAlias = tuple[Reader, list[Inputs]]


def _pt2(module: nn.Module, path: Path, example: Inputs, any_batch: bool) -> Written:
    buffer = io.BytesIO()  # torch's own writer ends the process when the disk is full
    torch.export.save(_program(module, example, any_batch), buffer)
    path.write_bytes(buffer.getbuffer())
    again = torch.export.load(path).module()
    return lambda inputs: call(again, inputs), probes(example, any_batch)


def _onnx(module: nn.Module, path: Path, example: Inputs, any_batch: bool) -> Written:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it, and says so less clearly)
    except ImportError as error:
        raise DeployError(f"ONNX needs {error.name}; install it with: pip install 'supernas[onnx]'") from None
    program = torch.onnx.export(_program(module, example, any_batch), dynamo=True, verbose=False)
    assert program is not None
    program.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Inputs) -> list[Tensor]:
        feeds = dict(zip(names, (tensor.numpy() for tensor in tensors_in(plain(inputs))), strict=True))
        return [torch.from_numpy(array) for array in session.run(None, feeds)]

    return run, probes(example, any_batch)


def _safetensors(module: nn.Module, path: Path, example: Inputs, _any_batch: bool) -> Written:
    from safetensors.torch import load_model

    tensors.save_module(path, module)
    again = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in (*again.parameters(), *again.state_dict().values()):
            tensor.fill_(0)  # what is not in the file must be missed
    load_model(again, str(path))
    _expect_same_weights(module, again, "safetensors")
    return lambda inputs: call(again, inputs), probes(example, False)


def _pretrained(module: nn.Module, path: Path, example: Inputs, _any_batch: bool) -> Written:
    save: Any = getattr(module, "save_pretrained", None)
    load: Any = getattr(type(module), "from_pretrained", None)
    if save is None or load is None:
        raise DeployError(
            f"{type(module).__name__} has no save_pretrained and from_pretrained of its own; export it as "
            "safetensors, pt2 or onnx"
        )
    with tensors.writing(path), fitted(module):
        save(path)
    try:
        again = load(path).eval()
    except (RuntimeError, ValueError, KeyError) as error:
        raise DeployError(
            f"{type(module).__name__} saves this subnet and cannot read it back, as its configuration does not say what "
            "each block has; export it as safetensors, pt2 or onnx"
        ) from error
    _expect_same_weights(module, again, "pretrained")
    return lambda inputs: call(again, inputs), probes(example, False)


_WRITERS: Mapping[Format, Callable[[nn.Module, Path, Inputs, bool], Written]] = {
    "pt2": _pt2,
    "onnx": _onnx,
    "safetensors": _safetensors,
    "pretrained": _pretrained,
}


def _program(module: nn.Module, example: Inputs, any_batch: bool) -> torch.export.ExportedProgram:
    """The traced graph, with an open first axis where asked."""
    # A graph traced with one sample is a graph for one sample.
    positional, keywords = arguments(repeated(example, 3) if any_batch else example)
    with torch.no_grad():
        if not any_batch:
            return torch.export.export(module, positional, keywords)
        batch = torch.export.Dim("batch", min=1)
        shapes: Any = batch_axes(example, batch)
        if not isinstance(shapes, (tuple, dict)) or isinstance(plain(example), Tensor):
            shapes = (shapes,)
        kinds = {parameter.kind for parameter in inspect.signature(module.forward).parameters.values()}
        if positional and inspect.Parameter.VAR_POSITIONAL in kinds:
            shapes = (shapes,)  # what `*args` gathers is one argument: stitched paths take whatever their anchors do
        return torch.export.export(module, positional, keywords, dynamic_shapes=shapes)


def _known_outputs(left_out: set[str], _module: nn.Module, _inputs: Any, output: Any) -> Any:
    """The output of a module with None for what no graph gives; `left_out` has its types."""

    def known(leaf: Any) -> Any:
        if leaf is None or isinstance(leaf, (Tensor, int, float, str, torch.SymInt, torch.SymFloat, torch.SymBool)):
            return leaf
        left_out.add(type(leaf).__name__)
        return None

    return tree_map(known, output)


# -- comparing


def _expect_same_weights(module: nn.Module, again: nn.Module, format: Format) -> None:
    other = first_difference(module.state_dict(), again.state_dict())
    if other is not None:
        raise DeployError(
            f"{type(module).__name__} as {format} has another {other!r} when it is read again; nothing was written"
        )


# -- files and sentences


def check_target(path: Path, format: Format, *, force: bool = False) -> None:
    """Refuse what an export would write over; `export` asks this itself.

    Raises:
        DeployError: there is something that no export made, no folder to write in, or the ending is another format's.
    """
    if format == "pretrained":
        files.check_folder(path, DeployError, force=force)
    else:
        files.check(path, DeployError, force=force)
    files.check_ending(path, format, {f".{known}": known for known in FORMATS}, DeployError)


def _refusal(module: nn.Module, format: Format, any_batch: bool, error: Exception) -> str:
    """One sentence; the backend's own message is cut to its first line."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    said = (lines[0] if lines else "no reason given").rstrip(".:;")
    said = said if len(said) <= 200 else said[:197] + "..."
    graph = format in ("pt2", "onnx")
    remedy = "safetensors keeps the weights alone" if graph else "pt2 or onnx may express it"
    if graph and any_batch:
        remedy = f"a fixed batch (any_batch=False, --fixed-batch) may be expressible, and {remedy}"
    return f"{type(module).__name__} cannot be exported as {format}: {type(error).__name__}: {said}; {remedy}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The backends' warnings and log lines are about their own insides."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "transformers")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    bars: Any = sys.modules.get("transformers.utils.logging")
    bars = bars if bars is not None and bars.is_progress_bar_enabled() else None
    try:
        if bars is not None:
            bars.disable_progress_bar()
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars is not None:
            bars.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
