"""Reports of evaluations: one self-contained HTML file of one run, or of several that belong together."""
