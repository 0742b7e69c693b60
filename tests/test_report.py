import base64
import hashlib
import io
import json
import os
from datetime import datetime
from html.parser import HTMLParser
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import labels, storage
from pipeline.analysis import open_run, write_report
from pipeline.analysis.report.figures import throughput
from pipeline.analysis.report.gallery import ERRORS
from pipeline.analysis.report.header import facts_of, span
from pipeline.analysis.report.picks import pick
from pipeline.cli import answers
from pipeline.errors import UserError
from pipeline.imaging.colours import IGNORED, WRONG, safe_colours
from pipeline.imaging.regions import region_sizes
from tests.browser import browser, needs_chromium
from tests.small_run import SPACE, Drawn, ids, make_run

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
VOID = {"meta", "img", "rect", "br", "input", "line", "polyline"}


class Page(HTMLParser):
    """What a browser would make of the file: elements with their attributes, the text by element id, rows of tables."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.rows, self.scripts, self.open = [], {}, [], [], []
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
        if self.open and self.open[-1][0] == "script":
            self.scripts.append(data)
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
    # A draw of the two images may hold one of them twice: b alone scores (3/5 + 0/2 + 2/2) / 3, a alone (4/6 + 2/4) / 2.
    words = " ".join(page.texts["miou"].split())
    assert words == f"{percent(MIOU)}% 95 %: 53.33 to 65.66{percent(MIOU_RAW)} before the CRF"
    assert page.texts["pixel_accuracy"].startswith(percent(11 / 15))
    assert page.texts["pixel_accuracy"].endswith(f"{percent(10 / 15)} before the CRF")
    assert page.row("mIoU")[1:4] == ["48.61", "65.66", "+17.05"]
    assert page.texts["images"] == "32 with a label"  # 3 masks, 2 of them with a label
    assert page.texts["rejects"] == "21 truncated, 1 not_an_image"  # 2 rejects: 1 and 1


def test_the_numbers_in_the_report_are_those_of_the_parquet(run, page):
    view = open_run(run)
    final, raw, seconds = view.iou().loc["all"], view.iou(raw=True).loc["all"], view.summary()["seconds"]
    assert page.texts["seconds"] == f"{sum(seconds.values()):.3f}"
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
    pictures = [attributes for tag, attributes in page.tags if tag == "img" and attributes["alt"]]
    assert [p["alt"] for p in pictures] == [f"image of {HOSTILE}", "image of val/a"]
    layers = [attributes["class"] for _, attributes in page.tags if attributes.get("class", "").startswith("layers")]
    assert layers == ["layers truth", "layers prediction", "layers errors-of"] * 2
    for picture in pictures:
        assert picture_of(picture, "jpeg").size == (int(picture["width"]), int(picture["height"])) == (4, 2)


def picture_of(attributes, kind):
    return Image.open(io.BytesIO(base64.b64decode(attributes["src"].removeprefix(f"data:image/{kind};base64,"))))


def test_masks_lie_over_the_images_in_two_palettes_and_errors_show_what_is_wrong(page):
    layers = [attributes for tag, attributes in page.tags if tag == "img" and not attributes["alt"]]
    names = [attributes["class"].split()[1] for attributes in layers]
    assert names == ["data", "safe"] * 2 + ["errors"] + ["data", "safe"] * 2 + ["errors"]
    truth, _, prediction, safe, errors = (picture_of(layer, "png") for layer in layers[5:])  # of val/a
    assert np.asarray(truth).tolist() == ids("0011/0011").tolist()
    assert np.asarray(prediction).tolist() == np.asarray(safe).tolist() == ids("0001/0001").tolist()
    assert prediction.convert("RGBA").getpixel((3, 0)) == (*SPACE.colours[1], 255)
    assert safe.convert("RGBA").getpixel((3, 0)) == (*safe_colours(11)[1], 255)
    assert np.asarray(errors.convert("RGBA"))[0, :, 3].tolist() == [0, 0, 255, 0]


def expected_layers():
    """(H, W, 4) of the layers of the first image: ignored pixels of the truth are see-through, and grey among the errors."""
    truth, mask = ids(DRAWN[1].label), ids(DRAWN[1].mask)
    tables = SPACE.colours, safe_colours(11)
    layers = [
        [[(0, 0, 0, 0) if index == 255 else (*colours[index], 255) for index in row] for row in drawing]
        for drawing in (truth.tolist(), mask.tolist())
        for colours in tables
    ]
    right = [[(*IGNORED, 255) if t == 255 else (*WRONG, 255) if t != m else (0, 0, 0, 0) for t, m in zip(*rows, strict=True)]
             for rows in zip(truth.tolist(), mask.tolist(), strict=True)]  # fmt: skip
    return np.array([*layers, right], np.uint8)


def test_ignored_pixels_of_the_truth_are_see_through_in_a_file_that_every_reader_accepts(page):
    layers = [attributes for tag, attributes in page.tags if tag == "img" and not attributes["alt"]][:5]
    found = np.stack([np.asarray(picture_of(layer, "png").convert("RGBA")) for layer in layers])
    assert (found[..., 3] == expected_layers()[..., 3]).all()
    assert (found[found[..., 3] > 0] == expected_layers()[found[..., 3] > 0]).all()
    for layer in layers:
        data = base64.b64decode(layer["src"].partition(",")[2])
        assert data[24] == 8  # bits an id
        at = data.index(b"PLTE")
        assert int.from_bytes(data[at - 4 : at], "big") == 3 * 256


@needs_chromium
def test_a_browser_shows_ignored_pixels_of_the_truth_as_see_through(run, page, chromium):
    chromium.open(f"file://{run}/report.html")
    found = chromium.ask("""Promise.all([...document.querySelectorAll('img[alt=""]')].slice(0, 5).map(async image => {
        const copy = new Image();  // those that are not shown are not loaded
        copy.src = image.src;
        await copy.decode();
        const canvas = new OffscreenCanvas(copy.naturalWidth, copy.naturalHeight), drawn = canvas.getContext('2d');
        drawn.drawImage(copy, 0, 0);
        return [...drawn.getImageData(0, 0, canvas.width, canvas.height).data];
    }))""")
    assert found == [layer.ravel().tolist() for layer in expected_layers()]


def test_wrong_pixels_have_one_red_in_the_report_and_in_overlays(run, page):
    assert ERRORS == {"wrong": WRONG, "ignored": IGNORED}
    hexed = "#" + bytes(WRONG).hex()
    assert f"background:{hexed}" in Path(run, "report.html").read_text()
    overlay = open_run(run).overlay("val/a", of="errors")
    assert overlay[0, 2].tolist() == list(WRONG)


def test_a_report_of_many_classes_has_the_data_sets_colours_alone_and_a_legend_of_what_occurs(tmp_path):
    space = labels.space("ade20k150")
    run = make_run(str(tmp_path / "run"), [Drawn("val/a", "0012/0011", label="0011/0041")], space=space)
    page = Page(Path(write_report(run)).read_text())
    named = [attributes["class"].split()[1] for tag, attributes in page.tags if tag == "img" and not attributes["alt"]]
    assert named == ["data", "data", "errors"]
    assert not [attributes for tag, attributes in page.tags if attributes.get("id") == "colours-safe"]
    swatches = [attributes["style"] for _, attributes in page.tags if attributes.get("class") == "swatch data"]
    assert swatches == ["background:#" + bytes(space.colours[index]).hex() for index in (0, 1, 2, 4)]


def test_of_many_classes_the_confusion_matrix_shows_those_with_most_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.analysis.report.tables.MAX_HEAT_CLASSES", 2)
    run = make_run(str(tmp_path / "run"), [Drawn("val/a", "0012/0011", label="0011/0041")])
    page = Page(Path(write_report(run)).read_text())
    (head,) = [row for row in page.rows if row[0] == "" and len(row) == 3]
    assert head[1:] == ["sky", "building"]
    assert "Shown are the 2 classes with most pixels, of 4." in Path(run, "report.html").read_text()


def test_safe_colours_stay_apart_for_colour_blind_eyes():
    """Smallest distance in CIELAB between two classes, for the worst of four kinds of sight."""
    assert smallest_distance(safe_colours(21)) > 17
    for name, before in (("cityscapes19", 3.4), ("voc21", 1.0), ("camvid11", 6.1)):
        assert smallest_distance(labels.space(name).colours) < before


SIGHT = (  # Machado et al. 2009, severity 1: normal, protanopia, deuteranopia, tritanopia; on linear RGB
    np.eye(3),
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
)
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def smallest_distance(colours):
    level = np.array(colours) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    nearest = []
    for matrix in SIGHT:
        x, y, z = (np.clip(linear @ np.transpose(matrix), 0, 1) @ np.transpose(XYZ) / [0.95047, 1, 1.08883]).T
        x, y, z = (np.where(v > 0.008856, np.cbrt(v), 7.787 * v + 16 / 116) for v in (x, y, z))
        lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
        distance = np.linalg.norm(lab[:, None] - lab, axis=-1)
        nearest.append(distance[np.triu_indices(len(lab), 1)].min())
    return min(nearest)


def test_rejects_are_counted_by_reason_with_their_messages(page):
    assert page.row("truncated")[1] == "1"
    assert page.row("truncated")[2].startswith(f"{HOSTILE}2(decode):")
    assert page.row("not_an_image")[2].endswith("val/e has no end mark; copy it again")


@pytest.mark.scorecard("security", 11)
def test_nothing_is_fetched_and_nothing_can_run_but_the_pages_own_script(page):
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "base", "form", "b"} == set()
    for tag, attributes in page.tags:
        assert [name for name in attributes if name.startswith("on")] == []
        assert attributes.get("href", "#").startswith("#")
        assert "url(" not in attributes.get("style", "")
        if "src" in attributes:
            assert tag == "img"
            assert attributes["src"].startswith(("data:image/jpeg;base64,", "data:image/png;base64,"))
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    (script,) = page.scripts
    assert rules["script-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@pytest.mark.scorecard("security", 11)
def test_hostile_file_names_are_shown_as_text(run):
    html = Path(run, "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in html
    assert html.count("<script") == 1  # the page's own
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
    assert next(a["alt"] for tag, a in page.tags if tag == "img" and a["alt"]) == "image of b"
    (whole,) = (a for tag, a in page.tags if tag == "option" and a["value"] == "/all images")
    assert whole["data-worst"] == "0"
    assert not [a for _, a in page.tags if a.get("id") in ("left-image", "right-truth")]  # there is nothing to choose


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
    assert [a["alt"].split(" of ")[0] for tag, a in after.tags if tag == "img" and a["alt"]] == ["prediction"] * 2
    assert "could not be read again" in storage.read(f"{run}/report.html").decode()
    assert after.texts["miou"] == before.texts["miou"]
    assert after.row("building") == before.row("building")


def test_confusion_cells_lead_to_the_images_that_hold_them_without_a_mouse(page):
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link.removeprefix("#") for link in links} <= anchors
    (cell,) = (a for tag, a in page.tags if tag == "a" and a.get("aria-label", "").startswith("building as sky"))
    holders = [a["alt"] for tag, a in page.tags if tag == "img" and a["alt"].startswith("image of ")]
    assert holders[int(cell["href"].removeprefix("#card-"))] in (f"image of {HOSTILE}", "image of val/a")
    # building taken for sky: two pixels in each labelled image, of six that are building
    assert page.row("building → sky")[1:3] == ["4", "66.67"]
    assert page.row("building → sky")[3] in (f"{HOSTILE}(2) ·val/a(2)", f"val/a(2) ·{HOSTILE}(2)")
    assert ["building", "4", "2", "0", "0"][:3] == page.rows[[row[0] for row in page.rows].index("truth") + 2][:3]


def test_every_control_has_a_label(page):
    inputs = [attributes for tag, attributes in page.tags if tag in ("input", "select")]
    wipes = [a["aria-label"] for a in inputs if "id" not in a]
    assert wipes == [f"left and right of {name}" for name in (HOSTILE, "val/a")]
    controls = [attributes["id"] for attributes in inputs if "id" in attributes]
    named = [attributes["for"] for tag, attributes in page.tags if tag == "label"]
    assert controls == named
    assert len(controls) == 3 + 1 + 3 + 3 + 2 + 1  # kind, choice, left, right, colours, opacity


def test_the_image_with_most_of_a_large_confusion_is_shown_even_where_it_is_not_among_the_lowest(tmp_path):
    drawn = [
        Drawn("low", "0000", label="1200"),
        Drawn("fair", "0000/0011", label="0000/0555"),
        Drawn("good", "00", label="00"),
    ]
    page = page_of(write_report(make_run(str(tmp_path / "run"), drawn), num_worst=1))
    shown = [a["alt"] for tag, a in page.tags if tag == "img" and a["alt"].startswith("image of ")]
    assert shown[:2] == ["image of low", "image of fair"]
    cells = {a["aria-label"].split(",")[0]: a["href"] for tag, a in page.tags if tag == "a" and "aria-label" in a}
    assert cells == {
        "building as sky": "#card-0", "pole as sky": "#card-0", "tree as sky": "#card-1", "tree as building": "#card-1"
    }  # fmt: skip


def test_a_second_run_stands_beside_the_first(run, tmp_path):
    better = [Drawn("val/a", "0011/0011", label="0011/0011", raw="0111/0111", city="aachen", sequence="0"), *DRAWN[1:]]
    page = page_of(write_report(make_run(str(tmp_path / "better"), better), beside_uri=run))
    # sky 7/9, building 4/6, pole 2/2 now
    assert page.row("building")[-3:-1] == ["33.33", "+33.33"]
    others = [a for _, a in page.tags if a.get("class") == "layers other"]
    assert len(others) == 2  # the other run's prediction of each image
    assert page.texts["difference"].startswith(f"+{100 * ((7 / 9 + 4 / 6 + 1) / 3 - MIOU):.2f}")


def test_scores_near_boundaries_and_calibration_are_shown_where_they_were_counted(tmp_path):
    run = make_run(str(tmp_path / "run"), DRAWN, boundary_px=(1, 2), calibration_bins=4)
    page, view = page_of(write_report(run)), open_run(run)
    for score, words in (("boundary_iou", "boundary IoU"), ("trimap_iou", "mIoU in the trimap")):
        values = [view.boundary(raw=raw).loc[(1, score), "mean"] for raw in (True, False)]
        assert page.row(words)[1:4] == ["1", *(percent(value) for value in values)]
    assert page.texts["ece"].startswith(percent(0.9 - 11 / 15))


def test_the_snippets_are_there_to_copy(run):
    html = Path(run, "report.html").read_text()
    for words in ("read_parquet(", "pl.scan_parquet(", "open_run("):
        assert words in html


def test_a_report_of_noise_stays_small(tmp_path):
    rng = np.random.default_rng(0)

    def drawing():
        return "/".join("".join(f"{k:x}" * 24 for k in rng.integers(0, 11, 14)) for _ in range(8))

    drawn = [Drawn(f"{k:03d}", drawing(), label=drawing()) for k in range(25)]
    uri = write_report(make_run(str(tmp_path / "run"), drawn, images_per_shard=25), num_worst=25)
    page = page_of(uri)
    pictures = [a for tag, a in page.tags if tag == "img" and a["alt"]]
    assert len(pictures) == 25  # each with truth, prediction and errors
    assert storage.size(uri) < 10_000_000


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def axe():
    """axe-core's script, which the pages are asked to run."""
    pytest.importorskip("axe_playwright_python")
    return files("axe_playwright_python").joinpath("axe.min.js").read_text()


