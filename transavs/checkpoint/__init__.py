"""Writing checkpoints, loading them, and making them of other projects' weights."""
