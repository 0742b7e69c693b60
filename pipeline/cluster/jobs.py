"""Connect to the job server of a Ray cluster with its token, and follow a job to its exit code."""

import asyncio
import contextlib
import http.client
import logging
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

RAY_TALKS = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
POLL_S, LOST_S = 2.0, 600.0


def connect(address: str, insecure: bool = False) -> "JobSubmissionClient":
    """Connect to the job server of a cluster at the address of its dashboard, `http(s)://HOST:PORT`.

    Raises:
        UserError: the address is malformed or does not answer; the cluster asks for no token, refuses this one, or none is set.
    """
    if not re.match(r"https?://[^/]", address):
        raise UserError(
            f"--address {address}: expected the cluster's dashboard, e.g. http://127.0.0.1:8265 "
            "(over a network: https://, or a tunnel to the head's port 8265)"
        )
    address = address.rstrip("/")
    status = _status_without_token(address)
    headers = {}
    if status in (401, 403):
        headers["Authorization"] = f"Bearer {_token(address)}"
    elif status != 200:
        raise UserError(
            f"{address} answers with HTTP status {status}, so it is not the dashboard of a Ray cluster; give that of the "
            "head's port 8265"
        )
    elif not insecure:
        raise UserError(
            f"{address} answers without a token, so whoever reaches it can run any code there (CVE-2023-48022); "
            "start the cluster with RAY_AUTH_MODE=token, or say --insecure"
        )
    with _without_ray_address():
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for name in RAY_TALKS:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            return JobSubmissionClient(address, headers=headers)
        except AuthenticationError:
            raise UserError(f"{address} refuses this token; set RAY_AUTH_TOKEN to the cluster's own") from None


def follow(client: "JobSubmissionClient", name: str, write: Callable[[str], object]) -> int:
    """Pass the job's output to `write` until it ends, and return its exit code. A lost connection is retried for `LOST_S`.

    Raises:
        UserError: the cluster cannot be reached any more, or no longer knows the job.
    """
    from aiohttp import ClientError

    with contextlib.suppress(OSError, RuntimeError):  # the loop below handles these
        _await_start(client, name)
    written = 0
    lost_since: float | None = None
    while True:
        position = 0

        async def tail() -> None:
            nonlocal position, written
            async for text in client.tail_job_logs(name):
                fresh = text[max(0, written - position) :]
                position += len(text)
                if fresh:
                    written += len(fresh)
                    write(fresh)

        # Errors of the log do not matter: the job goes on without us, and its status is asked for next.
        with contextlib.suppress(OSError, RuntimeError, ClientError):
            asyncio.run(tail())
        try:
            details = client.get_job_info(name)
        except OSError as error:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > LOST_S:
                raise UserError(
                    f"job {name}: no answer from the cluster for {LOST_S:.0f} s; ask for it again"
                ) from error
        except RuntimeError as error:
            raise UserError(
                f"job {name}: the cluster does not know it any more, so its head was replaced; submit again: it resumes"
            ) from error
        else:
            lost_since = None
            if details.status.is_terminal():
                return exit_code(details)
        time.sleep(POLL_S)


def _await_start(client: "JobSubmissionClient", name: str) -> None:
    """Wait until the cluster has started the job, and print on stderr what it is waiting for."""
    told = None
    while (details := client.get_job_info(name)).status == "PENDING":
        if details.message != told:
            told = details.message
            print(
                f"waiting for the cluster to start the job: {told or 'it gives no reason'}", file=sys.stderr, flush=True
            )
        time.sleep(POLL_S)


def exit_code(details: "JobDetails") -> int:
    """Return a job's exit code: 0 clean, 2 done with rejects, else failed; 1 for a job that was stopped or never started."""
    if details.status == "SUCCEEDED":
        return 0
    return details.driver_exit_code or 1


def _status_without_token(address: str) -> int:
    try:
        with urllib.request.urlopen(f"{address}/api/jobs/", timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        raise UserError(
            f"{address}: no answer ({getattr(error, 'reason', error)}); is the cluster up, and its port 8265 reachable?"
        ) from None
    except (http.client.HTTPException, ValueError) as error:  # another protocol, as on port 6379, or no port number
        raise UserError(
            f"{address}: it does not speak HTTP as a dashboard does ({' '.join(str(error).split()) or type(error).__name__}); "
            "give the address of the head's port 8265"
        ) from None


def _token(address: str) -> str:
    """Return this machine's token from where Ray looks: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.is_file() and (token := path.read_text().strip()):
        return token
    raise UserError(
        f"{address} asks for a token and there is none: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to its file"
    )


@contextlib.contextmanager
def _without_ray_address() -> Iterator[None]:
    """Unset the variables that Ray lets override an explicit address, while the block runs."""
    hidden = {name: os.environ.pop(name, None) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in hidden.items() if value is not None})
