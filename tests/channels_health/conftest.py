from tests.valkey import own_valkey, valkey  # noqa: F401
