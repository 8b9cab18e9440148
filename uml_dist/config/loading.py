"""Reads configurations: parses TOML, applies `table.key=value` overrides and validates against the recipe's schema."""

import difflib
import reprlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError

from uml_shards.errors import reason_of
from uml_shards.text import shown

from ..errors import UmlError, refusing
from ..registry import find_class
from .schema import RunConfig, resumable_mark, table_of

MAX_BYTES = 1 << 20
"""Largest configuration file, in bytes."""

MAX_LEVELS = 16
"""Deepest nesting of tables and lists in a configuration; no setting is deeper than 5."""

Table = TypeVar("Table", bound=BaseModel)


def read_config(path: str | Path | None, overrides: Iterable[str] = ()) -> RunConfig:
    """Return the validated configuration of a TOML file with `table.key=value` overrides applied.

    Raises:
        UmlError: the file cannot be read, or a key or value is not valid; an unknown key names the nearest valid one.
    """
    return validate(
        apply_overrides(read_toml(path) if path is not None else {}, overrides), str(path or "command line")
    )


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file into nested dicts.

    Raises:
        UmlError: it cannot be read, is not TOML, or nests tables or lists too deeply.
    """
    with refusing(f"configuration {path} cannot be read"):
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
    with refusing(f"configuration {path} is not valid TOML"):
        return _copy(tomllib.loads(data.decode()))


def apply_overrides(tree: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a tree with `table.key=value` overrides applied; values that are not TOML become strings."""
    changed: dict[str, Any] = _copy(tree)
    for word in overrides:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise UmlError(f"argument {word!r} is not a setting: write table.key=value, such as train.steps=2000")
        if path.count(".") >= MAX_LEVELS:
            raise UmlError(f"argument {word[:60]!r} names a table more than {MAX_LEVELS} levels deep")
        value = _value(text)
        *tables, key = path.split(".")
        table = changed
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise UmlError(f"argument {word!r}: {name} is a value, not a table")
        table[key] = value
    return changed


def _value(text: str) -> Any:
    """Return the value of TOML, or the text itself if it is not one value."""
    try:
        parsed = tomllib.loads(f"value = {text}")
        return _copy(parsed["value"]) if len(parsed) == 1 else text
    except tomllib.TOMLDecodeError:
        return text
    except Exception as error:
        raise UmlError(f"argument {text[:60]!r} cannot be read: {reason_of(error)}") from None


def validate(tree: Mapping[str, Any], where: str) -> RunConfig:
    """Validate a tree against the schema of its recipe.

    Args:
        tree: the parsed TOML.
        where: name of the source, for error messages.
    """
    _check_texts(tree, where)
    name = tree.get("recipe")
    if not isinstance(name, str):
        raise UmlError(f'{where} does not name a recipe: write recipe = "uml" at its top')
    return validate_as(schema_of(name), tree, where)


def validate_as(schema: type[Table], tree: Mapping[str, Any], where: str) -> Table:
    """Validate a tree against a schema; an unknown key names the nearest valid one.

    Args:
        schema: the schema.
        tree: the parsed TOML.
        where: name of the source, for error messages.
    """
    _check_texts(tree, where)
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise UmlError(f"{where}: {_first_complaint(error, schema)}") from None


def schema_of(recipe: str) -> type[RunConfig]:
    """Return the configuration class of a recipe."""
    return find_class(recipe).Config


def dump(config: RunConfig) -> str:
    """Return the resolved configuration as TOML, without the keys that are not set."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


class Difference(NamedTuple):
    """A dotted key whose value differs between two configurations; None stands for a missing value."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[Difference]:
    """Yield each key whose value differs between two trees."""
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield Difference(f"{prefix}{key}", before, after)


def is_resumable(schema: type[BaseModel], difference: Difference) -> bool:
    """Return whether a resumed run may differ from its checkpoint in this way."""
    mark = resumable_mark(schema, difference.key)
    if mark is None:
        return False
    return not (mark.path_only and (difference.before is None or difference.after is None))


def valid_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a schema, including tables; NAME stands for names that the user chooses."""
    for name, field in schema.model_fields.items():
        yield prefix + name
        table = table_of(field)
        if table is not None:
            yield from valid_keys(
                table, f"{prefix}{name}.NAME." if get_origin(field.annotation) is dict else f"{prefix}{name}."
            )


def _check_texts(tree: Mapping[str, Any], where: str) -> None:
    for key, text in _texts(tree):
        if not text.isprintable():
            raise UmlError(f"{where}: {key}: {shown(text)} contains characters that are not printable: remove them")


def _texts(tree: Any, key: str = "a key") -> Iterator[tuple[str, str]]:
    """Yield (key, text) of every key and every text in a tree; keys are dotted, and themselves texts."""
    if isinstance(tree, str):
        yield key, tree
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            yield "a key", name
            yield from _texts(value, name if key == "a key" else f"{key}.{name}")
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _texts(value, key)


def _first_complaint(error: ValidationError, schema: type[BaseModel]) -> str:
    first, *others = error.errors()
    # Of the alternatives of one setting, the one that fits best is refused at the deepest place.
    alternatives = [other for other in others if other["loc"][:-2] == first["loc"][:-1]]
    complaint = max(first, *alternatives, key=lambda one: len(one["loc"])) if alternatives else first
    # The name of an alternative, such as dict[str,float], is no key.
    parts = [str(part) for part in complaint["loc"] if "[" not in str(part)]
    key = ".".join(parts)
    if complaint["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(parts, schema)}"
    if complaint["type"] == "missing":
        return f"key {key} is missing"
    message = complaint["msg"].removeprefix("Value error, ")
    given = complaint["input"]
    value = f" = {reprlib.repr(given)}" if isinstance(given, str | int | float | bool) else ""
    return f"{key}{value}: {message}" if key else message


def _nearest(parts: list[str], schema: type[BaseModel]) -> str:
    """Return a hint with the valid key nearest to an unknown one, from its own table if possible."""
    keys = list(valid_keys(schema))
    first = schema.model_fields.get(parts[0])
    named = first is not None and get_origin(first.annotation) is dict
    pattern = ["NAME" if index == 1 and named else part for index, part in enumerate(parts)]
    table = ".".join(pattern[:-1])
    siblings = [key for key in keys if key.rpartition(".")[0] == table]
    by_leaf = {key.rpartition(".")[2]: key for key in reversed(keys)}
    beside = {key.rpartition(".")[2]: key for key in siblings}
    candidates = (
        (beside, difflib.get_close_matches(parts[-1], beside, n=1, cutoff=0.6)),
        (by_leaf, difflib.get_close_matches(parts[-1], by_leaf, n=1, cutoff=0.6)),
    )
    near = [names[leaf] for names, leaves in candidates for leaf in leaves]
    if near:
        return f": did you mean {near[0].replace('NAME', parts[1] if len(parts) > 1 else 'NAME')}?"
    return f"; valid here: {', '.join(key.rpartition('.')[2] for key in siblings)}" if siblings else ""


def _copy(tree: Any, levels: int = MAX_LEVELS) -> Any:
    """Return a copy of nested tables and lists.

    Raises:
        ValueError: they are nested more deeply than `levels`.
    """
    if not isinstance(tree, Mapping | list):
        return tree
    if not levels:
        raise ValueError(f"tables and lists are nested more than {MAX_LEVELS} levels deep")
    if isinstance(tree, list):
        return [_copy(value, levels - 1) for value in tree]
    return {key: _copy(value, levels - 1) for key, value in tree.items()}
