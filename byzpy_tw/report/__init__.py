"""Pages about runs: records in, one HTML file (or CSV, or PNG) out.

Nothing here has sockets or a clock.  All pages, and notebooks, draw charts with ``curves.js``
and uPlot (in ``vendor``).  ``run.js`` draws the report of a run and the page that follows it,
``sweep.js`` the curves of a sweep's page.
"""
