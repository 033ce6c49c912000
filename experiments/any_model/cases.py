"""All models that the conversion is tried on, by name; each builds when it is called."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import handwritten
import libraries
import listed
from case import Case

SOURCES = ("first", "hf", "timm", "tv", "hand", "more")
LIBRARIES = {"timm": "timm", "tv": "torchvision", "hf": "transformers"}


def catalogue() -> dict[str, Callable[[], Case]]:
    """Builders by name, `source/model`; a builder whose library is missing raises ModuleNotFoundError."""
    return {
        **{f"first/{name}": build for name, build in listed.FIRST.items()},
        **{f"hf/{name}": build for name, build in listed.huggingface().items()},
        **{f"timm/{name}": build for name, build in listed.TIMM.items()},
        **{f"tv/{name}": build for name, build in listed.TORCHVISION.items()},
        **{f"hand/{name}": build for name, build in handwritten.MODELS.items()},
        **{f"more/{name}": build for name, build in libraries.MODELS.items()},
    }


def there(library: str) -> bool:
    return find_spec(library) is not None
