"""One run, many, or a plan."""
