"""The base of every table of the configuration, and the mark of keys that may be changed later."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the configuration: immutable, without unknown keys, its numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Resumable:
    """Marks a key, or a whole table, that may be changed when a run is resumed.

    Such keys decide where files are and how results are computed, but not which results, up to rounding.

    Attributes:
        path_only: a path may be replaced by another one, but not be added or removed.
    """

    path_only: bool = False


RESUMABLE = Resumable()
