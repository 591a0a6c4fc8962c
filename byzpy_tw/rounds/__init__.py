"""The decisions of a run and of its rounds, in code without I/O."""
