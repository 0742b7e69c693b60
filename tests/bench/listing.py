"""Listing a prefix, by one lister and by many, where the store takes 0.1 s a page of 1000 objects.

python -m tests.bench.listing clock [objects]    five minutes for 100000000: simulated time, which only pages advance
python -m tests.bench.listing s3 [objects]       four minutes for 1000000: a server of its own, asked by the S3 client

`clock` runs the listers' own decisions one after the other, without a client. `s3` uses threads, the client and the network;
its processor time is the cost of a listing. Both generate keys as they are requested.
"""

import asyncio
import heapq
import os
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator
from urllib.parse import quote

from aiohttp import web

from pipeline import storage
from pipeline.storage import s3
from pipeline.storage.key_ranges import Listing, Page, Range
from pipeline.storage.store import LIST_PAGE, LISTERS, Listed
from tests.bench.turns import show
from tests.s3_server import free_ports

PAGE_S = 0.1  # seen of a listing of 1200 parts (configs/LOG.md)
MOMENT = "<LastModified>2026-11-28T10:00:00.000Z</LastModified>"


class Keys:
    """Sorted keys that are made when they are asked for: images and as many labels, of sequences of uneven lengths."""

    def __init__(self, count: int) -> None:
        self._half = count // 2

    def __len__(self) -> int:
        return 2 * self._half

    def __getitem__(self, place: int) -> str:
        kind, number = divmod(place, self._half)
        block, rest = divmod(number, 1000)  # a long folder and short ones in turn
        folder, frame = (f"{block:06d}_a", rest) if rest < 900 else (f"{block:06d}_b{(rest - 900) // 4:02d}", rest % 4)
        return f"{('images', 'labels')[kind]}/train/{folder}/{frame:06d}.{('jpg', 'png')[kind]}"


def by_the_clock(count: int) -> list[float]:
    """Seconds of many listers, on a clock that only pages move; processor seconds, and requests."""
    keys, requests, now, worked = Keys(count), 0, PAGE_S, time.process_time()

    def list_page(after: str | None, token: str | None) -> Page:
        nonlocal requests
        requests += 1
        start = int(token) if token else 0 if after is None else bisect_right(keys, after)
        end = min(start + LIST_PAGE, len(keys))
        return Page([Listed(keys[place], 1) for place in range(start, end)], str(end) if end < len(keys) else None)

    listing = Listing(list_page, "", LISTERS)
    found, idle, asked = len(listing.begin(list_page(None, None))), LISTERS, list[tuple[float, int, Range]]()
    while True:
        while idle and (one := listing.claim()) is not None:
            idle -= 1
            heapq.heappush(asked, (now + PAGE_S, requests + len(asked), one))
        if not asked:
            break
        now, _, one = heapq.heappop(asked)
        found += len(listing.take(one, list_page(one.after, one.token)))
        if one.ended:
            idle += 1
        else:
            heapq.heappush(asked, (now + PAGE_S, requests + len(asked), one))
    assert found + sum(map(len, listing.mended())) == len(keys)
    return [now, time.process_time() - worked, requests]


def serve(count: int, port: int) -> None:
    """ListObjectsV2 of S3, and nothing else."""
    keys = Keys(count)

    def contents(start: int, end: int) -> Iterator[str]:
        for place in range(start, end):
            tag = f"<ETag>&quot;{place:032x}&quot;</ETag><Size>{300_000 + place}</Size>"
            yield f"<Contents><Key>{quote(keys[place])}</Key>{MOMENT}{tag}<StorageClass>STANDARD</StorageClass></Contents>"

    async def answer(request: web.Request) -> web.Response:
        asked = request.query
        after = asked.get("start-after")
        start = int(asked["continuation-token"]) if "continuation-token" in asked else 0
        if after is not None and "continuation-token" not in asked:
            start = bisect_right(keys, after)
        end = min(start + LIST_PAGE, len(keys))
        token = f"<NextContinuationToken>{end}</NextContinuationToken>"
        last = f"<IsTruncated>true</IsTruncated>{token}" if end < len(keys) else "<IsTruncated>false</IsTruncated>"
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<EncodingType>url</EncodingType>{last}{''.join(contents(start, end))}</ListBucketResult>"
        )
        await asyncio.sleep(PAGE_S)
        return web.Response(text=body, content_type="application/xml")

    app = web.Application()
    app.router.add_get("/{bucket}", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


def of_s3(listers: int, botocore_parses: bool) -> list[float]:
    """Seconds and processor seconds of this process, and objects."""
    s3.LISTERS = listers
    if botocore_parses:
        s3.LISTING, s3.parse_listing = "maskmill-by-botocore", lambda **_: None
    began, worked = time.perf_counter(), time.process_time()
    found = sum(1 for _ in storage.scan("s3://corpus"))
    return [time.perf_counter() - began, time.process_time() - worked, found]


def main(kind: str, count: int) -> None:
    pages = count // LIST_PAGE
    header = ["listing", "s", "CPU s", "CPU µs an object", "times as fast"]
    if kind == "clock":
        seconds, worked, requests = by_the_clock(count)
        show(f"{count} objects, {pages} pages of {PAGE_S} s, {requests} requests", header, [
            ["one lister, reckoned", f"{pages * PAGE_S:.0f}", "", "", "1"],
            [f"{LISTERS} listers", f"{seconds:.1f}", f"{worked:.1f}", f"{1e6 * worked / count:.2f}",
             f"{pages * PAGE_S / seconds:.1f}"],
        ])  # fmt: skip
        return
    port = next(free_ports())
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "tests.bench.listing", "serve", str(count), str(port)])
    try:
        rows, first = [], 0.0
        for words, listers, botocore_parses in (
            ("one lister, botocore's parser", 1, True), ("one lister", 1, False), ("8 listers", 8, False),
            (f"{LISTERS} listers", LISTERS, False),
        ):  # fmt: skip
            command = [sys.executable, "-m", "tests.bench.listing", "point", str(listers), str(int(botocore_parses))]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, worked, found = map(float, done.stdout.split())
            assert found == count
            first = first or seconds
            row = [words, f"{seconds:.1f}", f"{worked:.1f}", f"{1e6 * worked / count:.1f}", f"{first / seconds:.1f}"]
            rows.append(row)
        show(f"{count} objects of a server that takes {PAGE_S} s a page", header, rows)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", count, port]:
            serve(int(count), int(port))
        case ["point", listers, botocore_parses]:
            print(*of_s3(int(listers), botocore_parses == "1"))
        case [kind, *given]:
            main(kind, int((*given, "1000000")[0]))
        case _:
            main("s3", 1_000_000)
