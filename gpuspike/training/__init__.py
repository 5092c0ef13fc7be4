"""A step, its rule, and its leaves."""
