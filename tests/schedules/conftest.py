"""Settings of the schedule tests."""

from hypothesis import settings

# A busy machine is no failure.
settings.register_profile("schedules", deadline=None)
settings.load_profile("schedules")
