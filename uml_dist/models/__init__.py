"""Models that come with the package, to try it without a training: folders of exported weights."""

from pathlib import Path

from ..errors import UmlError

SHIPPED = ("phantom",)


def shipped(name: str) -> Path:
    """Return the folder of a model that comes with the package, for `load_run`.

    Raises:
        UmlError: there is none of this name, or the installation lacks its files.
    """
    if name not in SHIPPED:
        raise UmlError(f"no model {name!r} comes with the package: there is {', '.join(SHIPPED)}")
    folder = Path(__file__).parent / name
    if not (folder / "state.json").is_file():
        raise UmlError(f"the files of the model {name} are missing from {folder}: install the package again")
    return folder
