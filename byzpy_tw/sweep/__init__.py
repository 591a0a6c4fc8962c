"""Sweeps: runs that differ in some options, such as rules and attacks, as a table and a page.

A `study` says which options have several values, and is read from a `study_file` or made by
`default_study`.  Its `plan` has the runs, the `scheduler` executes them, `results` reads their
folders, and `text`, `display` and `page` show them as the table of a `grid`.  Everything that is
shown is read from run folders, so that a run of today and one of last week look the same.
"""
