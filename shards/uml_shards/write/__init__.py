"""Write the shards of an importer, continue interrupted runs, index plain tars, and verify shards."""
