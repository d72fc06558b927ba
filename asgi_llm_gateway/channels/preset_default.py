"""The error table of the preset `default`, as data; the first row that fits counts.

A provider repeats words of the caller's in its messages, so the rows that hold a message against a
key or a channel want it at the beginning, where no provider repeats anything but the model's name
(which is taken out before).

A key that is out of money rests for an hour and is not removed: money comes back by a top-up or
with the next month, and nobody should have to put the key back by hand. The sweep, which knows
the balance, removes it for good.
"""

from __future__ import annotations

from typing import Final

from .error_class import ErrorClass, row

_HOUR: Final = 3600.0

DEAD_KEY: Final = ErrorClass(
    "dead_key", elsewhere=True, health="remove", scope="key", fallback="any"
)
NO_MONEY: Final = ErrorClass(
    "no_money", elsewhere=True, health="cooldown", scope="key", fallback="any", cooldown=_HOUR
)
RATE_LIMITED: Final = ErrorClass(
    "rate_limited", elsewhere=True, health="cooldown", scope="key", fallback="any", cooldown=5.0
)
KEY_REFUSED: Final = ErrorClass(
    "key_refused", elsewhere=True, health="cooldown", scope="key", fallback="any", cooldown=30.0
)
KEY_UNFIT: Final = ErrorClass("key_unfit", elsewhere=True, scope="key", fallback="any")
"""This key cannot do this call, and is good for others."""
TOO_LARGE_FOR_KEY: Final = ErrorClass(
    "too_large_for_key", elsewhere=True, scope="key", fallback="context"
)
CONTENT: Final = ErrorClass("content_policy", fallback="content")
CONTEXT: Final = ErrorClass("context_length", fallback="context")
NO_MODEL: Final = ErrorClass(
    "no_model", elsewhere=True, health="cooldown", scope="model", fallback="any"
)
NOT_HERE: Final = ErrorClass(
    "not_here", elsewhere=True, health="cooldown", scope="channel", fallback="any"
)
"""The provider does not serve us from where we are, whatever the key."""
IN_BETWEEN: Final = ErrorClass(
    "in_between", elsewhere=True, health="cooldown", scope="channel", fallback="any"
)
"""Something in front of the provider refuses us, with a web page."""
OVERLOADED: Final = ErrorClass(
    "overloaded", here=True, elsewhere=True, health="cooldown", scope="model", fallback="any"
)
AGAIN: Final = ErrorClass("again", here=True, elsewhere=True, scope="model", fallback="any")
SERVER_ERROR: Final = ErrorClass(
    "server_error", here=True, elsewhere=True, health="cooldown", scope="model", fallback="any"
)
TOO_SLOW: Final = ErrorClass(
    "too_slow", elsewhere=True, health="cooldown", scope="model", billable=True, fallback="any"
)
UNSUPPORTED: Final = ErrorClass("unsupported", elsewhere=True, scope="channel", fallback="any")
CALLER: Final = ErrorClass("caller")
UNREACHABLE: Final = ErrorClass(
    "unreachable", elsewhere=True, health="cooldown", scope="channel", fallback="any"
)
LOST: Final = ErrorClass(
    "connection_lost",
    here=True,
    elsewhere=True,
    health="cooldown",
    scope="model",
    billable=True,
    fallback="any",
)
UNREADABLE: Final = ErrorClass(
    "unreadable", elsewhere=True, health="cooldown", scope="model", billable=True, fallback="any"
)
BUSY: Final = ErrorClass("busy", elsewhere=True, scope="channel", fallback="any")
TOKEN_HOST: Final = ErrorClass(
    "token_host", elsewhere=True, health="cooldown", scope="key", fallback="any", cooldown=5.0
)
OWN: Final = ErrorClass("own")


_ACCOUNT_GONE: Final = (
    r"re:^your access was terminated",
    r"re:^this organization has been (?:disabled|restricted)",
    r"re:^organization has been restricted",
    r"re:^the openai account associated with this api key has been deactivated",
)

_OUT_OF_MONEY: Final = (
    r"re:^your credit balance is too low",  # Anthropic, with 400
    r"re:^you have reached your specified api usage limits",  # Anthropic, with 400
    r"re:^your prepayment credits are depleted",  # Gemini, with 429
    r"re:^your (?:newly created )?team .{0,80}(?:credits|spending limit)",  # xAI, with 403 and 429
    r"re:^(?:sorry, )?your account balance is (?:insufficient|not enough)",  # SiliconFlow, 403
    r"re:^insufficient (?:account )?balance",
    r"re:^(?:您的|你的)?(?:账户|账号)?(?:已|当前已)欠费",  # Zhipu's 1113, with 429
)

_CONTENT: Final = (
    "content management policy",  # Azure
    "content exists risk",  # DeepSeek
    "content violates usage guidelines",  # xAI, with 403
    "content filtering policy",  # Anthropic
    "flagged as potentially violating",  # OpenAI's reasoning models
    "rejected as a result of our safety system",  # OpenAI's images
    "rejected by the safety system",
    "your input was flagged",  # OpenRouter, with 403
    "may contain inappropriate content",  # DashScope
    "敏感内容",  # Zhipu
)

_CONTEXT: Final = (
    "maximum context length",  # OpenAI, vLLM, OpenRouter, DeepSeek, Azure
    "context length exceeded",
    "exceeds the context window",
    "exceed context limit",  # Anthropic
    "context window exceeds limit",  # MiniMax
    "prompt is too long",  # Anthropic
    "input is too long for requested model",  # Bedrock
    "input token count",  # Gemini
    "maximum prompt length is",  # xAI
    "reduce the length of the messages",  # Groq
    "exceeds the available context size",  # llama.cpp
    "exceeded model token limit",  # Moonshot
    "range of input length should be",  # DashScope
    "prompt contains too many tokens",
    "too large for model with",  # Mistral
    "prompt 超长",  # Zhipu's 1261
)

