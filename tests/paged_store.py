"""A simulated store that lists page by page, for tests and benchmarks, with given keys, order and time per page."""

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

from pipeline.storage.key_ranges import Page
from pipeline.storage.store import Listed


class PagedStore:
    """`PagedStore(keys, page)` is called as a `ListPage`; paths are the keys, tokens the last key of the page before."""

    def __init__(
        self, keys: Iterable[str], page: int, order: Callable[[str], Any] = str.encode, page_s: float = 0.0
    ) -> None:
        self._keys = sorted(keys, key=order)
        self._page, self._order, self._page_s = page, order, page_s
        self._lock, self._at_work = threading.Lock(), 0
        self.requests, self.most_at_once = 0, 0
        self.added, self.removed = set[str](), set[str]()

    def __call__(self, after: str | None, token: str | None) -> Page:
        with self._lock:
            self.requests += 1
            self._at_work += 1
            self.most_at_once = max(self.most_at_once, self._at_work)
        time.sleep(self._page_s)
        before = after if token is None else token
        with self._lock:
            self._at_work -= 1
            start = 0 if before is None else bisect_right(self._keys, self._order(before), key=self._order)
            end = start + self._page
            keys, more = self._keys[start:end], end < len(self._keys)
        return Page([Listed(key, 1) for key in keys], keys[-1] if more else None)

    def change(self, removed: str, added: str) -> None:
        """While it is listed."""
        with self._lock:
            if removed in self._keys:
                self._keys.remove(removed)
                self.removed.add(removed)
            self._keys = sorted({*self._keys, added}, key=self._order)
            self.added.add(added)
