"""Time on a CUDA device: events on the stream around a replayed graph, with the cache emptied before each run.

Events measure what the device takes and not what Python takes to launch; a graph leaves launches out as well, as a deployed
model would.  Weights that are still in the L2 cache from the run before would make small models look faster than they are in
use, so that a buffer larger than the cache is overwritten first, before the first event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

WARM_UP = 3
LEAST_FLUSH = 32 * 2**20


def flush_bytes(cache: int) -> int:
    """Size of the buffer that empties a cache of `cache` bytes: twice as much, and 32 MiB where it is not known."""
    return max(2 * cache, LEAST_FLUSH)


class CudaClock:
    """Milliseconds by CUDA events.

    Args:
        device: "cuda" or "cuda:N".
        graph: record the call once and replay it; a model that cannot be recorded is called, and `facts` says so.
        flush: empty the L2 cache before each run.
    """

    def __init__(self, device: torch.device, *, graph: bool = True, flush: bool = True) -> None:
        self.device, self.graph = device, graph
        self._why_not: list[str] = []
        cache = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0))
        self._buffer = torch.empty(flush_bytes(cache), dtype=torch.int8, device=device) if flush else None

    def ready(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """The recorded call, or `run` itself where it cannot be recorded."""
        with torch.cuda.device(self.device):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # lazy initialisation must not be recorded
                for _ in range(WARM_UP):
                    run()
            torch.cuda.current_stream().wait_stream(side)
            return self._recorded(run) if self.graph else run

    def _recorded(self, run: Callable[[], Any]) -> Callable[[], Any]:
        recorded = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(recorded):
                run()
        except RuntimeError as error:  # it looks at values, or allocates in a way that cannot be replayed
            torch.cuda.synchronize()
            self._why_not.append(str(error).splitlines()[0][:120])
            return run
        return recorded.replay

    def ms(self, run: Callable[[], Any]) -> float:
        """Milliseconds of one run on the device."""
        with torch.cuda.device(self.device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            if self._buffer is not None:
                self._buffer.zero_()
            torch.cuda.synchronize()
            start.record()
            run()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end))

    def facts(self) -> dict[str, str]:
        """Whether graphs were replayed and the cache was emptied."""
        graph = "off" if not self.graph else f"not recorded: {self._why_not[0]}" if self._why_not else "replayed"
        return {
            "gpu": torch.cuda.get_device_name(self.device),
            "cuda": str(torch.version.cuda),
            "graph": graph,
            "cache": "kept" if self._buffer is None else "emptied",
        }
