"""Work between a reactor and its pool of threads, and time for measuring."""
