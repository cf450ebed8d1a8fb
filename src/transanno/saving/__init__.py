"""Models as files that run no code."""
