"""HTML report of a run."""
