"""The secrets the gateway shows providers."""