@pytest.fixture(scope="module")
def compared(run, tmp_path_factory):
    """URI of the report of a second run beside the first, with all that a report can hold."""
    better = [Drawn("val/a", "0011/0011", label="0011/0011", raw="0111/0111", city="aachen", sequence="0"), *DRAWN[1:]]
    uri = str(tmp_path_factory.mktemp("runs") / "better")
    made = make_run(uri, better, boundary_px=(1, 2), calibration_bins=4)
    return write_report(made, beside_uri=run, earlier_uris=[run])


@pytest.mark.scorecard("security", 11)
@needs_chromium
def test_a_browser_shows_it_without_a_complaint_and_fetches_nothing(run, page, chromium):
    chromium.open(f"file://{run}/report.html")
    assert chromium.ask("document.getElementById('miou').textContent") == page.texts["miou"]
    assert chromium.ask("document.scripts.length") == 1
    assert chromium.complaints == []
    assert chromium.requests == [f"file://{run}/report.html"]


@pytest.mark.scorecard("security", 11)
@needs_chromium
def test_a_browser_runs_no_other_script(run, chromium, tmp_path):
    html = Path(run, "report.html").read_text().replace("</main>", "<script>document.title = 'taken'</script></main>")
    (tmp_path / "planted.html").write_text(html)
    chromium.open(f"file://{tmp_path}/planted.html")
    assert chromium.ask("document.title") == "small – Maskmill report"
    assert any("Content Security Policy" in complaint for complaint in chromium.complaints)


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("report", ["one run", "two runs"])
def test_axe_core_finds_no_violation(run, compared, page, chromium, axe, report, width, dark):
    chromium.open(f"file://{run}/report.html" if report == "one run" else f"file://{compared}", width, dark)
    chromium.ask(axe)
    found = chromium.ask("axe.run(document)")
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == []
    assert len(found["passes"]) > 30


