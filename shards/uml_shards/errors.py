"""The error that users of shards can mend themselves."""


class ShardError(ValueError):
    """A shard, manifest, sample or raw data set is not as it must be.

    The message is one line: what is wrong, where, and what to do.
    """
