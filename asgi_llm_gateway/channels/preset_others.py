"""The error tables of the presets `one-api` and `new-api`: what those two gateways do, as data.

Both look for their phrases anywhere in a message. Providers repeat words of the caller's, so with
these presets a caller who makes a provider repeat such a phrase can have a key or a channel taken
out; `default` cannot be fooled like this. What is passed through, to a path of the caller's choice,
is held against nobody: the two gateways relay no such calls.
"""

from __future__ import annotations

from typing import Final

from .error_class import ErrorClass, row
from .preset_default import BUSY, CALLER, OWN

# one-api: every status but 2xx and 400 is tried elsewhere; one error that reads like a dead account
# takes the whole channel out; every other failure counts in its success rate.
_RETRIED: Final = ErrorClass("failed", elsewhere=True)
_OFF: Final = ErrorClass("channel_off", elsewhere=True, health="remove", scope="channel")
_OFF_NO_RETRY: Final = ErrorClass("channel_off", health="remove", scope="channel")
_FAILED: Final = ErrorClass("failed", elsewhere=True, health="cooldown", scope="channel")

_ONE_API_TYPES: Final = (
    "insufficient_quota",
    "authentication_error",
    "permission_error",
    "forbidden",
)
_ONE_API_CODES: Final = ("invalid_api_key", "account_deactivated")
_ONE_API_WORDS: Final = (
    "your access was terminated",
    "violation of our policies",
    "your credit balance is too low",
    "organization has been disabled",
    "credit",
    "balance",
    "permission denied",
    "organization has been restricted",
    "api key not valid",
    "api key expired",
    "已欠费",
)
ONE_API: Final = (
    row(CALLER, status=(400,), kind=("passed",)),
    row(_RETRIED, kind=("passed",)),
    row(_OFF, status=(401,)),
    row(_OFF_NO_RETRY, status=(400,), type=_ONE_API_TYPES),
    row(_OFF_NO_RETRY, status=(400,), code=_ONE_API_CODES),
    row(_OFF_NO_RETRY, status=(400,), message=_ONE_API_WORDS),
    row(_OFF, type=_ONE_API_TYPES),
    row(_OFF, code=_ONE_API_CODES),
    row(_OFF, message=_ONE_API_WORDS),
    row(_OFF, kind=("revoked",)),
    row(CALLER, status=(400,)),
    row(BUSY, kind=("busy", "keys_busy")),
    row(OWN, kind=("own",)),
    row(_FAILED),
)

# new-api: ranges of statuses are tried elsewhere; 401 and a list of phrases take the key out.
_KEY_OFF: Final = ErrorClass("key_off", elsewhere=True, health="remove", scope="key")
_KEY_OFF_NO_RETRY: Final = ErrorClass("key_off", health="remove", scope="key")

_NEW_API_WORDS: Final = (
    "your credit balance is too low",
    "this organization has been disabled.",
    "you exceeded your current quota",
    "permission denied",
    "the security token included in the request is invalid",
    "operation not allowed",
    "your account is not authorized",
)
_NEW_API_RETRIED: Final = (
    "100-199",
    "300-399",
    "401-407",
    "409-499",
    "500-503",
    "505-523",
    "525-599",
)
NEW_API: Final = (
    row(_RETRIED, status=_NEW_API_RETRIED, kind=("passed",)),
    row(CALLER, kind=("passed",)),
    row(_KEY_OFF, status=(401,)),
    row(_KEY_OFF, kind=("revoked",)),
    row(_KEY_OFF, status=_NEW_API_RETRIED, message=_NEW_API_WORDS),
    row(_KEY_OFF_NO_RETRY, message=_NEW_API_WORDS),
    row(_RETRIED, status=_NEW_API_RETRIED),
    row(CALLER, kind=("refused", "error_200", "bad_answer")),
    row(BUSY, kind=("busy", "keys_busy")),
    row(OWN, kind=("own",)),
    row(_RETRIED),
)