@needs_chromium
def test_axe_core_finds_what_is_planted(run, page, chromium, axe, tmp_path):
    html = Path(run, "report.html").read_text().replace('<label for="colours-safe">', "<label>")
    (tmp_path / "planted.html").write_text(html)
    chromium.open(f"file://{tmp_path}/planted.html")
    chromium.ask(axe)
    assert "label" in [one["id"] for one in chromium.ask("axe.run(document)")["violations"]]


@needs_chromium
def test_everything_that_does_something_is_reached_by_keyboard(run, page, chromium):
    chromium.open(f"file://{run}/report.html")
    chromium.ask("document.querySelectorAll('details').forEach(one => { one.open = true })")
    # Radio buttons of one name share a stop; arrows move between them.
    wanted = "a[href], button, summary, select, [tabindex='0'], input:checked, input[type=range]"
    chromium.ask(f"todo = new Set(document.querySelectorAll({json.dumps(wanted)})); todo.size")
    for _ in range(chromium.ask("todo.size")):
        chromium.press("Tab")
        chromium.ask("todo.delete(document.activeElement)")
    assert chromium.ask("[...todo].map(one => one.outerHTML.slice(0, 200))") == []


@needs_chromium
def test_the_slider_moves_with_the_arrows_and_the_masks_fade_with_it(run, page, chromium):
    chromium.open(f"file://{run}/report.html")
    opacity = "getComputedStyle(document.querySelector('.layer.data')).opacity"
    assert chromium.ask(opacity) == "0.65"
    chromium.ask("document.getElementById('opacity').focus()")
    chromium.press("ArrowRight")
    assert chromium.ask(opacity) == "0.7"
    assert chromium.ask("document.querySelector('output').value") == "70 %"


