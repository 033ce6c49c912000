"""A module in onnxruntime: exported, checked, and called with the same inputs each time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.errors import DeployError, DeviceError
from nas.supernet.inputs import Inputs, plain, tensors_in


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
        names = [entry.name for entry in loaded.get_inputs()]
        feeds = dict(zip(names, (tensor.numpy() for tensor in tensors_in(plain(inputs))), strict=True))
        yield lambda: loaded.run(None, feeds)
