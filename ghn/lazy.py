"""A package's public names, imported on first use: `--help` and drawing networks do not wait for torch."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def exports(namespace: dict[str, Any], modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list]]:
    """A package's `__getattr__` and `__dir__` (PEP 562). namespace: its globals(). modules: name -> its module."""

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        namespace[name] = getattr(importlib.import_module(modules[name]), name)
        return namespace[name]

    return find, lambda: sorted([*namespace, *modules])
