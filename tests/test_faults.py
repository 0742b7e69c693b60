"""Messages of a driver whose cluster fails, made from errors as Ray raises them."""

import errno

import pytest
import ray.exceptions

from pipeline.errors import UserError
from pipeline.segment import failures

TRACEBACK = """Traceback (most recent call last):
  File "map.py", line 7, in a_function_of_the_worker
    raise error
Error: words
"""


def remote(error):
    """The error of a task, as the driver meets it: of both types at once."""
    return ray.exceptions.RayTaskError("map", TRACEBACK, error).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (remote(UserError("the checkpoint is gone")), "^the checkpoint is gone$"),
        (remote(OSError(errno.ENOSPC, "No space left on device")), "^run s3://b/run: a disk is full .* free space and"),
        (
            remote(OSError("the store did not answer for 90 s")),
            "^run s3://b/run: the store did not answer .* only what is",
        ),
        (
            remote(PermissionError("Forbidden")),
            "^run s3://b/run: access is refused .Forbidden.; check that its credentials",
        ),
        (
            ray.exceptions.RayTaskError("map", "Traceback\nOSError: [Errno 28] No space left on device", None),
            "^run s3://b/run: a disk is full .OSError.*No space left on device.; free space and",
        ),
        (ray.exceptions.ActorDiedError(), "^run s3://b/run: lost the cluster .*ActorDiedError"),
        (ConnectionError("gone"), "^run s3://b/run: gone; run the same command again"),
    ],
)
def test_each_is_one_sentence_with_what_to_do(error, sentence):
    with pytest.raises(UserError, match=sentence) as told, failures.explained("s3://b/run"):
        raise error
    assert "\n" not in str(told.value)


def test_an_error_of_ours_passes_as_it_is():
    with pytest.raises(AssertionError), failures.explained("s3://b/run"):
        raise AssertionError


@pytest.mark.parametrize("error", [ValueError("operands could not be broadcast"), TypeError("oh no"), KeyError("mask")])
def test_a_bug_in_a_worker_is_no_sentence_and_keeps_its_traceback(error):
    with pytest.raises(failures.ActorError, match=type(error).__name__) as met, failures.explained("s3://b/run"):
        raise remote(error)
    assert "a_function_of_the_worker" in "".join(met.value.__notes__)
    assert not isinstance(met.value, UserError)


def test_what_ended_an_actor_reaches_its_driver_as_what_it_was():
    failures.raise_encoded(None)
    with pytest.raises(UserError, match=r"^run /r: a disk is full .* free space"):
        failures.raise_encoded(failures.encode("/r", OSError(errno.ENOSPC, "No space left on device"), "shard 3"))
    with pytest.raises(UserError, match=r"^put it back$"):
        failures.raise_encoded(failures.encode("/r", UserError("put it back"), "shard 3"))
    try:
        [].index("image")
    except ValueError as error:
        error.add_note("on image a/b")
        told = failures.encode("/r", error, "shard 3")
    with pytest.raises(
        failures.ActorError, match=r"^run /r, shard 3: on image a/b: ValueError: 'image' is not in list"
    ) as met:
        failures.raise_encoded(told)
    assert '[].index("image")' in "".join(met.value.__notes__)
