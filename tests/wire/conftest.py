"""Machines that share their cores would break Hypothesis' default deadline of 200 ms an example."""

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
