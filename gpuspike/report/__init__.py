"""Pages from plain data."""
