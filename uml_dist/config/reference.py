"""Generates the reference of the configuration from the schema: every key with type, default, range and meaning.

python -m uml_dist.config.reference launchers/configs > launchers/configs/README.md
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..errors import UmlError
from ..registry import RECIPES, find_class
from .schema import DERIVED_FROM, RunConfig, resumable_mark, table_of

COMMAND = "python -m uml_dist.config.reference launchers/configs > launchers/configs/README.md"
HEADER = "| key | type | default | range | meaning |\n|---|---|---|---|---|"
BOUNDS = ((Gt, "gt", ">"), (Ge, "ge", ">="), (Lt, "lt", "<"), (Le, "le", "<="))
TYPES = {str: "string", int: "integer", float: "number", bool: "`true`, `false`"}
OF_RECIPES = ("model", "objective")
"""Tables for which every recipe has a class of its own."""

INTRODUCTION = f"""\
# Configurations

Every key, its default and its meaning. This page is made from the schema; after a change of it:

    {COMMAND}

A configuration is a TOML file; every key but `recipe` and `streams.NAME.shards` and `.count` has a default. Any key can
be set on the command line, on top of the file, as `table.key=value`; a value is TOML where it can be, else a string:

    python launchers/train.py --num_gpus 2 train.steps=2000 optimizer.lr=5e-4 streams.train.count=32
    python launchers/train.py --print-config 'optimizer.betas=[0.9,0.99]' data.augment=none

`--print-config` prints the resolved configuration and stops. A value out of range and an unknown key are
one-line errors; for an unknown key, the line names the nearest valid one.

In the tables, *none* means that the key is not set. You may change keys marked with + when you resume a run (for weight
files, the path); any other change is refused, because it would be a different run.
"""


def reference(folder: Path) -> str:
    """Return the Markdown of `launchers/configs/README.md`.

    Args:
        folder: folder of the TOML files to list, each of which begins with a comment that describes it.

    Raises:
        UmlError: a file does not begin with a comment.
    """
    parts = [INTRODUCTION, "## Files here\n", "\n".join(_files(folder)) + "\n"]
    parts += ["## Keys that all recipes share\n", *_tables(RunConfig, RunConfig, "", leave_out=OF_RECIPES)]
    parts.append("### What DeepSpeed derives from these\n\nIn `[deepspeed]` these keys are refused:\n")
    parts.append("| key of DeepSpeed | set instead |\n|---|---|\n" + _derived())
    for name in shipped_recipes():
        schema = find_class(name).Config
        parts.append(f"## Keys of the recipe `{name}`\n")
        for key in OF_RECIPES:
            parts += _tables(schema, _section(schema, key), key)
        parts += _other_defaults(schema)
    return "\n".join(parts)


def shipped_recipes() -> list[str]:
    """Names of the recipes of this package, without those that a program has added to `RECIPES`."""
    return sorted(name for name, where in RECIPES.items() if where.startswith("uml_dist.recipes."))


def fields_without_description() -> list[str]:
    """Dotted keys, of any recipe, that the reference could not explain."""
    schemas: list[tuple[type[BaseModel], str]] = [(RunConfig, "")]
    for name in shipped_recipes():
        schema = find_class(name).Config
        schemas += [(_section(schema, key), key) for key in OF_RECIPES]
    return sorted({key for schema, path in schemas for key, field in _leaves(schema, path) if not field.description})


def main(arguments: Sequence[str]) -> int:
    """Print the reference; the one argument is the folder of the TOML files."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print(f"error: name the folder of the configurations: {COMMAND}", file=sys.stderr)
        return 2
    print(reference(Path(arguments[0])), end="")
    return 0


