"""Everything that can go wrong with a call, and how a caller is told.

    GatewayError                          500
    ├── InvalidRequest                    400   the caller's body or path cannot be used
    │   ├── BodyTooLarge                  413
    │   ├── UnsupportedMedia              415
    │   └── RequestTimeout                408   the caller sent its body too slowly
    ├── AuthenticationFailed              401   no access token, or not a good one
    ├── PermissionDenied                  403   a good access token, but not for this
    ├── NotFound                          404
    │   └── ModelNotFound                 404   no channel serves this model to this caller
    ├── MethodNotAllowed                  405
    ├── RateLimited                       429
    │   └── KeysBusy                      429   every key that could serve is at a limit of its own
    ├── NotSupported                      501   a known route that no channel here can serve
    ├── Unavailable                       503   served here, but nothing healthy is left
    ├── StateUnavailable                  503   the shared store does not answer
    ├── ConfigurationError                500   the operator's settings cannot work
    └── UpstreamError                     502   the provider failed
        ├── ConnectFailed                 502   no connection: DNS, refused, TLS
        ├── ConnectionLost                502   the connection died before the answer was whole
        ├── UpstreamTimeout               504   a time limit of the channel ran out
        ├── PoolTimeout                   503   no connection became free in time
        ├── KeyRevoked                    503   a key whose token host will never take it again
        ├── BadAnswer                     502   an answer that is not what the provider promises
        └── ProviderRefused               as the provider said (its body is kept)

    ClientLeft                            the caller is gone: nobody is told

`render` turns an error into an HTTP answer in the caller's dialect and `stream_event` into that
dialect's error event, for a stream whose first event has already gone out.
"""

from .rendering import payload, render, stream_event
from .tree import (
    AuthenticationFailed,
    BadAnswer,
    BodyTooLarge,
    ClientLeft,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    GatewayError,
    Headers,
    InvalidRequest,
    KeyRevoked,
    KeysBusy,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    NotSupported,
    PermissionDenied,
    PoolTimeout,
    ProviderRefused,
    RateLimited,
    RequestTimeout,
    StateUnavailable,
    Unavailable,
    UnsupportedMedia,
    UpstreamError,
    UpstreamTimeout,
)

__all__ = [
    "AuthenticationFailed",
    "BadAnswer",
    "BodyTooLarge",
    "ClientLeft",
    "ConfigurationError",
    "ConnectFailed",
    "ConnectionLost",
    "GatewayError",
    "Headers",
    "InvalidRequest",
    "KeyRevoked",
    "KeysBusy",
    "MethodNotAllowed",
    "ModelNotFound",
    "NotFound",
    "NotSupported",
    "PermissionDenied",
    "PoolTimeout",
    "ProviderRefused",
    "RateLimited",
    "RequestTimeout",
    "StateUnavailable",
    "Unavailable",
    "UnsupportedMedia",
    "UpstreamError",
    "UpstreamTimeout",
    "payload",
    "render",
    "stream_event",
]
