"""Console commands, each a Hydra application that refuses bad input in one line, before any work."""
