"""What a driver says when its cluster fails it: errors as Ray hands them over."""

import errno

import pytest
import ray.exceptions

from pipeline import faults


def remote(error):
    """The error of a task, as the driver meets it: of both types at once."""
    return ray.exceptions.RayTaskError("map", "Traceback of a worker", error).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (remote(ValueError("the checkpoint is gone")), "^the checkpoint is gone$"),
        (remote(OSError(errno.ENOSPC, "No space left on device")), "^run s3://b/run: a disk is full .* free space and"),
        (
            remote(OSError("the store did not answer for 90 s")),
            "^run s3://b/run: the store did not answer .* only what is",
        ),
        (
            remote(PermissionError("Forbidden")),
            "^run s3://b/run: access is refused .Forbidden.; see that its credentials",
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
    with pytest.raises(ValueError, match=sentence) as told, faults.explained("s3://b/run"):
        raise error
    assert "\n" not in str(told.value)


def test_an_error_of_ours_passes_as_it_is():
    with pytest.raises(AssertionError), faults.explained("s3://b/run"):
        raise AssertionError
