"""Modules that the package works without, and what to install where one is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def needed(module: str, extra: str, use: str) -> Any:
    """A module that only `use` needs; ImportError says how to have it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package
        why = f"{package} is not installed" if missing else f"{module} cannot be imported: {error}"
        raise ImportError(f"{use}: {why}; `pip install 'checkmap[{extra}]'` installs it", name=module) from error
