"""Parallel listing of a store that returns its keys in pages: each of many listers lists its own range of keys.

An idle lister takes the upper half of the range that seems to have the most keys left. Where that half begins is guessed from
the keys seen so far, so a range may turn out to be empty, which costs one request.

The result is what a single lister would have listed, whatever the store's order. A range ends where its listing reaches the
first key of another range. If it ends elsewhere, a single lister continues it until it reaches such a key. This happens in
stores with folders, which list `a/1` before `a-b`, contrary to the byte order of keys, if a bound lies between the two.
"""

import contextlib
import threading
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter, lt
from queue import Full, Queue
from typing import NamedTuple, Protocol

from pipeline.storage.key_letters import Letters
from pipeline.storage.store import Listed

_FIRST_KEYS = 4  # first keys of a range, any of which marks its beginning, since some may be removed meanwhile
_GUESSES = 2  # wrong guesses that each lister is allowed, in addition to one for every two pages with keys
_WAIT_S = 0.5  # after which a lister checks again whether the listing was given up


class Page(NamedTuple):
    """One answer of the store."""

    found: list[Listed]  # in the store's order
    token: str | None  # for the next page; None: this is the last


class ListPage(Protocol):
    """Returns the page of a token, or the first page after a key (None: of all keys); retries transient errors."""

    def __call__(self, after: str | None, token: str | None) -> Page: ...


class Range:
    """A range of keys that are consecutive in the store's order."""

    def __init__(self, after: str | None, upto: str | None) -> None:
        self.after, self.upto = after, upto  # exclusive lower and inclusive upper bound; None: unbounded
        self.token: str | None = None  # for the next page; at the end, for the page in which the range ended
        self.last: str | None = None  # the last key listed so far
        self.since = ""  # the first key of the newest page, and the number of its keys
        self.keys = 0
        self.left = 0.0  # estimated number of keys left
        self.ended = False
        self.met: str | None = None  # the first key after the range, at which it ended; None: the end of the store


def scan_ranges(list_page: ListPage, root: str, listers: int) -> Iterator[list[Listed]]:
    """Yield every object once, at most a page at a time, in no particular order; raise what a lister raises.

    A listing of a single page takes one request and no threads. At most three pages per lister are in memory.

    Args:
        root: common prefix of all paths.
    """
    page = list_page(None, None)
    if page.token is None:
        yield page.found
        return
    listing = Listing(list_page, root, listers)
    try:
        yield listing.begin(page)
        for number in range(listers):  # not joined, so that a hanging request does not delay giving up
            threading.Thread(target=listing.work, name=f"lister-{number}", daemon=True).start()
        yield from listing.pages()
        yield from listing.mended()
    finally:
        listing.give_up()


class Listing:
    """The state that the listers share."""

    def __init__(self, list_page: ListPage, root: str, listers: int) -> None:
        self._list_page, self._root, self._listers = list_page, root, listers
        self._pages: Queue[list[Listed] | BaseException | None] = Queue(2 * listers)
        self._changed = threading.Condition()
        self._ranges, self._free, self._open = (
            list[Range](),
            list[Range](),
            set[Range](),
        )  # all; not yet begun; not yet ended
        self._firsts = set[str]()  # the first keys of each range that has any
        self._letters = Letters(root)
        self._in_order = True  # whether the store has listed in the byte order of keys so far
        self._page_keys = 0  # number of keys in the largest page
        self._full, self._guesses = 0, 0  # pages with keys of their range; halves without any key so far
        self._given_up = False

    def begin(self, page: Page) -> list[Listed]:
        """Begin with the very first page; return its objects."""
        self._guesses += 1
        self._free.append(self._added(None, None))
        return self.take(self._free[0], page)

    def work(self) -> None:
        """Run one lister until nothing is left."""
        try:
            while (mine := self._next()) is not None:
                while not (mine.ended or self._given_up):
                    page = self._list_page(mine.after, mine.token)
                    with self._changed:
                        found = self.take(mine, page)
                        self._changed.notify_all()
                    if found:
                        self._put(found)
            self._put(None)
        except BaseException as error:
            self._put(error)

    def claim(self) -> Range | None:
        """Return a range for an idle lister; None if there is none for now."""
        return self._free.pop() if self._free else self._half()

    def take(self, mine: Range, page: Page) -> list[Listed]:
        """Return the objects of a page that belong to a range; it ends at the first that does not, or with the last page."""
        keys = [one.path for one in page.found]
        own = len(keys)
        self._page_keys = max(self._page_keys, own)
        before = mine.last or mine.after
        if keys and before is not None and keys[0] <= before:
            own = 0
        elif not all(map(lt, keys, islice(keys, 1, None))):
            own = next(n for n in range(1, len(keys)) if keys[n] <= keys[n - 1])
        if own < len(keys):
            self._in_order = False
        if mine.upto is not None:
            own = bisect_right(keys, mine.upto, 0, own)
        if own:
            self._full += 1
            if mine.last is None:
                self._guesses -= 1
                self._firsts.update(keys[: min(own, _FIRST_KEYS)])
            mine.since, mine.last, mine.keys = keys[0], keys[own - 1], own
            self._letters.learn({*keys[0], *keys[own - 1]})
        if own < len(keys) or page.token is None:
            self._open.remove(mine)
            mine.ended = True
            mine.met = keys[own] if own < len(keys) else None
        else:
            mine.token = page.token
            if own:
                mine.left = own * self._letters.left(keys[0], keys[-1], mine.upto)
        return page.found[:own]

    def pages(self) -> Iterator[list[Listed]]:
        """Yield what the listers find, until all have ended."""
        at_work = self._listers
        while at_work:
            found = self._pages.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                at_work -= 1
            else:
                yield found

    def mended(self) -> Iterator[list[Listed]]:
        """Yield the objects between the end of a range and the beginning of the next, which no lister has listed."""
        for ended in self._ranges:
            if ended.last is None or ended.met is None or ended.met in self._firsts:
                continue
            token, begins = ended.token, ended.last
            while True:
                page = self._list_page(ended.after, token)
                keys = [one.path for one in page.found]
                start = keys.index(begins) + 1 if begins in keys else 0
                end = next((n for n in range(start, len(keys)) if keys[n] in self._firsts), len(keys))
                yield page.found[start:end]
                if end < len(keys) or page.token is None:
                    break
                token = page.token

    def give_up(self) -> None:
        """Stop all listers."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def _added(self, after: str | None, upto: str | None) -> Range:
        one = Range(after, upto)
        self._ranges.append(one)
        self._open.add(one)
        return one

    def _next(self) -> Range | None:
        """Wait for a range to list; None if there will be none."""
        with self._changed:
            while self._open and not self._given_up:
                if (one := self.claim()) is not None:
                    return one
                self._changed.wait()
        return None

    def _put(self, found: list[Listed] | BaseException | None) -> None:
        while not self._given_up:
            with contextlib.suppress(Full):
                self._pages.put(found, timeout=_WAIT_S)
                return

    def _half(self) -> Range | None:
        """Return the upper half of the range with the most keys left; None if no range seems to have a page left."""
        if not self._in_order or self._guesses > _GUESSES * self._listers + self._full // 2:
            return None
        for one in sorted(self._open, key=attrgetter("left"), reverse=True):
            if one.left <= self._page_keys or one.last is None:
                break
            if (middle := self._letters.middle(one.since, one.last, one.upto)) is not None:
                half = self._added(middle, one.upto)
                one.upto = middle
                one.left = one.keys * self._letters.left(one.since, one.last, middle)
                self._guesses += 1
                return half
            one.left = 0.0  # until its next page
        return None