def _files(folder: Path) -> Iterator[str]:
    yield "| file | what it trains |\n|---|---|"
    for path in sorted(folder.glob("*.toml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        if not first.startswith("# "):
            raise UmlError(f"{path} does not say what it is: let it begin with a comment of one line")
        yield f"| [{path.name}]({path.name}) | {_cell(first[2:])} |"


def _tables(
    root: type[RunConfig], schema: type[BaseModel], path: str, leave_out: tuple[str, ...] = (), shown: bool = False
) -> Iterator[str]:
    """Yield the sections of a table and of the tables below it; `shown`: whether its keys are already listed."""
    rows = [_row(root, key, path, field) for key, field in schema.model_fields.items() if table_of(field) is None]
    if path:
        heading = "[[phases]]" if path == "phases" else f"[{path}]"
        yield f"### `{heading}`\n"
        if meaning := _meaning(schema):
            yield meaning + "\n"
    if shown:
        yield f"Keys and meanings are those of `[{path.rpartition('.')[2]}]`, whose values are the defaults.\n"
    elif rows:
        yield "\n".join((HEADER, *rows)) + "\n"
    for key, field in schema.model_fields.items():
        table = table_of(field)
        if table is not None and key not in leave_out:
            below = f"{path}.{key}".lstrip(".") + (".NAME" if get_origin(field.annotation) is dict else "")
            yield from _tables(root, table, below, shown=bool(path) and key in RunConfig.model_fields)


def _leaves(schema: type[BaseModel], path: str) -> Iterator[tuple[str, FieldInfo]]:
    for key, field in schema.model_fields.items():
        name, table = f"{path}.{key}".lstrip("."), table_of(field)
        if table is None:
            yield name, field
        else:
            yield from _leaves(table, name)


def _section(schema: type[RunConfig], key: str) -> type[BaseModel]:
    """Return the class of one of the recipe's own tables."""
    table = table_of(schema.model_fields[key])
    assert table is not None
    return table


def _other_defaults(schema: type[RunConfig]) -> Iterator[str]:
    """Yield the defaults of a recipe, outside its own tables, that differ from those of `RunConfig`."""
    shared = {name: field.default for name, field in _leaves(RunConfig, "")}
    rows = [
        f"| `{name}` | {_value(field.default)} |"
        for name, field in _leaves(schema, "")
        if name.partition(".")[0] not in OF_RECIPES and field.default != shared[name]
    ]
    if rows:
        yield "### Other defaults\n"
        yield "\n".join(("| key | default |\n|---|---|", *rows)) + "\n"


def _row(root: type[RunConfig], key: str, path: str, field: FieldInfo) -> str:
    mark = " +" if resumable_mark(root, f"{path}.{key}".lstrip(".")) else ""
    default = "required" if field.is_required() else _value(field.default)
    cells = (f"`{key}`{mark}", _type(field.annotation), default, range_of(field), _cell(field.description or ""))
    return f"| {' | '.join(cells)} |"


def _type(annotation: Any) -> str:
    """Describe a type by the values that TOML allows."""
    if annotation in TYPES:
        return TYPES[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return ", ".join(_value(choice) for choice in inner)
    if origin in (Union, UnionType):
        return " or ".join(_type(part) for part in inner if part is not NoneType)
    if origin is tuple and inner[-1] is Ellipsis:
        return f"list of {_type(inner[0])}s"
    if origin is tuple:
        return f"[{', '.join(_type(part) for part in inner)}]"
    return "table" if origin is dict else str(annotation)


def _value(value: Any) -> str:
    if value is None:
        return "*none*"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{list(value)}`" if isinstance(value, tuple) else f"`{value}`"


def range_of(field: FieldInfo) -> str:
    """Return the bounds of a number, or of the numbers in a list or table."""
    found = [
        f"{sign} {getattr(bound, name):g}"
        for bound in (*field.metadata, *_bounds_within(field.annotation))
        for kind, name, sign in BOUNDS
        if isinstance(bound, kind)
    ]
    return ", ".join(dict.fromkeys(found))


def _bounds_within(annotation: Any) -> Iterator[Any]:
    """Yield the metadata of the parts of a type."""
    for part in get_args(annotation):
        if isinstance(part, FieldInfo):
            yield from part.metadata
        else:
            yield from _bounds_within(part)


def _meaning(schema: type[BaseModel]) -> str:
    """Return the description of a table from its docstring, without its name."""
    first = (schema.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
    named = re.match(r"`\[.*?\]`.*?: (.+)", first)
    return named[1][0].upper() + named[1][1:] if named else ""


def _derived() -> str:
    return "".join(f"| `{key}` | `{ours}` |\n" for key, ours in DERIVED_FROM.items())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
