"""Values: what stands in conf/, composed and typed."""
