"""What holds for all tests."""

from hypothesis import settings

# The machines that run these are shared and noisy: an example that took long says nothing.
settings.register_profile("llamaherd", deadline=None)
settings.load_profile("llamaherd")
