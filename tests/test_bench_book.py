"""The book of measurements: ratios with their intervals, shares of limits, which rows are reported as worse, and the page."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.bench import history, page
from tests.bench.__main__ import BOOK, worse_again
from tests.bench.history import Past
from tests.bench.rows import FILE, Limit, Peer, Row, interval, read_rows, record
from tests.browser import browser, needs_chromium
from tests.conftest import ROOT

MACHINE = "a processor, 2 cores"
RATES = {"bytes": {"1": 10e9, "2": 18e9}, "flops": {"1": 100e9, "2": 200e9}}
ABOUT = page.About(
    "2026-11-28 12:00", "0123456", MACHINE, "python -m tests.bench decode", 24, 0.1, {"python": "3.11.2"}, RATES, None,
    {"decode": (0.2, 0.1)},
)  # fmt: skip


def rows_of(tmp_path, monkeypatch, *calls):
    """What calls of `record` leave."""
    file = tmp_path / "rows.jsonl"
    file.touch()
    monkeypatch.setenv(FILE, str(file))
    for arguments, more in calls:
        record(*arguments, **more)
    return read_rows(file, "decode")


def a_row(tmp_path, monkeypatch, ours=(2.0,) * 5, theirs=(4.0,) * 5):
    call = ("a <b>row</b>", "ms cpu", list(ours), {"Pillow": list(theirs)}, Limit("bytes", 4e6, "read once"))
    return rows_of(tmp_path, monkeypatch, (call, {}))[0]


def past_of(*ratios, peers=("Pillow",)):
    """A history of the row: a number a run, or one for each peer."""
    return {("decode", "a <b>row</b>"): {
        peer: {f"run {k}": run if isinstance(run, float) else run[place] for k, run in enumerate(ratios)}
        for place, peer in enumerate(peers)
    }}  # fmt: skip


def judged(ratios, high, *past, peers=("Pillow",)):
    """The verdict on a row with such ratios, and their upper ends a factor above."""
    found = tuple(Peer(name, 1, ratio, ratio / high, ratio * high) for name, ratio in zip(peers, ratios, strict=True))
    row = Row("a <b>row</b>", "ms", 1, found, None, "", 1, "decode")
    return history.judge(row, past_of(*past, peers=peers).get(("decode", row.name), {}))


def test_a_ratio_is_that_of_the_medians_and_few_rounds_give_their_extremes():
    assert interval([4, 6, 5], [1, 1, 2]) == (5, 2.5, 6)  # rounds: 4, 6, 2.5; medians 5 and 1


def test_an_interval_over_many_rounds_holds_the_ratio_and_one_odd_round_does_not_move_it():
    ratio, low, high = interval([20] * 9 + [200], [10] * 10)
    assert (ratio, low) == (2, 2) and high == 2


def test_above_one_is_better_for_times_and_for_rates(tmp_path, monkeypatch):
    times = ("a", "ms", [2.0], {"p": [6.0]}, "none")
    rates = ("b", "images/s", [6.0], {"p": [2.0]}, "none")
    rows = rows_of(tmp_path, monkeypatch, (times, {}), (rates, {"more_is_better": True, "seconds": 1}))
    assert [row.peers[0].ratio for row in rows] == [3, 3]


def test_counts_of_nothing_have_no_ratio(tmp_path, monkeypatch):
    (row,) = rows_of(tmp_path, monkeypatch, (("lost", "of 96", [0.0], {"p": [0.0], "q": [8.0]}, "0"), {}))
    assert [(peer.value, peer.ratio) for peer in row.peers] == [(0, None), (8, None)]


def test_nothing_is_kept_where_no_book_asks(tmp_path, monkeypatch):
    monkeypatch.delenv(FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    record("a", "ms", [1.0], {}, "none")
    assert list(tmp_path.iterdir()) == []


def test_a_share_is_of_the_rate_of_as_many_threads(tmp_path, monkeypatch):
    row = a_row(tmp_path, monkeypatch)  # 4 MB in 2 ms: 2 GB/s
    assert ABOUT.share(row) == pytest.approx(2 / 10)
    assert ABOUT.share(replace(row, limit=Limit("bytes", 4e6, "", threads=2))) == pytest.approx(2 / 18)
    assert ABOUT.share(replace(row, limit=Limit("ideal", 3, "", peak=3000))) == pytest.approx(1 / 2)
    assert ABOUT.share(replace(row, limit=None)) is None


def test_more_than_a_tenth_below_the_median_is_worse_and_less_is_not():
    steady = [2.0, 2.0, 1.9, 2.1, 2.0]  # median absolute deviation 0
    assert judged([1.79], 1, *steady).worse
    assert not judged([1.81], 1, *steady).worse
    assert not judged([1.70], 1.07, *steady).worse  # its interval reaches into what is usual
    assert judged([1.0], 1) is None


def test_a_row_that_always_varied_has_a_wider_band_and_a_short_history_too():
    varied = [1.0, 1.2, 0.8, 1.25, 0.85, 1.0]
    assert history.noise(varied) > 0.3
    assert not judged([0.8], 1, *varied).worse and judged([0.3], 1, *varied).worse
    assert not judged([0.8], 1, 1.0, 1.0).worse and judged([0.7], 1, 1.0, 1.0).worse


def test_a_peer_that_became_faster_alone_is_no_alarm_and_a_fall_beside_all_is():
    peers, past = ("a", "b", "c"), [(2.0, 4.0, 8.0)] * 5
    assert not judged([2.0, 4.0, 4.0], 1, *past, peers=peers).worse
    assert judged([1.7, 3.4, 8.0], 1, *past, peers=peers).worse


def test_of_several_peers_the_steadier_half_decides():
    wild = [(2.0, 4.0 * swing, 8.0 / swing, 2.0) for swing in (1, 2, 0.5, 3, 0.4, 1)]
    verdict = judged([1.7, 8.0, 16.0, 1.7], 1, *wild, peers=("a", "b", "c", "d"))
    assert verdict.worse and verdict.band == history.WORSE and verdict.change == pytest.approx(0.85)


def test_only_the_newest_runs_on_the_same_kind_of_machine_are_looked_at(tmp_path):
    lines = [Past(f"day {k}", "abc", MACHINE if k % 2 else "another", "c", "r", "p", k, k, k) for k in range(100)]
    history.add(tmp_path / "h.jsonl", lines[:50])
    history.add(tmp_path / "h.jsonl", lines[50:])
    found = history.by_row(history.read(tmp_path / "h.jsonl"), MACHINE)
    assert list(found["c", "r"]["p"].values()) == list(range(61, 100, 2))


def test_what_looks_worse_once_only_is_not_told(tmp_path, monkeypatch):
    past = past_of(*[2.0] * 5)
    slow = a_row(tmp_path, monkeypatch, theirs=(3.0,) * 5)
    usual = replace(slow, peers=(replace(slow.peers[0], ratio=2.0, low=2.0, high=2.0),))
    assert history.worse([slow], past)
    assert not history.worse(worse_again([slow], [usual], past), past)
    assert history.worse(worse_again([slow], [slow], past), past)
    assert history.worse(worse_again([slow], [], past), past)  # the second measurement broke


RECORDED = [past for past in history.read(history.FILE) if past.date < "2026-11-29"]


def recorded_rows(slower=1.0):
    """Every row of the runs that were first recorded, beside the other runs: (row, what it was in those)."""
    assert RECORDED
    for key, earlier in history.by_row(RECORDED, RECORDED[0].machine).items():
        for run in dict.fromkeys(run for runs in earlier.values() for run in runs):
            lines = [
                past for past in RECORDED if (past.chapter, past.row) == key and f"{past.date} {past.commit}" == run
            ]
            peers = tuple(
                Peer(past.peer, 1, *(value / slower for value in (past.ratio, past.low, past.high))) for past in lines
            )
            others = {
                peer: {name: ratio for name, ratio in runs.items() if name != run} for peer, runs in earlier.items()
            }
            yield Row(key[1], "ms", 1, peers, None, "", 1, key[0]), others


def test_recorded_reruns_raise_no_alarm():
    verdicts = [(row.chapter, row.name, history.judge(row, others)) for row, others in recorded_rows()]
    assert [verdict for verdict in verdicts if verdict[2] is not None and verdict[2].worse] == []


def test_a_slowdown_of_recorded_runs_is_found():
    """Ours slowed by a quarter: every row that is known well enough to be watched within a tenth."""
    verdicts = [history.judge(row, others) for row, others in recorded_rows(slower=1.25)]
    watched = [verdict for verdict in verdicts if verdict is not None and verdict.band == history.WORSE]
    assert len(watched) >= 20 and sum(verdict.worse for verdict in watched) >= 0.9 * len(watched)


def written(tmp_path, monkeypatch, ratios, theirs=(4.0,) * 5):
    file = tmp_path / "runs" / "book.html"
    page.write(file, ABOUT, [a_row(tmp_path, monkeypatch, theirs=theirs)], past_of(*ratios), ["crf: exit code 1"])
    return file


def test_the_page_names_the_row_its_limit_and_what_is_worse(tmp_path, monkeypatch):
    html = written(tmp_path, monkeypatch, [2.5] * 5).read_text()
    told = [
        "20 %",
        "read once",
        "2.00×",
        "20 % below the median of 5 runs (more than 10 % is told); beside Pillow -20 %",
        "1 row worse than in earlier runs",
    ]
    facts = ["0123456", "python -m tests.bench decode", "3.11.2", "10.0 GB/s", "crf: exit code 1"]
    for text in ["a &lt;b&gt;row&lt;/b&gt;", *told, *facts]:
        assert text in html
    assert "<script" not in html and "http" not in html.replace("http-equiv", "")


def test_the_page_says_where_nothing_is_worse(tmp_path, monkeypatch):
    assert "No row is worse than in earlier runs." in written(tmp_path, monkeypatch, [2.0] * 5).read_text()


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 760, 1440])
def test_the_page_fits_its_window_and_asks_for_nothing(tmp_path, monkeypatch, width):
    file = written(tmp_path, monkeypatch, [2.5] * 5)
    with browser(tmp_path / "profile") as shown:
        shown.open(file.as_uri(), width=width, scripts=False)
        assert shown.ask("document.documentElement.scrollWidth") <= width
        assert [url for url in shown.requests if not url.startswith("file:")] == [] and shown.complaints == []


SLOWER = """
import time
from pipeline.imaging import decode
quick = decode.decode_image
def slowed(*arguments):
    started = time.thread_time()
    image = quick(*arguments)
    taken = time.thread_time() - started
    while time.thread_time() < started + 1.4 * taken: pass
    return image