SHOWN = """[...document.querySelectorAll('.card')].filter(card => card.offsetParent)
    .sort((one, two) => one.style.order - two.style.order).map(card => card.querySelector('strong').textContent)"""


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """URI of the report of a run of seven images in two cities; their mIoU falls from a to g."""
    drawn = [
        Drawn(f"val/{name}", "0" * k + "1" * (8 - k), label="00001111", city="x" if k % 2 else "y")
        for k, name in enumerate("gfedcba"[:5], start=0)
    ]
    drawn += [Drawn("val/tree", "55550000", label="55555555", city="x"), Drawn("val/plain", "0000", city="x")]
    return write_report(make_run(str(tmp_path_factory.mktemp("runs") / "varied"), drawn), num_worst=2)


@needs_chromium
def test_images_are_chosen_by_kind_class_and_group(varied, chromium):
    chromium.open(f"file://{varied}")
    # mIoU: g 0.25, tree 0.25, f 0.355, e 0.47, d 0.6, c 1; equal ones by name
    assert chromium.ask(SHOWN) == ["val/g", "val/tree"]
    choose = "choice.value = %s; choice.dispatchEvent(new Event('change'))"
    chromium.ask(choose % "'class/tree'")
    assert chromium.ask(SHOWN) == ["val/tree"]
    assert chromium.ask("document.querySelector('.card.shown .own').textContent") == "tree: IoU 50.0 %"
    chromium.ask(choose % "'city/y'")
    assert chromium.ask(SHOWN) == ["val/g", "val/e", "val/c"]
    chromium.ask(choose % "'/all images'")
    chromium.ask("document.getElementById('kind-typical').click()")
    assert sorted(chromium.ask(SHOWN)) == ["val/e", "val/f"]  # the median of six lies between them
    assert chromium.ask("document.getElementById('none').hidden")


