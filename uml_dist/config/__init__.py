"""The configuration: its schema, how files are read, and the reference page."""
