"""The arms of an ablation: a TOML file that states what each of them changes in one configuration."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from comparison_jobs import FREE, LABELS, is_free
from uml_dist.config.loading import read_toml, validate_as
from uml_dist.config.schema import RunConfig, Section
from uml_dist.errors import UmlError


class Arm(Section):
    """`[arms.NAME]`: one arm."""

    summary: str = Field(description="one line for the tables")
    settings: tuple[str, ...] = Field(default=(), description="table.key=value, of what the arms may differ in")
    drop: tuple[str, ...] = Field(default=(), description="keys of the configuration that do not apply to the arm")
    default: bool = Field(default=True, description="whether the arm runs unless --arms names others")

    @field_validator("settings", "drop")
    @classmethod
    def _leave_the_budget(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            key = word.partition("=")[0]
            if not is_free(key) and not LABELS.fullmatch(key):
                raise ValueError(
                    f"{word!r} would give the arm another budget: arms may differ in {', '.join(FREE)}, and in "
                    "streams.NAME.part and labelled_ids"
                )
        return words

    @property
    def has_other_labels(self) -> bool:
        """Whether the arm counts other samples as labelled than the configuration does."""
        return any(LABELS.fullmatch(word.partition("=")[0]) for word in (*self.settings, *self.drop))

    @property
    def changes(self) -> str:
        """The changes on one line."""
        return " ".join([*(f"without {key}" for key in self.drop), *self.settings])


class Arms(Section):
    """A file of arms."""

    config: Path = Field(description="configuration that the arms change; relative to the file")
    reference: str = Field(description="arm with which the others are compared")
    labelled: float | None = Field(
        default=None, gt=0, description="number, or share below 1, of training samples to draw as labelled"
    )
    arms: dict[str, Arm] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for name in self.arms:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"arms: the name {name!r} becomes a part of file names: use letters, digits, - and _")
            if name in RunConfig.model_fields:
                raise ValueError(f"arms: {name} is a table of the configuration: choose another name")
        if self.reference not in self.arms:
            raise ValueError(f"reference = {self.reference!r} is not an arm: there is {', '.join(self.arms)}")
        return self

    def chosen(self, names: Sequence[str] | None, reference: str) -> Mapping[str, Arm]:
        """Return some arms in the order of the file, always with the reference; by default those that run by default.

        Raises:
            UmlError: there is no such arm.
        """
        for name in [*(names or ()), reference]:
            if name not in self.arms:
                near = get_close_matches(name, self.arms, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(self.arms)}"
                raise UmlError(f"there is no arm {name!r}: {hint}")
        return {
            name: arm
            for name, arm in self.arms.items()
            if name == reference or (arm.default if names is None else name in names)
        }


def read_arms(path: Path) -> Arms:
    """Read a file of arms.

    Raises:
        UmlError: it cannot be read, or a key or value is not valid.
    """
    arms = validate_as(Arms, read_toml(path), str(path))
    return arms.model_copy(update={"config": path.parent / arms.config})
