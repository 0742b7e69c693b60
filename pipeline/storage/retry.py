"""Retries for transient errors of a store (503, resets, timeouts, truncated bodies)."""

import errno
import functools
import random
import sys
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from pipeline.errors import StoreRefused
from pipeline.storage.store import NoRanges

FULL = (errno.ENOSPC, errno.EDQUOT)
GIVE_UP_S = 90.0  # after the first failure; a store that is being restarted is back by then
# For a command that has had no reply from its store yet: a wrong address is likelier than a store that restarts.
GIVE_UP_AT_START_S = 15.0
ANNOUNCE_S = 3.0  # of failures, after which a starting command says what it is waiting for
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
_BUSY = (408, 429)  # transient HTTP statuses, in addition to all from 500 on
# Codes that S3 sends with status 400, but for which a retry may succeed.
_TRANSIENT = ("RequestTimeout", "SlowDown", "Throttling", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch")

# S3's codes for expired or wrong credentials: they concern no single object, and waiting does not help.
_REFUSALS = (
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed",
    "SignatureDoesNotMatch", "TokenRefreshRequired",
)  # fmt: skip

# botocore's errors for credentials that are missing.
_MISSING = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoAuthTokenError", "TokenRetrievalError",
            "SSOTokenLoadError", "UnauthorizedSSOTokenError", "CredentialRetrievalError")  # fmt: skip

P = ParamSpec("P")
T = TypeVar("T")

_starting = False  # whether a command is starting in this process and its store has not answered yet


def start() -> None:
    """Mark the start of a command: until its store has answered once, announce the waiting and give up early."""
    global _starting
    _starting = True


def retried(call: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function so that it is repeated after transient errors, with growing pauses, until `GIVE_UP_S` have passed.

    Raises:
        OSError: of the store; at once if it is not transient (no such file, no permission, disk full), else after the retries.
        StoreRefused: at once, if credentials are expired, wrong or missing.
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
                    check = "; check AWS_ENDPOINT_URL and the network" if _starting else ""
                    raise OSError(
                        f"the store did not answer for {now - first_failure:.0f} s ({words}){check}"
                    ) from error
                if _starting and not announced and now > first_failure + ANNOUNCE_S:
                    announced = True
                    what = f"the store does not answer ({error}); trying for {give_up_s:.0f} s"
                    print(what, file=sys.stderr, flush=True)
            else:
                if "aiobotocore" in sys.modules:  # otherwise it was a disk that answered
                    _starting = False
                return answer
            time.sleep(pause * random.uniform(0.5, 1.0))  # so that workers do not retry all at the same time
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    return repeated


def _raise_unless_transient(error: Exception) -> None:
    """Raise the error, or a clearer one, unless the same call may succeed later."""
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
    """Return a message that says what a disk or a store refused, and what to do about it."""
    if isinstance(error, NoRanges):
        return str(error)
    words = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
    what = (words.strip().splitlines() or [type(error).__name__])[0]
    if error.errno in FULL:
        return f"a disk is full ({what}); free space and run the same command again"
    if isinstance(error, PermissionError):
        return f"access is refused ({what}); check that this user or these credentials may read and write there"
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)):
        return f"{what}; check the path"
    return f"{what}; run the same command again"


def s3_code(error: BaseException) -> str:
    """Return S3's code of an error; empty for other errors."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def is_past_end(error: BaseException) -> bool:
    """Whether a store refuses a range because the object ends before it."""
    codes = [getattr(error, name, 0) for name in ("code", "status_code")]  # of Google and Azure
    return s3_code(error) == "InvalidRange" or 416 in (_status(error), *codes)


def _response(error: BaseException) -> dict[str, Any]:
    """Return the reply of S3 that an error reports; empty for other errors."""
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
    """Return the HTTP status of an aiohttp.ClientResponseError; 0 for other errors."""
    status = getattr(error, "status", 0)
    return status if isinstance(status, int) else 0


def _client_errors() -> tuple[type[Exception], ...]:
    """Return the types of connection errors of the S3 client, if it is in use; they are not OSErrors."""
    if "aiobotocore" not in sys.modules:
        return ()
    import aiohttp
    from botocore import exceptions, parsers

    return (
        exceptions.HTTPClientError,
        exceptions.ConnectionError,
        exceptions.IncompleteReadError,
        exceptions.FlexibleChecksumError,  # a body that was altered or truncated in transit
        parsers.ResponseParserError,
        aiohttp.ClientError,
    )
