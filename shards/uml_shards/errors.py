"""The error that users of shards can fix themselves."""

from typing import Literal

Reason = Literal["image", "mask", "label", "tar", "remote", "other"]
"""What is at fault: a component of a sample, the tar that holds it, or the server that has the tar."""


class ShardError(ValueError):
    """A shard, manifest, sample or raw data set is not as it must be.

    The message is one line: what is wrong, where, and what to do.

    Attributes:
        reason: the kind, by which skipped samples are counted.
    """

    def __init__(self, message: str, reason: Reason = "other") -> None:
        super().__init__(message)
        self.reason: Reason = reason
