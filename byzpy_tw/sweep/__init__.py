"""Sweeps: a run for each pair of a defence and an attack, as a table and a page.

A `grid` says which runs, the `scheduler` has them executed in `worker` processes, `results` reads
their folders and lines, and `text`, `display` and `page` show them.  Everything that is shown is read
from records, so that a run of today and one of last week look the same.
"""
