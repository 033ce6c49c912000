"""Search spaces: a symbolic value with open choices, compiled.

- `model`: makes a model function of a function or class.
- `Space`: the compiled space: sample, mutate, crossover, neighbours, enumerate, size, features, build, DNA.
- `Arch`: one closed point of it.
- `Decision`: one open choice of it.
"""

from __future__ import annotations

from nas.space.arch import Arch
from nas.space.compiling import Decision
from nas.space.model import model
from nas.space.space import Space

__all__ = ["Arch", "Decision", "Space", "model"]
