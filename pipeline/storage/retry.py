"""Which errors of a store are transient (503, resets, timeouts, bodies cut short), and how long a call is repeated for them."""

import errno
import functools
import random
import sys
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from pipeline.errors import StoreRefused

FULL = (errno.ENOSPC, errno.EDQUOT)
GIVE_UP_S = 90.0  # after the first failure; a store that is restarted is back by then
# Of a command that has not heard from its store yet: an address that is wrong is likelier than a store that restarts.
GIVE_UP_AT_START_S = 15.0
ANNOUNCE_S = 3.0  # of failing, before a command that starts says what it waits for
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
_BUSY = (408, 429)  # HTTP status, beside all from 500 on
# Codes that S3 sends with status 400, and that a second try may mend.
_TRANSIENT = ("RequestTimeout", "SlowDown", "Throttling", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch")

# Its codes for credentials that have expired or are wrong: no fault of any object, and not mended by waiting.
_REFUSALS = (
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed",
    "SignatureDoesNotMatch", "TokenRefreshRequired",
)  # fmt: skip

# botocore's errors for credentials that are missing.
_MISSING = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoAuthTokenError", "TokenRetrievalError",
            "SSOTokenLoadError", "UnauthorizedSSOTokenError", "CredentialRetrievalError")  # fmt: skip

P = ParamSpec("P")
T = TypeVar("T")

_starting = False  # a command starts in this process, and its store has not answered yet


def start() -> None:
    """A command starts here: until its store has answered once, say what is waited for, and give up soon."""
    global _starting
    _starting = True


def retried(call: Callable[P, T]) -> Callable[P, T]:
    """The same function, called again after each transient error, with growing pauses, until `GIVE_UP_S` have passed.

    Raises:
        OSError: of the store, at once if it is not transient (no such file, no permission, disk full), else in the end.
        StoreRefused: at once, for credentials that have expired, are wrong or missing.
    """

    @functools.wraps(call)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        global _starting
        pause, first_failure, announced = _FIRST_PAUSE_S, 0.0, False
        while True:
            began = time.monotonic()
            try:
                answer = call(*args, **kwargs)
            except Exception as error:
                _raise_unless_transient(error)
                now, first_failure = time.monotonic(), first_failure or began
                give_up_s = GIVE_UP_AT_START_S if _starting else GIVE_UP_S
                if now > first_failure + give_up_s:
                    if isinstance(error, OSError) and not _starting:
                        raise
                    words = " ".join(str(error).split()) or type(error).__name__
                    check = "; see that AWS_ENDPOINT_URL and the network are right" if _starting else ""
                    raise OSError(
                        f"the store did not answer for {now - first_failure:.0f} s ({words}){check}"
                    ) from error
                if _starting and not announced and now > first_failure + ANNOUNCE_S:
                    announced = True
                    what = f"the store does not answer ({error}); trying for {give_up_s:.0f} s"
                    print(what, file=sys.stderr, flush=True)
            else:
                if "aiobotocore" in sys.modules:  # else it was a disk
                    _starting = False
                return answer
            time.sleep(pause * random.uniform(0.5, 1.0))  # workers that failed together do not come back together
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    return repeated


def _raise_unless_transient(error: Exception) -> None:
    """Raise what an error means, unless the same call may succeed later."""
    if type(error).__name__ in _MISSING and type(error).__module__.startswith("botocore."):
        raise StoreRefused(
            f"the store asks for credentials, and none are found ({error}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, on every machine of the run"
        ) from error
    if (code := s3_code(error)) in _REFUSALS:
        raise StoreRefused(
            f"the store refuses the credentials ({code}); renew them and run the same command again"
        ) from error
    if is_transient(error):
        return
    if (status := _status(error)) and not isinstance(error, OSError):
        raise OSError(f"the host answers {status} {getattr(error, 'message', '')}") from error
    raise error


def sentence(error: OSError) -> str:
    """What a disk or a store refused, and what to do about it."""
    words = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
    what = (words.strip().splitlines() or [type(error).__name__])[0]
    if error.errno in FULL:
        return f"a disk is full ({what}); free space and run the same command again"
    if isinstance(error, PermissionError):
        return f"access is refused ({what}); see that this user or these credentials may read and write there"
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)):
        return f"{what}; check the path"
    return f"{what}; run the same command again"


def s3_code(error: BaseException) -> str:
    """S3's code of an error; empty for others."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def _response(error: BaseException) -> dict[str, Any]:
    """The answer of S3 that an error reports; empty for others."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    if response := _response(error):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status in _BUSY or s3_code(error) in _TRANSIENT
    if status := _status(error):
        return status >= 500 or status in _BUSY
    return isinstance(error, (ConnectionError, TimeoutError, *_client_errors()))


def _status(error: BaseException) -> int:
    """The status of a web server's answer that is an error (aiohttp.ClientResponseError); 0 for others."""
    status = getattr(error, "status", 0)
    return status if isinstance(status, int) else 0


def _client_errors() -> tuple[type[Exception], ...]:
    """Errors of the S3 client's connections, where it is in use; they are no OSErrors."""
    if "aiobotocore" not in sys.modules:
        return ()
    import aiohttp
    from botocore import exceptions, parsers

    return (
        exceptions.HTTPClientError,
        exceptions.ConnectionError,
        exceptions.IncompleteReadError,
        exceptions.FlexibleChecksumError,  # a body changed or cut on its way
        parsers.ResponseParserError,
        aiohttp.ClientError,
    )
