"""Using what a search found: one set of weights that changes its size between two calls, and files for other runtimes.

- `ElasticModel(supernet, front)`: `choose`, `switch`, call, `extract`, `export`, `save`, `load`.
- `Point`: an arch of a front and what it measured.
- `export(module, path)`: torch.export (`.pt2`), ONNX, safetensors, the class's own `save_pretrained`; checked.
- `fold(module, example)`: layers merged where outputs stay what they are; `Folded`.
- `Export`: what it wrote, how near the outputs are, and the hashes to `verify` a copy with.
"""

from nas.deploy.elastic import ElasticModel, Point
from nas.deploy.export import FORMATS, Export, Format, check_target, export, format_of
from nas.deploy.folding import Folded, fold

__all__ = [
    "FORMATS",
    "ElasticModel",
    "Export",
    "Folded",
    "Format",
    "Point",
    "check_target",
    "export",
    "fold",
    "format_of",
]