DEFAULT: Final = (
    # A firewall's or a proxy's page with a 401 or 403 says nothing of the key.
    row(IN_BETWEEN, kind=("web_page",), status=(401, 402, 403)),
    # What is known by its own words, whatever the status.
    row(DEAD_KEY, kind=("revoked",)),
    row(DEAD_KEY, code=("account_deactivated", "organization_restricted", "api_key_expired")),
    row(DEAD_KEY, type=("access_terminated_error",)),
    row(DEAD_KEY, status=("4xx",), message=_ACCOUNT_GONE),
    row(
        CONTENT,
        code=(
            "content_filter",
            "content_policy_violation",
            "responsibleaipolicyviolation",
            "moderation_blocked",
            "data_inspection_failed",
            "datainspectionfailed",
            "prohibited_content",
            "safety_check_failed",
        ),
    ),
    row(CONTENT, type=("content_filter", "content_policy_violation", "safety_check_failed")),
    row(CONTENT, kind=("refused", "error_200"), message=_CONTENT),
    # One request that is too dear or too large for a key says nothing against the key.
    row(KEY_UNFIT, status=(402,), message=("can only afford",)),  # OpenRouter
    row(KEY_UNFIT, status=(402,), code=("weight_exceeds_budget",)),  # OpenRouter
    row(TOO_LARGE_FOR_KEY, status=(413, 429), message=(r"re:^request too large for ",)),
    # Money that is only held back for calls under way: OpenRouter, with Retry-After.
    row(RATE_LIMITED, code=("in_flight_budget_exhausted", "openrouter_in_flight_budget")),
    row(
        NO_MONEY,
        code=(
            "insufficient_quota",
            "billing_hard_limit_reached",
            "billing_not_active",
            "insufficient_balance",
            "insufficient_user_quota",
            "arrearage",  # DashScope, with 400
            "accountoverdueerror",  # Volcengine, with 403
            "allocationquota.freetieronly",  # DashScope, with 403
        ),
    ),
    row(NO_MONEY, type=("insufficient_quota", "billing_error", "exceeded_current_quota_error")),
    row(NO_MONEY, status=("4xx",), message=_OUT_OF_MONEY),
    row(CONTEXT, code=("context_length_exceeded", "context_window_exceeded")),
    row(CONTEXT, type=("context_length_exceeded", "exceed_context_size_error")),
    row(CONTEXT, status=(400, 413, 422, 502), message=_CONTEXT),
    row(
        NO_MODEL,
        code=(
            "deploymentnotfound",  # Azure
            "model_not_found",
            "modelnotfound",
            "model_decommissioned",  # Groq
            "model_not_available",
            "model.accessdenied",  # DashScope
            "invalidendpointormodel.notfound",  # Volcengine
        ),
    ),
    # Overload that is told as a limit is not the key's fault: Moonshot, OpenAI, Zhipu.
    row(OVERLOADED, type=("engine_overloaded_error", "overloaded_error")),
    row(OVERLOADED, status=(429,), code=("engine_overloaded", "1305", "1312")),
    row(OVERLOADED, status=(429,), message=(r"re:^(?:the engine|that model) is currently over",)),
    row(
        NOT_HERE,
        code=("unsupported_country_region_territory", "ip_not_authorized"),
    ),
    row(
        NOT_HERE,
        status=(400, 403),
        message=(
            r"re:^user location is not supported",  # Gemini, with 400
            r"re:^gemini api free tier is not available",
            r"re:^country, region, or territory not supported",
        ),
    ),
    row(KEY_UNFIT, status=(401, 403), message=(r"re:^you have insufficient permissions",)),
    row(DEAD_KEY, code=("invalid_api_key", "invalidapikey", "api_key_invalid")),
    row(
        DEAD_KEY,
        status=(400, 403),
        message=(
            r"re:^incorrect api key provided",  # xAI, with 400
            r"re:^api key (?:not valid|expired)",  # Gemini, with 400
            r"re:^invalid api[- ]key",
        ),
    ),
    # A caller chose the path: what is wrong there says nothing of the key or of the channel.
    row(KEY_UNFIT, status=(401, 402, 403), kind=("passed",)),
    row(AGAIN, status=("5xx",), kind=("passed",)),
    # Statuses.
    row(DEAD_KEY, status=(401,)),
    row(NO_MONEY, status=(402,)),
    row(KEY_REFUSED, status=(403,)),
    row(AGAIN, status=(408, 409, 425)),
    row(RATE_LIMITED, status=(429,)),
    row(UNSUPPORTED, status=(498, 501)),  # 498: no room in Groq's flex tier, the caller's choice
    row(TOO_SLOW, status=(504, 524, 598)),  # the provider has waited once already
    row(SERVER_ERROR, status=("5xx",)),
    row(CALLER, kind=("refused", "error_200")),
    # Failures without an answer.
    row(UNREACHABLE, kind=("connect", "timeout.connect")),
    row(LOST, kind=("lost",)),
    row(TOO_SLOW, kind=("timeout",)),
    row(BUSY, kind=("busy", "keys_busy")),
    row(UNREADABLE, kind=("bad_answer",)),
    row(TOKEN_HOST, kind=("upstream",)),
)
