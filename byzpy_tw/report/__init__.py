"""Pages about runs: records in, one HTML file (or CSV, or PNG) out.

Nothing here has sockets or a clock.  The report of a run and the page that follows it
are the same document, drawn by the same ``draw.js``, ``run.js`` and ``page.css``.
"""
