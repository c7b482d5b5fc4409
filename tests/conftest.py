"""One Hypothesis profile for all tests: the same examples on every machine, and no deadline on a busy one."""

from hypothesis import settings

settings.register_profile("ci", max_examples=40, derandomize=True, deadline=None)
settings.load_profile("ci")
