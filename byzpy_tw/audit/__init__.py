"""The audit of a run: its rounds computed again and compared with its records."""
