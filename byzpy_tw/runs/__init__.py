"""Decisions of a run, made by code that does no I/O on sockets."""
