"""A recipe and an importer in a package of their own."""
