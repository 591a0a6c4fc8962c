"""The outputs of a run under way: terminal, progress bar, JSON lines, web page, metrics."""
