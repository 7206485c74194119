"""`lpips` and `torch_fidelity` without torchvision, which they import and hardly use here.

They are installed without what they depend on (see the Makefile), since torchvision brings another
PyTorch, of gigabytes.
"""

import importlib
import sys
import types

import pytest
from torch import nn


def alexnet_features():
    """The layers of torchvision's `alexnet().features`."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )


def vgg16_features():
    """The layers of torchvision's `vgg16().features`."""
    layers, before = [], 3
    for width in (64, 64, "M", 128, 128, "M", *(256,) * 3, "M", *(512,) * 3, "M", *(512,) * 3, "M"):
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
    return nn.Sequential(*layers)


FEATURES = {"alex": alexnet_features, "vgg": vgg16_features}


class _StandIn(types.ModuleType):
    """A module that has, and whose submodules have, any name: a class of no use."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _torchvision():
    """As much of it as is looked at: the classifiers' features, with random weights."""
    places = ("", ".datasets", ".models", ".transforms", ".transforms.functional")
    modules = {f"torchvision{place}": _StandIn(f"torchvision{place}") for place in places}
    for name, module in modules.items():
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(modules[parent], own, module)
    models = modules["torchvision.models"]
    models.alexnet = lambda **_: types.SimpleNamespace(features=alexnet_features())
    models.vgg16 = lambda **_: types.SimpleNamespace(features=vgg16_features())
    return modules


def imported(name):
    """A module of one of the packages; skips the tests of a file where it is not installed."""
    stand_ins = {k: v for k, v in _torchvision().items() if k not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        return pytest.skip(f"{error.name} is not installed", allow_module_level=True)
    finally:
        for stand_in in stand_ins:
            del sys.modules[stand_in]