@needs_chromium
def test_a_confusion_cell_shows_the_image_that_holds_most_of_it(varied, chromium):
    chromium.open(f"file://{varied}")
    chromium.ask("document.querySelector('.heat a[aria-label^=\"tree as sky\"]').click()")
    assert chromium.ask(SHOWN) == ["val/tree"]
    assert chromium.ask("choice.selectedOptions[0].textContent") == "tree → sky"


@needs_chromium
def test_a_wipe_parts_left_from_right_and_the_pointer_names_the_classes(varied, chromium):
    chromium.open(f"file://{varied}")
    clip = "getComputedStyle(document.querySelector('.card.shown .%s')).clipPath"
    assert chromium.ask(clip % "prediction") == "inset(0px 0px 0px 50%)"
    chromium.ask("document.querySelector('.card.shown .wipe').focus()")
    chromium.press("ArrowRight")
    assert chromium.ask(clip % "prediction") == "inset(0px 0px 0px 51%)"
    chromium.ask("document.getElementById('left-truth').click()")
    assert chromium.ask(clip % "truth") == "inset(0px 49% 0px 0px)"
    said = chromium.ask("""(async () => {
        const stage = document.querySelector('.card.shown .stage'), box = stage.getBoundingClientRect();
        const at = {clientX: box.left + 0.6 * box.width, clientY: box.top + 0.5 * box.height};
        stage.dispatchEvent(new PointerEvent('pointerenter', at));
        await Promise.all([...stage.querySelectorAll('.data')].map(layer => layer.decode()));
        stage.dispatchEvent(new PointerEvent('pointermove', at));
        return document.querySelector('.card.shown .under').textContent;
    })()""")
    assert said == "truth: building · prediction: building"


