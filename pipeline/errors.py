"""Expected errors: those that the user can fix, and reasons why one image has no mask. Any other exception is a bug."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'car'?` if the name is spelt nearly like a known one, else an empty string."""
    by_case = {one.lower(): one for one in known}
    near = get_close_matches(str(name).lower(), by_case, n=1)
    return f"; did you mean '{by_case[near[0]]}'?" if near else ""


class UserError(ValueError):
    """An error that the user can fix: the message says where it is, what was found, what is allowed and what to do."""


class RunBusy(UserError):
    """Another writer holds the run; wait for it or stop it."""


class StoreRefused(UserError):
    """The store rejects the credentials, which stops the whole run rather than rejecting one image."""


class Reject(Exception):
    """One image gets a row in the reject table instead of a mask.

    Args:
        stage: the stage that failed: read, decode, label, predict or worker.
        reason: stable code of the reject table, such as `truncated`.
        message: one sentence for a person.
    """

    def __init__(self, stage: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.reason = stage, reason

    def __reduce__(self) -> tuple[type["Reject"], tuple[str, str, str]]:
        return type(self), (self.stage, self.reason, str(self))

    def at(self, stage: str) -> "Reject":
        """Return the same reject at another stage, since a decoding error may concern the image or its label."""
        return Reject(stage, self.reason, str(self))


class Stopped(Exception):
    """The command was stopped by Ctrl-C or SIGTERM; the message says what is kept and how to continue."""
