"""Bodies of the command line: `uml-dist NAME`, and the scripts of the same names in launchers/."""
