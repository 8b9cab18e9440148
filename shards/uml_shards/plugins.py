"""Find classes in other packages, by the name of an entry point or by import path.

An entry point is a line in the metadata of an installed package: a name, and the module and class that it stands for.
Listing names imports nothing; a module is imported only when its name is looked up.
"""

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from typing import Generic, TypeVar

T = TypeVar("T")

_PATH = re.compile(r"\s*([\w.]+)\s*:\s*([\w.]+)\s*")
"""`package.module:Class`."""


@dataclass(frozen=True)
class Plugins(Generic[T]):
    """The classes of one kind that packages of other authors provide.

    Attributes:
        kind: name of the kind in messages, such as "recipe".
        group: the group of entry points that declares such classes.
        base: the class that they derive from.
        base_path: where users import that class from.
        required: class attributes that they have to define.
        error: class of the errors raised here, each with a message of one line.
    """

    kind: str
    group: str
    base: type[T]
    base_path: str
    required: tuple[str, ...]
    error: type[Exception]

    def names(self) -> list[str]:
        """Return the names that installed packages declare, sorted.

        Raises:
            Exception: `self.error`: the metadata of a package are malformed.
        """
        return sorted(self._declared())

    def find(self, name: str, builtin: Collection[str]) -> type[T]:
        """Return the class of an entry point's name, or of the import path `package.module:Class`.

        Args:
            name: a name, or an import path.
            builtin: the built-in names, to list and to suggest if the name is unknown.

        Raises:
            Exception: `self.error`: the name is unknown, several packages declare it, or its class cannot be used.
        """
        if _PATH.fullmatch(name):
            return self.load(f"{self.kind} {name!r}", name)
        declared = self._declared()
        if name not in declared:
            raise self.error(self._unknown(name, builtin, declared))
        first, *others = declared[name]
        if others:
            raise self.error(
                f"{self.kind} {name!r} is declared by several packages: {_join(declared[name])}: uninstall all but one "
                f"of them, or write the import path instead of the name"
            )
        what = f"{self.kind} {name!r} of package {_package(first)}"
        path = first.value.partition("[")[0]  # without the optional requirements
        if not _PATH.fullmatch(path):
            raise self.error(f"{what}: entry point {first.value!r} is not package.module:Class: correct it there")
        found = self.load(what, path)
        own_name = getattr(found, "name", name)
        if own_name != name:
            raise self.error(f"{what}: the name of class {found.__name__} is {own_name!r}: give both the same name")
        return found

    def load(self, what: str, path: str) -> type[T]:
        """Import the class of an import path.

        Args:
            what: description of the class that begins each error message.
            path: `package.module:Class`.

        Raises:
            Exception: `self.error`: the module cannot be imported, or its class is not complete.
        """
        module, attribute = (part.strip() for part in path.split(":"))
        try:
            found = getattr(import_module(module), attribute, None)
        except (Exception, SystemExit) as error:  # the code of another package may raise anything
            raise self.error(f"{what}: {_import_failure(module, error)}") from error
        if found is None:
            raise self.error(f"{what}: module {module} has no {attribute}")
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise self.error(f"{what}: {attribute} is not a subclass of {self.base_path}")
        missing = sorted(getattr(found, "__abstractmethods__", ())) if isabstract(found) else []
        missing += [name for name in self.required if not hasattr(found, name)]
        if missing:
            raise self.error(f"{what}: class {attribute} does not define {', '.join(missing)}")
        return found

    def hidden(self, builtin: Iterable[str]) -> list[str]:
        """Return one line for each built-in name that an installed package declares too, without effect."""
        declared = self._declared()
        return [
            f"{self.kind} {name!r} of {_join(declared[name])} is hidden by the built-in one: rename it, or write its "
            "import path"
            for name in builtin
            if name in declared
        ]

    def _declared(self) -> dict[str, list[EntryPoint]]:
        declared: dict[str, list[EntryPoint]] = {}
        try:
            for entry in entry_points(group=self.group):
                declared.setdefault(entry.name, []).append(entry)
        except Exception as error:  # one malformed file is enough
            raise self.error(
                f"cannot list the installed packages' entry points {self.group}: {_first_line(error)}: reinstall the "
                "package that was changed last"
            ) from error
        return declared

    def _unknown(self, name: str, builtin: Collection[str], declared: dict[str, list[EntryPoint]]) -> str:
        near = difflib.get_close_matches(name, [*builtin, *declared], n=1)
        hint = f" did you mean {near[0]}?" if near else ""
        installed = ", ".join(f"{name} ({_package(declared[name][0])})" for name in sorted(declared)) or "none"
        return (
            f"unknown {self.kind} {name!r}:{hint} built in: {', '.join(sorted(builtin))}; from installed packages: "
            f"{installed}; for another one, install its package or write package.module:Class"
        )


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "(unknown)"


def _join(entries: Iterable[EntryPoint]) -> str:
    return " and ".join(f"{_package(entry)} ({entry.value})" for entry in entries)


def _import_failure(module: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return f"there is no module {error.name}: install its package, or add its folder to PYTHONPATH"
    return f"module {module} cannot be imported: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    first_line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first_line}"
