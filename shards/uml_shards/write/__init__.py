"""Writes the shards of an importer, continues interrupted writes, and verifies what was written."""
