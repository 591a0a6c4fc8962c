"""The options of a run: their definition, their validation, and the files that hold them."""