@needs_chromium
def test_light_and_dark_can_be_switched_against_the_system(run, page, chromium):
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(18, 22, 27)"
    for system, first, second in ((False, light, dark), (True, dark, light)):
        chromium.open(f"file://{run}/report.html", dark=system)
        assert chromium.ask(paper) == first
        chromium.ask("document.getElementById('theme').click()")
        assert chromium.ask(paper) == second
        chromium.ask("document.getElementById('theme').click()")
        assert chromium.ask(paper) == first


@needs_chromium
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_page(compared, chromium, width):
    chromium.open(f"file://{compared}", width)
    assert chromium.ask("document.documentElement.scrollWidth") <= width


@needs_chromium
def test_without_scripts_the_worst_images_are_there_with_their_masks_and_no_dead_control(varied, chromium):
    chromium.open(f"file://{varied}", scripts=False)
    assert chromium.ask("getComputedStyle(document.querySelector('.layer.data')).opacity") == "0.65"
    assert chromium.ask("getComputedStyle(document.querySelector('.prediction')).clipPath") == "inset(0px 0px 0px 0%)"
    assert chromium.ask(SHOWN) == ["val/g", "val/tree"]
    for control in ("opacity", "choice", "kind-worst", "left-truth", "theme"):
        assert chromium.ask(f"document.getElementById('{control}').offsetParent === null"), control
    assert chromium.ask("document.querySelector('.wipe').offsetParent === null")
    chromium.open("about:blank")


def test_random_images_are_the_same_each_time_and_typical_ones_lie_at_the_median(varied):
    view = open_run(varied.removesuffix("/report.html"))
    one, two = (pick(view, 3, True, []) for _ in range(2))
    assert one.choices == two.choices
    whole = one.choices[0].images
    assert sorted(whole["random"]) == sorted(set(whole["random"])) and len(whole["random"]) == 3
    assert "val/plain" not in {image_id for kind in whole.values() for image_id in kind}  # it has no label


