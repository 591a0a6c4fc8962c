"""What tests of this package, and of plugins for it, are made with."""
