"""Output of commands for programs, and of `areas` and `show`: JSON, CSV, tables, pictures."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pipeline.analysis import open_run
from pipeline.cli import answers, cli_output, picture
from pipeline.errors import UserError
from tests.command import maskmill
from tests.small_run import Drawn, make_run
from tests.terminal import Terminal

FIRST = [
    Drawn("val/a", "0001", label="0011", city="x"),
    Drawn("val/b", "0022", label="0.22", city="y"),
    Drawn("val/c", "1133", label="1111", city="y"),
    Drawn("val/d", None),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(str(tmp_path_factory.mktemp("answers") / "run"), FIRST)


def asked(*arguments, code=0):
    done = maskmill(*arguments)
    assert (done.returncode, done.stderr) == (code, ""), done
    return done.stdout


def document(*arguments, **how):
    return json.loads(asked(*arguments, "--json", **how))


def rows(*arguments, **how):
    return list(csv.DictReader(io.StringIO(asked(*arguments, "--csv", **how))))


@pytest.mark.slow
def test_scores_for_programs_are_the_numbers_of_the_run(run):
    found, view = document("evaluate", run, "--by", "city"), open_run(run)
    assert {name: found[name] for name in ("run", "label_space", "images", "labelled")} == {
        "run": run, "label_space": "camvid11", "images": 3, "labelled": 3}  # fmt: skip
    # sky 3/4, building 3/6, pole 2/2, road 0/2
    assert found["scores"]["miou"]["value"] == 0.5625 == view.summary()["miou"]
    assert {row["class"]: row["iou"] for row in found["classes"]} == {
        name: None if np.isnan(value) else value for name, value in view.iou().iloc[0][list(view.space.classes)].items()
    }
    assert [(group["city"], group["images"], group["iou"]["sky"]) for group in found["groups"]] == [
        ("x", 1, 2 / 3),
        ("y", 2, 1),
    ]
    by_class = {row["name"]: row for row in rows("evaluate", run)}
    assert by_class["building"]["value"] == "0.5" and by_class["car"]["value"] == ""
    assert float(by_class["miou"]["low"]) == found["scores"]["miou"]["low"]
    assert [(row["city"], float(row["sky"])) for row in rows("evaluate", run, "--by", "city")] == [
        ("x", 2 / 3),
        ("y", 1),
    ]


@pytest.mark.slow
def test_areas_are_counted_by_group_without_labels(tmp_path):
    run = make_run(str(tmp_path / "run"), [Drawn("a", "0012", city="x"), Drawn("b", "3333/3300", city="y")])
    found = {(row["city"], row["class"]): row for row in document("areas", run, "--by", "city")["rows"]}
    assert {key: (row["pixels"], row["share"]) for key, row in found.items() if row["pixels"]} == {
        ("x", "sky"): (2, 0.5), ("x", "building"): (1, 0.25), ("x", "pole"): (1, 0.25),
        ("y", "road"): (6, 0.75), ("y", "sky"): (2, 0.25)}  # fmt: skip
    assert [(row["class"], row["pixels"], float(row["share"])) for row in rows("areas", run, "--class", "sky")] == [
        ("sky", "4", 4 / 12)]  # fmt: skip
    table = [line.replace("│", " ").split() for line in asked("areas", run, "--by", "city").splitlines()]
    assert ["y", "1", "road", "6", "75.00"] in table and ["sky", "2", "25.00"] in table
    assert document("evaluate", run)["labelled"] == 0
    wrong = maskmill("areas", run, "--class", "rod")
    assert wrong.stderr.endswith("did you mean 'road'?\n") and wrong.returncode == 1


def test_status_and_comparison_for_programs(run, tmp_path):
    told = document("status", run)
    assert told == {"run": run, "state": "finished", "writer": None, "images": 4, "answered": 4, "shards": 2,
                    "pending_shards": 0, "rejects": {"truncated": 1}, "generation": 1, "new": 0, "replaced": 0,
                    "gone": 0}  # fmt: skip
    assert rows("status", run)[0]["rejects.truncated"] == "1"
    better = make_run(str(tmp_path / "better"), [Drawn("val/a", "0011", label="0011", city="x"), *FIRST[1:]])
    found = document("compare", run, better)
    sky = next(row for row in found["rows"] if row["name"] == "sky")
    assert (found["images"], sky["before"], sky["after"], sky["difference"]) == (3, 0.75, 1, 0.25)
    assert [row["name"] for row in rows("compare", run, better)] == [row["name"] for row in found["rows"]]


def test_a_check_for_programs_says_what_is_bad(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (6, 4)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"")
    found = document("check", str(tmp_path), code=2)
    assert (found["layout"], found["images"], found["sizes"]) == ("folder", 2, [{"height": 4, "width": 6, "images": 1}])
    assert list(found["bad"]) == ["empty"]


def test_two_forms_at_once_and_a_form_without_an_answer_are_refused(run):
    both = maskmill("status", run, "--json", "--csv")
    assert (both.returncode, both.stdout) == (1, "") and "give one of them" in both.stderr
    running = maskmill("segment", "configs/camvid/segment_deeplab_v3plus.yaml", "--json")
    assert running.returncode == 1 and "--dry-run" in running.stderr


def test_switches_stand_before_or_behind_a_command(run):
    assert "next: " in asked("evaluate", run)
    assert "next: " not in asked("evaluate", run, "-q") and "next: " not in asked("--quiet", "evaluate", run)
    refused = maskmill("evaluate", run, "-v", "-q")
    assert refused.stderr == "error: --quiet and --verbose exclude each other; give one of them\n"
    assert cli_output.take_switches(["a", "-v", "--", "-q"]) == (["a", "--", "-q"], {"verbose"})


def test_an_answer_is_plain_ascii_and_has_no_nan(capsys):
    cli_output.write("json", {"a": np.float64("nan"), "b": [np.int64(2)], "c": "\u202e\x9b"}, list)
    assert capsys.readouterr().out == '{"a": null, "b": [2], "c": "\\u202e\\u009b"}\n'


def test_an_image_is_written_with_its_legend(run, tmp_path):
    target = tmp_path / "shown.png"
    assert asked("show", run, "val/a", "--output", str(target)) == f"val/a, prediction: {target}\n"
    assert np.array_equal(np.asarray(Image.open(target)), open_run(run).overlay("val/a", legend=True))
    asked("show", run, "a.png", "--of", "errors", "--output", str(target))  # by the name of its file
    assert np.array_equal(np.asarray(Image.open(target)), open_run(run).overlay("val/a", "errors", legend=True))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("val/a",), "the output is not a terminal, so it cannot show a picture; give a file with --output"),
        (("val/a", "--output", "x.gif"), "its suffix is not a picture format; use .png or .jpg"),
        (
            ("val/aa", "--output", "x.png"),
            "has no image 'val/aa'; its ids are like 'val/a', 'val/b', 'val/c'; did you mean",
        ),
        (("val/d", "--output", "x.png"), "no mask of image 'val/d'"),
    ],
)
def test_an_image_that_cannot_be_shown_is_told_why(run, arguments, sentence):
    done = maskmill("show", run, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and sentence in done.stderr


def test_an_image_in_a_terminal_is_half_blocks_of_its_colours(run):
    with Terminal("show", run, "val/a", environment={"TERM": "xterm-256color", "COLORTERM": "truecolor"}) as terminal:
        assert terminal.ended(60) == 0, terminal.text
    (above, *_), text = open_run(run).overlay("val/a").tolist(), terminal.text
    cells = [f"38;2;{r};{g};{b}" for r, g, b in above]
    assert all(cell in text for cell in cells) and picture.HALF_BLOCK in text and "sky" in text


def test_a_picture_keeps_its_sides_and_every_pixel_where_there_is_room():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    text = picture.half_blocks(pixels, columns=80, lines=20)
    segments = [
        one for one in Console(color_system="truecolor").render(text) if one.text == picture.HALF_BLOCK or one.style
    ]
    pairs = [(tuple(s.style.color.triplet), tuple(s.style.bgcolor.triplet)) for s in segments for _ in s.text]
    expected = [
        (tuple(pixels[2 * y, x].tolist()), tuple(pixels[2 * y + 1, x].tolist())) for y in range(3) for x in range(5)
    ]
    assert pairs == expected
    wide = picture.half_blocks(np.zeros((100, 400, 3), np.uint8), columns=80, lines=40).plain.splitlines()
    assert (len(wide), len(wide[0])) == (10, 80)  # 80 x 20 pixels
    tall = picture.half_blocks(np.zeros((400, 100, 3), np.uint8), columns=80, lines=40).plain.splitlines()
    assert (len(tall), len(tall[0])) == (40, 20)


def test_an_unknown_group_gets_the_nearest(run):
    with pytest.raises(UserError, match=r"did you mean 'city'\?$"):
        answers.areas(open_run(run), ["cty"])
