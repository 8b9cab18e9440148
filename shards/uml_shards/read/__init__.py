"""Read samples in a deterministic order: splits, parts, plans, streams and the loader."""
