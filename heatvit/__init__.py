"""Front door: command line, pipeline and report."""
