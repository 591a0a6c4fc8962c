"""The lab: one run for each pair of a defence and an attack, as a table and a page.

A *grid* says which runs (`grid`), `running` has them run, an *outcome* is what one left
behind (`outcome`), and `text`, `display` and `page` show them.  Everything that is shown
is read from run directories, so that a run of today and one of last week look the same.
"""
