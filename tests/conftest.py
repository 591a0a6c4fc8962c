"""For all tests: hypothesis times none of its examples, on machines that others use too."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
