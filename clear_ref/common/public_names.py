"""Public names of a package that are imported when they are first used.

So a command that computes nothing with torch does not wait for its import.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def public_names(package: str, module_of: Mapping[str, str]) -> Callable[[str], Any]:
    """The function __getattr__ of a package (PEP 562).

    package    its __name__
    module_of  {public name: module of the package that defines it, or that it stands for}
    """

    def name_of_package(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{module_of[name]}")
        value = getattr(module, name, module)
        setattr(sys.modules[package], name, value)
        return value

    return name_of_package
