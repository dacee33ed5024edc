"""Imports the code of public projects from checkouts in one folder; none of it is kept here.

A module is imported with its project's folders first on the path, and with empty modules in place
of packages that are not installed and that no loss needs. who_passes.py runs the adapters.
"""

import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from clear_ref.oracle.trainers import Fakes

# The folder with the checkouts, each named as in Project.name; and PACKAGES beside them.
FOLDER = os.environ.get("PUBLIC_CODE", "")
PACKAGES = "packages"


@dataclass(frozen=True)
class Project:
    """One public project.

    name    its folder; source: owner/name on GitHub, or "" for a package of PyPI
    commit  the commit, or the version of the package
    paths   folders inside it that are put on the path
    absent  packages that it imports and that an empty module may stand for
    lacking names that it imports from packages whose version here has them no more
    """

    name: str
    source: str
    commit: str
    paths: tuple[str, ...] = ("",)
    absent: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return Path(FOLDER) / (self.name if self.source else PACKAGES)

    @property
    def how_to_get(self) -> str:
        """The command that puts it there."""
        if not self.source:
            return f"pip install --no-deps --target {PACKAGES} {self.name}=={self.commit}"
        address = f"https://github.com/{self.source}"
        return f"git clone {address} {self.name} && git -C {self.name} checkout {self.commit}"


@dataclass(frozen=True)
class Row:
    """One function of a project, judged as one method.

    module, function  where it is
    semantics         what it is asked for; padded, all_batches, only: how conform
                      hands over the cases, and which of them
    note              how the function is run, such as "with --flag"
    """

    project: Project
    module: str
    function: str
    method: str
    semantics: str = "original"
    padded: bool = False
    all_batches: bool = True
    only: str = ""
    note: str = ""

    @property
    def place(self) -> str:
        """The file and the line at which the function begins."""
        found: object = module(self.project, self.module)
        for name in self.function.split("."):
            found = getattr(found, name)
        file, line = inspect.getsourcefile(found), inspect.getsourcelines(found)[1]
        return f"{Path(file).relative_to(self.project.folder.resolve())}:{line}"


class Stand:
    """Stands for a class, a function or a decorator of a package that is not installed."""

    def __init__(self, *args, **options):
        pass

    def __call__(self, *args, **options):
        return args[0] if len(args) == 1 and callable(args[0]) else self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def __iter__(self):
        return iter(())

    def __len__(self):
        return 0


class EmptyModule(ModuleType):
    """A module in which every name is a Stand."""

    __path__: list[str] = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Stand,), {})


class EmptyModules:
    """Finds an EmptyModule for each of these packages and their submodules."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return EmptyModule(spec.name)

    def exec_module(self, module):
        pass


@contextmanager
def _lent(names: tuple[str, ...]) -> Iterator[None]:
    """Names such as transformers.AdamW are Stands within it, where the package lacks them.

    The first import of a model class replaces sys.modules["transformers"]: that is done before.
    """
    added = []
    if names:
        importlib.import_module("transformers").LlavaForConditionalGeneration  # noqa: B018
    for name in names:
        module_name, _, attribute = name.rpartition(".")
        module = importlib.import_module(module_name)
        try:
            getattr(module, attribute)
        except (AttributeError, ImportError):
            setattr(module, attribute, type(attribute, (Stand,), {}))
            added.append((module, attribute))
    try:
        yield
    finally:
        for module, attribute in added:
            with suppress(AttributeError):
                delattr(module, attribute)


@contextmanager
def on_the_path(project: Project) -> Iterator[None]:
    """The project's folders are first on the path; what it imported is forgotten afterwards."""
    folders = [str(project.folder / path) for path in project.paths]
    finder = EmptyModules(project.absent)
    path, before, here = list(sys.path), set(sys.modules), os.getcwd()
    sys.path[:0] = folders
    sys.meta_path.append(finder)
    importlib.invalidate_caches()
    os.chdir(project.folder)
    try:
        with _lent(project.lacking):
            yield
    finally:
        sys.meta_path.remove(finder)
        sys.path[:] = path
        os.chdir(here)
        for name in [name for name in set(sys.modules) - before if _is_theirs(project, name)]:
            del sys.modules[name]


def _is_theirs(project: Project, name: str) -> bool:
    """True for an EmptyModule and for a module of a checkout; packages of PyPI stay imported."""
    found = sys.modules[name]
    if isinstance(found, EmptyModule):
        return True
    places = [getattr(found, "__file__", None) or "", *getattr(found, "__path__", [])]
    return bool(project.source) and any(
        str(place).startswith(str(project.folder)) for place in places
    )


def row(project: Project, module_name: str, function: str, method: str, **how) -> Callable:
    """Marks an adapter(theirs, fakes, options) -> what conform takes; the result is conform's f.

    theirs    the module of the project; function: the name in it that the adapter runs
    method    the method as which it is judged
    how       fields of Row; change: batches -> batches, before the fake models know them
    """

    change = how.pop("change", dict)

    def decorate(adapter):
        def loss(method, batches, options):
            return adapter(module(project, module_name), Fakes(change(batches)), options)

        loss.__doc__ = adapter.__doc__
        loss.row = Row(project, module_name, function, method, **how)
        return loss

    return decorate


_imported: dict[tuple[str, str], ModuleType] = {}


def module(project: Project, name: str) -> ModuleType:
    """The module `name` of a project, imported once."""
    key = (project.name, name)
    if key not in _imported:
        with on_the_path(project):
            _imported[key] = importlib.import_module(name)
    return _imported[key]
