"""Objects that a user gives from Python in the place of names: models, data, losses, rules."""
