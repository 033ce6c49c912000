"""The text of `load.py`: builds a network from `network.json` and loads its weights, with torch and safetensors alone."""

from __future__ import annotations

NOTE = "{note}"
"""Where in the text something about these weights is said, as text that cannot end a string."""

LOADER = '''"""The network that arch.json describes: which trial of which study, and what it measured.

    from load import load
    model = load()  # an ordinary torch.nn.Module in eval mode

It needs torch, safetensors and the packages that the model's own classes come from; network.json says what the model is made of,
and source/ has the classes that are in no package.
{note}"""

import collections
import functools
import hashlib
import importlib
import json
import sys
import types
from pathlib import Path

import torch
import torch.nn.utils.parametrize
from safetensors.torch import load_file, load_model

_HERE = Path(__file__).resolve().parent
_KNOWN = str(_HERE).encode() + ((_HERE / "arch.json").read_bytes() if (_HERE / "arch.json").exists() else b"")
_PACKAGE = "network_" + hashlib.sha256(_KNOWN).hexdigest()[:12]  # its own classes: other folders have others of the same names


def _check(kind=""):
    """Every file whose name ends so is what was written: arch.json has their hashes, and ends with one of itself."""
    try:
        text = (_HERE / "arch.json").read_bytes()
        body, _, end = text.rpartition(b',\\n "sha256": "')
        wrong = [] if end == hashlib.sha256(body).hexdigest().encode() + b'"\\n}\\n' else ["arch.json"]
        for name, digest in [] if wrong else json.loads(text)["files"].items():
            if not name.endswith(kind):
                continue
            if not (_HERE / name).resolve().is_relative_to(_HERE):
                raise ValueError(name + " leads out of the folder")
            with open(_HERE / name, "rb") as file:
                wrong += [name] if hashlib.file_digest(file, "sha256").hexdigest() != digest else []
    except (OSError, ValueError) as error:
        raise RuntimeError(f"{str(_HERE)!r} is not whole: {error}; copy it again, or extract the trial again") from None
    if wrong:
        raise RuntimeError(
            f"{str(_HERE / wrong[0])!r} is not what was saved (its hash differs); copy it again, or extract the trial again"
        )


def _find(module, name, beside):
    """A class or function, of a package or of source/."""
    if beside and _PACKAGE not in sys.modules:
        package = sys.modules[_PACKAGE] = types.ModuleType(_PACKAGE)
        package.__path__ = [str(_HERE / "source")]
    found = importlib.import_module(f"{_PACKAGE}.{module}" if beside else module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


class _Builder:
    """Objects by class and attributes: no constructor is called."""

    def __init__(self, described, constants):
        self.described, self.constants = described["objects"], constants
        self.tensors = [self.tensor(*one) for one in described["parameters"]]
        self.objects = [self.empty(one) for one in self.described]
        for made, one in zip(self.objects, self.described):
            self.fill(made, one)
        for made, one in zip(self.objects, self.described):
            if one.get("parametrized"):  # as torch does when a parametrization is registered
                torch.nn.utils.parametrize._inject_new_class(made)
                for name in made.parametrizations:
                    torch.nn.utils.parametrize._inject_property(made, name)
            if one.get("rnn"):
                made._init_flat_weights()

    def tensor(self, shape, dtype, trains):
        made = torch.empty(shape, dtype=getattr(torch, dtype))
        return made if trains is None else torch.nn.Parameter(made, requires_grad=trains)

    def empty(self, one):
        kind = _find(*one["class"])
        made = kind.__new__(kind)
        if "modules" in one:
            torch.nn.Module.__init__(made)
        return made

    def fill(self, made, one):
        table = vars(made)
        if "modules" in one:
            for place in ("parameters", "buffers", "modules"):
                table["_" + place].update({name: self.value(item) for name, item in one[place].items()})
            table["_non_persistent_buffers_set"].update(one["transient"])
        table.update({name: self.value(item) for name, item in one["attributes"].items()})

    def value(self, item):
        if not isinstance(item, dict):
            return item
        ((kind, given),) = item.items()
        return getattr(self, "of_" + kind)(given)

    def of_object(self, place):
        return self.objects[place]

    def of_tensor(self, place):
        return self.tensors[place]

    def of_constant(self, name):
        return self.constants[name]

    def of_float(self, text):
        return float(text)

    def of_torch(self, name):
        return getattr(torch, name)

    def of_device(self, name):
        return torch.device(name)

    def of_enum(self, given):
        return _find(*given[0])[given[1]]

    def of_name(self, given):
        return _find(*given)

    def of_list(self, items):
        return [self.value(item) for item in items]

    def of_tuple(self, items):
        return tuple(self.of_list(items))

    def of_set(self, items):
        return set(self.of_list(items))

    def of_frozenset(self, items):
        return frozenset(self.of_list(items))

    def of_size(self, items):
        return torch.Size(items)

    def of_dict(self, pairs):
        return {self.value(key): self.value(item) for key, item in pairs}

    def of_ordered(self, pairs):
        return collections.OrderedDict((self.value(key), self.value(item)) for key, item in pairs)

    def of_partial(self, given):
        function, positional, keywords = map(self.value, given)
        return functools.partial(function, *positional, **keywords)

    def of_method(self, given):
        return getattr(self.value(given[0]), given[1])


_check(".py")


def load():
    """The network, with its weights."""
    _check()
    described = json.loads((_HERE / "network.json").read_text(encoding="utf-8"))
    constants = _HERE / "constants.safetensors"
    model = _Builder(described, load_file(constants) if constants.exists() else {}).objects[0]
    load_model(model, _HERE / "model.safetensors")
    return model.eval()
'''

# In a process of its own, where nothing of the search can be imported: the network loads and runs.
BARE = """
import sys
sys.path[:] = {paths!r}


class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ImportError(name + " is no part of the network")


sys.meta_path.insert(0, Nothing())
import torch

torch.set_num_threads(1)
sys.path.insert(0, {folder!r})
sys.dont_write_bytecode = True
from load import load

load()
"""
BLOCKED = ("nas", "searchspaces", "pyglove")
