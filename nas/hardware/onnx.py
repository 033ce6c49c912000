"""A module in onnxruntime: exported, checked, and called with the same inputs each time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from nas.errors import DeployError, DeviceError

Inputs: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]


@contextmanager
def session(module: nn.Module, inputs: Inputs, threads: int) -> Iterator[Callable[[], Any]]:
    """A call without arguments of the exported module.

    Raises:
        DeviceError: onnxruntime is not installed, or the module cannot be exported.
    """
    from nas.deploy import export

    with tempfile.TemporaryDirectory(prefix="nas-onnx-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            with torch.inference_mode(False):
                export(module, path, "onnx", inputs, any_batch=False)
        except DeployError as error:
            raise DeviceError(f"the module cannot be measured in onnxruntime: {error}") from error
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        loaded = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feeds = dict(zip([entry.name for entry in loaded.get_inputs()], _arrays(inputs), strict=True))
        yield lambda: loaded.run(None, feeds)


def _arrays(inputs: Inputs) -> list[Any]:
    if isinstance(inputs, Tensor):
        return [inputs.numpy()]
    items = inputs.values() if isinstance(inputs, Mapping) else inputs
    return [item.numpy() for item in items if isinstance(item, Tensor)]
