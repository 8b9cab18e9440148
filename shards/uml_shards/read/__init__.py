"""From a manifest to samples in order: splits, parts, plans, streams and their loader."""