def test_a_report_holds_no_more_images_than_there_is_room_for(tmp_path, monkeypatch):
    drawn = [
        Drawn(f"i{k:02d}", f"{'0' * (k % 8)}1{'2' * (8 - k % 8)}", label="001122555", city=f"c{k % 5}")
        for k in range(40)
    ]
    view = open_run(make_run(str(tmp_path / "run"), drawn, images_per_shard=10))
    monkeypatch.setattr("pipeline.analysis.report.picks.MAX_IMAGES", 12)
    picks = pick(view, 3, True, [])
    assert len(picks.ids) == 12
    for choice in picks.choices:
        if choice.heading == "city":
            of_city = [one.image_id for one in drawn if one.city == choice.name]
            scores = view.worst(40).set_index("image_id")["miou"].loc[of_city]
            expected = scores.reset_index().sort_values(["miou", "image_id"])["image_id"].tolist()
            assert (
                choice.images["worst"] == expected[: len(choice.images["worst"])]
            )  # the worst, or fewer: never others


def test_groups_have_bars_with_intervals_where_they_have_images_enough(tmp_path):
    drawn = [Drawn(f"i{k}", "0001", label="0011" if k % 3 else "0001", city="x" if k < 6 else "y") for k in range(9)]
    run = make_run(str(tmp_path / "run"), drawn)
    page, found = page_of(write_report(run)), open_run(run).intervals_by(["city"]).loc["x"]
    assert page.row("x")[1:4] == ["6", percent(found["value"]), f"{percent(found['low'])} – {percent(found['high'])}"]
    assert page.row("y")[3] == ""  # three images


def test_throughput_is_drawn_from_when_the_parts_were_stored(tmp_path):
    run = make_run(str(tmp_path / "run"), [Drawn(f"i{k}", "01") for k in range(8)])
    assert throughput(open_run(run)) is None  # all within a second
    view, begun = (
        open_run(run),
        datetime.fromisoformat(json.loads(Path(run, "run.json").read_text())["created"]).timestamp(),
    )
    for k, part in enumerate(sorted(Path(run, "masks").iterdir())):
        os.utime(part, (begun + 4 * (k + 1),) * 2)
    drawn = throughput(view)
    assert "Images a second over 16 s, in 4 steps." in drawn
    heights = {point.split(",")[1] for point in drawn.rpartition('points="')[2].partition('"')[0].split()}
    assert len(heights) == 1  # two images every four seconds
    os.utime(part, (begun + 3600,) * 2)
    assert throughput(view) is None  # copied later


def test_the_head_says_what_the_run_is(run):
    view = open_run(run)
    facts = dict(facts_of(view))
    assert facts["corpus"] == f"{run}-corpus" and facts["classes"] == "camvid11, 11 classes"
    assert facts["machine"].endswith("; one worker of 1 CPUs") and " GiB, " in facts["machine"]
    assert facts["version"].startswith(f"maskmill {version('maskmill')}")
    assert facts["finished"].endswith("s") and ", after " in facts["finished"]
    assert [span(s) for s in (0.4, 59, 185, 7800, 86400 * 3)] == ["0 s", "59 s", "3 min 5 s", "2 h 10 min", "3 d"]


def test_regions_are_those_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    mask = np.random.default_rng(0).integers(0, 3, (40, 50)).astype(np.uint8)
    mask[mask == 2] = 255
    mask[:12, :20] = 1
    sizes, ids_of = region_sizes(mask)
    for index in (0, 1):
        regions, count = ndimage.label(mask == index)  # 4-connectivity
        expected = np.bincount(regions.ravel())[1:]
        assert sorted(sizes[ids_of == index].tolist()) == sorted(expected.tolist()) and count > 5
    assert set(ids_of.tolist()) == {0, 1}


def test_a_group_called_class_is_not_taken_for_a_class(tmp_path):
    drawn = [
        Drawn("a", "01", label="01", groups={"class": "indoor"}),
        Drawn("b", "11", label="11", groups={"class": "outdoor"}),
    ]
    uri = make_run(str(tmp_path / "run"), drawn)
    page = Path(write_report(uri)).read_text()
    assert 'data-class="0">sky<' in page and ">indoor<" in page
    with pytest.raises(UserError, match="the rows have a column of that name"):
        answers.areas(open_run(uri), ["class"])
