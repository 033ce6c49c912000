"""Runs a function in several processes that have joined a process group; what they give comes back as tensors."""

from __future__ import annotations

import multiprocessing as mp
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Found = dict[str, Tensor]
IMPORTED = ["torch._dynamo", "safetensors.torch", "pandas", "nas.convert.elastic", "nas.train", "searchspaces.conv"]
"""Once for all processes, which are forks of one that has no threads; they would take seconds each."""


def in_ranks(size: int, function: Callable[[], Found], folder: Path) -> list[Found]:
    """What `function` gives in each of `size` processes."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    processes = [context.Process(target=_join, args=(function, rank, size, str(folder))) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * size
    return [load_file(folder / f"{rank}.safetensors") for rank in range(size)]


def _join(function: Callable[[], Found], rank: int, size: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    save_file({name: one.contiguous() for name, one in function().items()}, Path(folder) / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()
