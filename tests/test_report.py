import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pipeline import storage
from pipeline.analysis import open_run, write_report
from tests.small_run import Drawn, make_run

HOSTILE = "val/<script>alert(1)</script>\"><img src=http://evil.example/x.png onerror='alert(2)'>{{ 7 * 7 }}"
DRAWN = (
    Drawn("val/a", "0001/0001", label="0011/0011", raw="0111/0111", city="aachen", sequence="0"),
    Drawn(HOSTILE, "0022/0000", label="0.22/1100", raw="0022/0008", city="<b>bochum</b>", sequence="0"),
    Drawn("val/c", "5500", city="aachen", sequence="1"),
    Drawn(f"{HOSTILE}2", None, reason="truncated"),
    Drawn("val/e", None, reason="not_an_image"),
)
# By hand, intersection / union over both labelled images: sky 7/11, building 2/6, pole 2/2; 11 of 15 pixels are right.
MIOU = (7 / 11 + 2 / 6 + 2 / 2) / 3
# Before the CRF: sky 4/9, building 4/8, pole 2/2, car 0/1, which no label has; 10 of 15 pixels are right.
MIOU_RAW = (4 / 9 + 4 / 8 + 2 / 2 + 0 / 1) / 4
VOID = {"meta", "img", "rect", "br"}


class Page(HTMLParser):
    """What a browser would make of the file: elements with their attributes, the text by element id, rows of tables."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.rows, self.open = [], {}, [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append((tag, attributes.get("id")))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for tag, name in self.open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data
            if tag in ("td", "th"):
                self.rows[-1][-1] += data.strip()

    def row(self, first):
        return next(row for row in self.rows if row and row[0] == first)


def page_of(uri):
    return Page(storage.read(uri).decode())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(str(tmp_path_factory.mktemp("runs") / "small"), DRAWN)


@pytest.fixture(scope="module")
def page(run):
    assert write_report(run) == f"{run}/report.html"
    return page_of(f"{run}/report.html")


def percent(value):
    return f"{100 * value:.2f}"


def test_the_headline_is_the_one_of_hand_arithmetic(page):
    assert page.texts["miou"] == f"{percent(MIOU)}{percent(MIOU_RAW)} before the CRF"
    assert page.texts["pixel_accuracy"] == f"{percent(11 / 15)}{percent(10 / 15)} before the CRF"
    assert page.row("mIoU")[1:4] == ["48.61", "65.66", "+17.05"]
    assert page.texts["images"] == "32 with a label"  # 3 masks, 2 of them with a label
    assert page.texts["rejects"] == "21 truncated, 1 not_an_image"  # 2 rejects: 1 and 1


def test_the_numbers_in_the_report_are_those_of_the_parquet(run, page):
    view = open_run(run)
    final, raw, seconds = view.iou().loc["all"], view.iou(raw=True).loc["all"], view.summary()["seconds"]
    assert page.texts["seconds"].startswith(f"{sum(seconds.values()):.2f}")
    for name in ("sky", "building", "pole"):
        change = f"{100 * (final[name] - raw[name]):+.2f}".replace("-", "\u2212")
        assert page.row(name)[1:4] == [percent(raw[name]), percent(final[name]), change]
    assert page.row("car")[1:4] == ["0.00", "–", "–"]  # predicted before the CRF alone


def test_the_heat_map_holds_every_counted_pixel(run, page):
    titles = [attributes["title"] for _, attributes in page.tags if "title" in attributes]
    counted = {title.split(":")[0]: int(title.split(":")[1].removesuffix(" pixels")) for title in titles}
    assert {pair: count for pair, count in counted.items() if count} == {
        "sky as sky": 7, "building as sky": 4, "building as building": 2, "pole as pole": 2,
    }  # fmt: skip
    assert sum(counted.values()) == open_run(run).confusion().sum()


def test_groups_are_listed_with_their_city(page):
    assert page.row("<b>bochum</b>")[1] == "1"
    assert page.row("<b>bochum</b> / 0")[1] == "1"  # cities number their sequences each from 0
    assert page.row("aachen / 0")[1] == "1"


def test_the_lowest_images_are_shown_with_image_truth_prediction_and_errors(page):
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [p["alt"].split(" of ")[0] for p in pictures] == ["image", "truth", "prediction", "errors"] * 2
    assert [p["alt"].split(" of ")[1] for p in pictures[::4]] == [HOSTILE, "val/a"]
    for picture in pictures:
        data = base64.b64decode(picture["src"].removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(data)).size == (int(picture["width"]), int(picture["height"])) == (4, 2)


def test_rejects_are_counted_by_reason_with_their_messages(page):
    assert page.row("truncated")[1] == "1"
    assert page.row("truncated")[2].startswith(f"{HOSTILE}2(decode):")
    assert page.row("not_an_image")[2].endswith("val/e has no end mark; copy it again")


def test_nothing_is_fetched_and_nothing_can_run(page):
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form", "b"} == set()
    for tag, attributes in page.tags:
        assert [name for name in attributes if name.startswith("on")] == []
        assert "href" not in attributes
        assert "url(" not in attributes.get("style", "")
        if "src" in attributes:
            assert tag == "img"
            assert attributes["src"].startswith("data:image/jpeg;base64,")
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "script-src" not in rules


def test_hostile_file_names_are_shown_as_text(run):
    html = Path(run, "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in html
    assert "<script" not in html
    assert "<img src=http" not in html
    assert "{{ 7 * 7 }}" in html  # a name is no template either


def test_config_and_provenance_are_in_the_report(run):
    html = Path(run, "report.html").read_text()
    description = json.loads(Path(run, "run.json").read_text())
    assert description["fingerprint"] in html
    assert f"torch {description['versions']['torch']}" in html
    assert "colour_levels: 12" in html


def test_a_run_without_labels_shows_areas_and_the_least_confident_images(tmp_path):
    drawn = [Drawn("a", "0001", confidence=0.8), Drawn("b", "0555", confidence=0.3)]
    page = page_of(write_report(make_run(str(tmp_path / "run"), drawn), num_worst=1))
    assert "miou" not in page.texts
    assert page.row("sky")[1] == "50.00"
    assert page.row("tree")[1] == "37.50"
    assert [a["alt"] for tag, a in page.tags if tag == "img"] == ["image of b", "prediction of b"]


def test_a_run_that_rejected_everything_still_has_a_report(tmp_path):
    page = page_of(write_report(make_run(str(tmp_path / "run"), [Drawn("a", None), Drawn("b", None)])))
    assert page.texts["images"].startswith("0")
    assert page.row("truncated")[1] == "2"


def test_a_corpus_that_moved_away_costs_pictures_and_no_number(tmp_path):
    run = make_run(str(tmp_path / "run"), DRAWN)
    before = page_of(write_report(run))
    for file in storage.list_files(f"{run}-corpus"):
        storage.delete(file.uri)
    after = page_of(write_report(run))
    assert [a["alt"].split(" of ")[0] for tag, a in after.tags if tag == "img"] == ["prediction"] * 2
    assert "could not be read again" in storage.read(f"{run}/report.html").decode()
    assert after.texts["miou"] == before.texts["miou"]
    assert after.row("building") == before.row("building")
