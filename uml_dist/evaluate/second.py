"""Opens the second split of an evaluation, whose images should be more uncertain than those of the evaluated one."""

from pathlib import Path

from uml_shards.address import Address, Location
from uml_shards.format.manifest import Manifest
from uml_shards.read.samples import Samples
from uml_shards.read.split import Split, find_splits, open_split

from ..errors import UmlError

OPTION = "--second-split"


def second_location(text: str, shards: Location) -> Location | str:
    """Return where a second split is: its name in the data set, a folder, or a URL.

    Args:
        text: the name, folder or URL.
        shards: the data set that is evaluated.

    Raises:
        UmlError: it is the name of a split and a folder as well, or neither.
    """
    names = [] if isinstance(shards, Address) else [split.name for split in find_splits(shards)]
    is_folder = Path(text).is_dir()
    if text in names and is_folder:
        raise UmlError(f"{OPTION} {text} is a split of {shards} and a folder here: name {shards / text}, or ./{text}")
    if text in names:
        return shards / text
    if is_folder or "://" in text:
        return text
    known = f": it has {', '.join(names)}" if names else ""
    raise UmlError(f"{OPTION} {text} is neither a folder nor a split of {shards}{known}")


def open_second(text: str, shards: Location, evaluated: Split | Samples, trained: Manifest) -> Split:
    """Open a second split and check that the network can take its images. Its classes may be others.

    Args:
        text: name of a split of the same data set, or folder or URL of any split.
        shards: the data set that is evaluated.
        evaluated: the split that is evaluated.
        trained: manifest of the training data.

    Raises:
        UmlError: there is none, it is the evaluated split, or its images have other dimensions or channels.
        ShardError: its files disagree, or cannot be fetched.
    """
    split = open_split(second_location(text, shards))
    found = split.manifest
    if split.digest == evaluated.digest:
        raise UmlError(f"{OPTION} {text} is the split that is evaluated: name another one")
    for name in ("dimensions", "channels"):
        here, there = getattr(found, name), getattr(trained, name)
        if here != there:
            raise UmlError(f"{OPTION} {text}: the number of {name} is {here}, that of the training {there}")
    return split
