"""The live page of runs: what a run folder and the exporters of its ranks tell, in one self-contained HTML page."""
