"""Guesses of where other keys of a store lie between two known ones, from the letters in the keys seen so far."""

from bisect import bisect_right
from math import inf

_DIGITS = 12  # letters after the common prefix of two keys that are used to measure their distance
_TOP = "\U0010fffd"  # the largest letter that a key may have
_BASE = ord(_TOP) + 1


class Letters:
    """The letters in the keys seen so far, all of which begin with `root`.

    A range of keys is described by the first and last key of its newest page, `since` and `last`, and by its upper bound `upto`
    (None: unbounded).
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._letters = f"~{_TOP}"  # sorted; begins with letters above those of most keys

    def learn(self, letters: set[str]) -> None:
        if new := letters.difference(self._letters):
            self._letters = "".join(sorted(new.union(self._letters)))

    def left(self, since: str, last: str, upto: str | None) -> float:
        """Return how many pages are left if keys stay as dense as on the newest page; inf if this cannot be estimated."""
        shared = len(self._shared(since, upto))
        before, here = _number(since[shared:]), _number(last[shared:])
        end = _BASE**_DIGITS if upto is None else _number(upto[shared:])
        return (end - here) / (here - before) if here > before else inf

    def middle(self, since: str, last: str, upto: str | None) -> str | None:
        """Return the shortest text found between the last key and the bound; None if none is found."""
        shared, alike = self._shared(since, upto), _beginning(since, last)
        guesses = [self._halfway(shared, last, upto), self._halfway(alike, last, upto)]
        if len(alike) > len(shared) + _DIGITS:  # keys differ somewhere further on, at an unknown place
            start = last[: (len(shared) + len(alike)) // 2]
            guesses.insert(0, start + ("~" if last[len(start)] < "~" else _TOP))
        for guess in guesses:
            between = guess > last and (upto is None or guess < upto)
            if between and "//" not in guess[len(self._root) - 1 :]:  # SeaweedFS then lists keys under other names
                return guess
        return None

    def _halfway(self, shared: str, last: str, upto: str | None) -> str:
        """Return the middle, counted in letters seen so far, since keys use few; between adjacent ones, in code points."""
        low = last[len(shared) :]
        high = upto[len(shared) :] if upto is not None and upto.startswith(shared) else ""
        first, end = low[:1] or "\0", high[:1] or _TOP
        if self._place(end) - self._place(first) < 2 and ord(end) - ord(first) > 1:
            self.learn({_letter((ord(first) + ord(end)) // 2)})
        base, guess = len(self._letters) + 1, shared
        number = (self._digits(low) + (self._digits(high) if high else base**_DIGITS)) // 2
        for place in reversed(range(_DIGITS)):
            digit, number = divmod(number, base**place)
            if digit == 0 or guess > last:
                break
            guess += self._letters[digit - 1]
        return guess

    def _shared(self, since: str, upto: str | None) -> str:
        """Return the common prefix of all keys that may be left."""
        return self._root if upto is None else _beginning(since, upto)

    def _place(self, letter: str) -> int:
        return bisect_right(self._letters, letter)

    def _digits(self, text: str) -> int:
        """Return the first letters as a number whose digits are their positions among the letters seen so far."""
        number, base = 0, len(self._letters) + 1
        for letter in text[:_DIGITS].ljust(_DIGITS, "\0"):
            number = number * base + self._place(letter)
        return number


def _beginning(one: str, other: str) -> str:
    """Return the common prefix of two texts."""
    length = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _number(text: str) -> int:
    """Return the first letters as a number whose digits are their code points."""
    number = 0
    for letter in text[:_DIGITS].ljust(_DIGITS, "\0"):
        number = number * _BASE + ord(letter)
    return number


def _letter(point: int) -> str:
    """Return the letter of a code point; for UTF-16 surrogates, the next valid one."""
    return chr(point) if not 0xD800 <= point < 0xE000 else "\ue000"
