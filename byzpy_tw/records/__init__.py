"""The folder of a run: its records, checkpoints and result, written and read."""
