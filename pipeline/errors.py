"""Errors with a meaning: what the user can mend, and why one image has no mask. Every other exception is a bug of ours."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'car'?` for a name that is spelt nearly as one of the known ones, else nothing."""
    by_case = {one.lower(): one for one in known}
    near = get_close_matches(str(name).lower(), by_case, n=1)
    return f"; did you mean '{by_case[near[0]]}'?" if near else ""


class UserError(ValueError):
    """Something that whoever runs the command can mend: the message says where, what was found, what is allowed, what to do."""


class RunBusy(UserError):
    """Another writer holds the run; wait for it or stop it."""


class StoreRefused(UserError):
    """The store rejects the credentials: it concerns the whole run, never one image."""


class Reject(Exception):
    """One image gets a row in the reject table instead of a mask.

    Args:
        stage: where it failed: read, decode, label, predict or worker.
        reason: stable code of the reject table, such as `truncated`.
        message: one sentence for a person.
    """

    def __init__(self, stage: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.reason = stage, reason

    def __reduce__(self) -> tuple[type["Reject"], tuple[str, str, str]]:
        return type(self), (self.stage, self.reason, str(self))

    def at(self, stage: str) -> "Reject":
        """The same reject at another stage: what decoding refuses may be the image or its label."""
        return Reject(stage, self.reason, str(self))


class Stopped(Exception):
    """Ctrl-C or SIGTERM: the message says what is kept and how to go on."""
