"""A new plugin distribution, from templates: what ``python -m byzpy_tw new-plugin`` writes."""
