from tests.valkey import own_valkey, valkey, valkey_cluster  # noqa: F401 - fixtures