decode.decode_image = slowed
"""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_decoder_made_slower_is_named_and_as_it_is_it_is_not(tmp_path):
    (tmp_path / "slower").mkdir()
    (tmp_path / "slower" / "sitecustomize.py").write_text(SLOWER)
    files = ["--history", str(tmp_path / "history.jsonl"), "--page", str(tmp_path / "page.html"), "--slack", "10"]

    def run(*arguments, slower=False):
        paths = os.pathsep.join([*([str(tmp_path / "slower")] if slower else []), str(ROOT)])
        return subprocess.run(
            [sys.executable, "-m", "tests.bench", "decode", *files, *arguments], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    for _ in range(history.FEW):
        assert run("--record").returncode == 0
    assert len(history.read(tmp_path / "history.jsonl")) % history.FEW == 0
    assert run().returncode == 0
    done = run(slower=True)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "## decode again" in done.stdout
    assert re.search(r"decode a PNG of 1024x2048: (2|3)\d % below the median of 4 runs", done.stdout)
    assert "worse than in earlier runs, measured twice" in (tmp_path / "page.html").read_text()


def test_every_chapter_is_a_module_with_a_long_form_of_its_own():
    assert all((ROOT / "tests" / "bench" / f"{chapter}.py").exists() for chapter in BOOK)
