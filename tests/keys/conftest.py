"""A real Valkey, and examples that may take their time."""

from hypothesis import settings

from tests.valkey import own_valkey, valkey, valkey_cluster  # noqa: F401 - fixtures

# Machines that share their cores would break the default deadline of 200 ms an example.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
