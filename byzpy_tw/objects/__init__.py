"""Objects that a user gives from Python in the place of names: models, data, losses, rules.

`run_objects` tells those of one run from names and puts them into a registry, under a text with a
`code_digest`.  `factories` makes of each what the run calls, and `data` a dataset of arrays;
`options` lists the options that take objects.
"""
