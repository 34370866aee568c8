"""What holds for all tests."""

# First of all: it patches the standard library for gevent. A module that loaded ssl before would
# leave later tests of the same process with contexts that recurse without end.
import pyinfra_cli  # type: ignore[import-untyped]  # noqa: F401  # isort: skip

from hypothesis import settings

# The machines that run these are shared and noisy: an example that took long says nothing.
settings.register_profile("llamaherd", deadline=None)
settings.load_profile("llamaherd")
