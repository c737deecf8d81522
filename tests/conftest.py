"""Settings for all tests."""

from hypothesis import settings

# A busy machine makes a single example slow by chance. pytest-timeout still bounds each test.
settings.register_profile("fedgrpo", deadline=None)
settings.load_profile("fedgrpo")
