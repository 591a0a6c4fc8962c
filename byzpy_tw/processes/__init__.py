"""Processes that a command starts: forked from a warm parent, or each by itself.

A `warm_parent` is a process with its imports done and nothing computed.  The `launcher` has it
fork a program on order; `child` is the beginning of what it forks.
"""
