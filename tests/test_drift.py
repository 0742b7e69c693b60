"""Several runs viewed as one, and changes from run to run, found without labels."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from pipeline import labels, storage
from pipeline.analysis import export, open_generations, open_run, open_runs, write_report
from pipeline.analysis.drift import CHANGED, UNKNOWN
from pipeline.errors import UserError
from pipeline.metrics.bootstrap import interval, resample
from pipeline.metrics.change import Ratios, changes, holm, quantile, two_sided
from tests.command import maskmill
from tests.small_run import SPACE, Drawn, make_run
from tests.test_extend import Archive, extend, segment


def night(folder, name, seed, images=24, road=0.3, confidence=0.9, rejected=0.0):
    """A run of drives of three alike images: sky, building, road and tree; the road takes from the building."""
    random, drawn = np.random.default_rng(seed), []
    for number in range(images):
        if number % 3 == 0:
            shares = random.dirichlet(150 * np.array([0.3, 0.6 - road, road, 0.1]))
        mask = "".join(random.choice(list("0135"), 16, p=shares))
        sure = confidence + random.normal(0, 0.01)
        drawn.append(
            Drawn(
                f"{name}/{number:03d}", None if random.random() < rejected else mask, label=mask.replace("5", "1"),
                city="ab"[number // 3 % 2], sequence=f"{number // 3}", frame=number, confidence=sure, entropy=1 - sure,
            )
        )  # fmt: skip
    return make_run(f"{folder}/{name}", drawn, images_per_shard=12)


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Four nights alike, and one with more road, less confidence and rejects."""
    folder = str(tmp_path_factory.mktemp("nights"))
    uris = [night(folder, f"night-{number}", seed=number) for number in range(4)]
    return [*uris, night(folder, "night-4", seed=4, road=0.5, confidence=0.8, rejected=0.4)]


@pytest.fixture(scope="module")
def runs(nights):
    return open_runs(nights)


def test_counts_of_several_runs_are_the_sums_of_theirs_and_run_is_a_group(runs, nights):
    alone = [open_run(uri) for uri in nights]
    assert (runs.confusion() == sum(view.confusion() for view in alone)).all()
    assert runs.areas(by=["city"]).equals(sum(view.areas(by=["city"]) for view in alone))
    by_run = runs.areas(by=["run"])
    assert list(by_run.index) == [f"night-{number}" for number in range(5)]
    for view, (_, row) in zip(alone, by_run.iterrows(), strict=True):
        assert row.equals(view.areas().loc["all"].rename(row.name))
    table = runs.iou(by=["city", "run"])
    assert table.index[:2].tolist() == [("a", "night-0"), ("a", "night-1")]
    assert table.loc[("b", "night-3")].equals(alone[3].iou(by=["city"]).loc["b"].rename(("b", "night-3")))
    found = runs.intervals_by(["city", "run"]).loc[("b", "night-3")]
    assert found.equals(alone[3].intervals_by(["city"]).loc["b"].rename(("b", "night-3")))
    whole = alone[2].intervals().loc["miou", ["value", "low", "high"]]
    assert runs.intervals_by(["run"]).loc["night-2", ["value", "low", "high"]].tolist() == pytest.approx(whole.tolist())


def test_rows_of_several_runs_say_which_run_they_are_of(runs):
    rejects = len(runs.rejects())
    assert 4 < rejects < 16 and set(runs.rejects()["run"]) == {"night-4"}
    assert runs.frame(["image_id"]).compute().groupby("run").size().tolist() == [24, 24, 24, 24, 24 - rejects]
    worst = runs.worst(3, by="confidence")
    assert set(worst["run"]) == {"night-4"} and worst["confidence"].is_monotonic_increasing
    assert list(runs.masks(["night-3/001", "night-0/002"])) == ["night-3/001", "night-0/002"]
    assert runs.pictures(["night-3/001"])["night-3/001"].image is not None
    assert (
        runs.summary()["images"] == 5 * 24 - rejects
        and runs.merged({"up": ["sky", "tree"]}).areas(by=["run"])["up"].gt(0).all()
    )
    assert len(runs.next(4, labelled=True)) == 4


def test_runs_that_do_not_fit_are_refused_by_name(tmp_path, nights):
    other = make_run(str(tmp_path / "other"), [Drawn("x", "01")], space=labels.space("voc21"))
    with pytest.raises(ValueError, match=r"night-0 is in camvid11 and .*other in voc21"):
        open_runs([nights[0], other])
    with pytest.raises(ValueError, match="is given twice"):
        open_runs([nights[0], nights[0]])
    with pytest.raises(ValueError, match="name at least one"):
        open_runs([])


def test_an_image_that_is_answered_twice_is_refused_unless_asked_for(tmp_path, nights):
    copy = tmp_path / "copy"
    import shutil

    shutil.copytree(nights[0], copy)
    with pytest.raises(ValueError, match=r"image 'night-0/0\d\d' is answered in night-0 and in copy"):
        open_runs([nights[0], str(copy)])
    both = open_runs([nights[0], str(copy)], allow_doubles=True)
    assert (both.confusion() == 2 * open_run(nights[0]).confusion()).all()
    with pytest.raises(ValueError, match="is in night-0 and in copy"):
        both.masks(["night-0/001"])


def test_two_images_of_one_id_count_both_and_are_not_mistaken_for_each_other(tmp_path):
    uris = [make_run(str(tmp_path / name), [Drawn("frame-0", mask)]) for name, mask in (("mon", "01"), ("tue", "11"))]
    both = open_runs(uris)  # other addresses: two images
    assert both.areas().loc["all", "building"] == 3
    for ask in (lambda: both.masks(["frame-0"]), lambda: both.next(1)):
        with pytest.raises(ValueError, match="'frame-0' is in mon and in tue"):
            ask()


def test_students_t_is_that_of_scipy():
    freedom = np.array([1, 1.5, 2, 3, 5, 7.3, 40, 5000, 1e6])
    assert quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-5)
    for ratio in (0.0, 0.3, 2.0, 6.0, 40.0):
        expected = 2 * stats.t.sf(ratio, freedom)
        assert two_sided(np.full(len(freedom), ratio), freedom) == pytest.approx(expected, rel=1e-5)
    assert np.isnan(quantile(np.array([0.0]))[0]) and two_sided(np.array([np.inf]), np.array([3.0])) == 0


def test_holm_is_the_step_down_procedure():
    assert holm(np.array([0.04, 0.01, np.nan, 0.03])).tolist() == pytest.approx([0.06, 0.03, np.nan, 0.06], nan_ok=True)


def test_one_night_against_another_is_welchs_test_and_its_error_the_bootstraps():
    """Where each unit divides by 1, the ratio is a mean."""
    random = np.random.default_rng(0)
    one, two = random.normal(1, 0.5, (30, 1)), random.normal(1.2, 2, (50, 1))
    found = changes(Ratios.of(two, np.ones_like(two)), [Ratios.of(one, np.ones_like(one))])
    welch = stats.ttest_ind(two, one, equal_var=False)
    ends = welch.confidence_interval()
    assert (found.p[0], found.low[0], found.high[0]) == pytest.approx(
        (welch.pvalue[0], ends.low[0], ends.high[0]), rel=1e-6
    )
    pixels = random.integers(1, 90, (400, 2))  # class, others: a ratio whose below varies
    draws = resample(pixels, lambda sums: sums[:, :1] / sums.sum(axis=1, keepdims=True))
    mine = Ratios.of(pixels[:, :1].astype(float), pixels.sum(axis=1, keepdims=True).astype(float))
    assert mine.variance[0] ** 0.5 == pytest.approx(draws.std(), rel=0.06)
    assert [end[0] for end in mine.interval()] == pytest.approx([end[0] for end in interval(draws)], abs=0.002)


def test_nights_that_differ_among_themselves_widen_the_interval_and_one_drive_a_night_leaves_the_nights():
    values = np.array([0.2, 0.3, 0.25, 0.35, 0.28])
    nights = [Ratios.of(np.full((200, 1), value), np.ones((200, 1))) for value in values]  # no spread within a night
    found = changes(nights[-1], nights[:-1])
    reach = stats.t.ppf(0.975, 3) * values[:-1].std(ddof=1) * (1 + 1 / 4) ** 0.5  # of a further one of four
    assert found.high[0] - found.change[0] == pytest.approx(reach, rel=1e-6)
    alone = [Ratios.of(np.array([[value]]), np.ones((1, 1))) for value in values]
    assert changes(alone[-1], alone[:-1]).low[0] == pytest.approx(found.low[0], rel=1e-6)
    assert np.isnan(changes(alone[-1], alone[:1]).p[0])  # one draw against one


@pytest.mark.parametrize(("earlier", "between"), [(1, 0.0), (4, 0.0), (4, 0.1)])
def test_nights_that_did_not_change_give_a_false_alarm_as_rarely_as_it_says(earlier, between):
    """Twelve drives of ten alike frames a night, eight classes; `between`: how much nights differ among themselves."""
    random, alarms = np.random.default_rng(0), 0
    for _ in range(120):
        nights = []
        for _ in range(earlier + 1):
            weights = 6 * np.exp(between * random.normal(size=8))
            drives = random.dirichlet(weights, 12) * 10  # sums of the frames' shares
            nights.append(Ratios.of(drives, np.full((12, 8), 10.0)))
        alarms += (holm(changes(nights[-1], nights[:-1]).p) < 0.05).any()
    assert alarms <= 14  # 0.05 of 120 are 6; 14 is beyond what chance makes of that once in 500


def test_what_was_planted_is_found_and_nothing_else(runs):
    found = runs.drift()
    assert found.units == {f"night-{number}": 8 for number in range(5)}  # drives
    names = [row["class"] or row["measure"] for row in found.changed.to_dict("records")]
    assert names == ["building", "road", "confidence", "entropy", "rejects"]
    road = found.table[found.table["class"] == "road"].iloc[0]
    areas = runs.areas(by=["run"])
    shares = areas["road"] / areas[list(SPACE.classes)].sum(axis=1)
    assert road["after"] == pytest.approx(shares["night-4"]) and road["low"] < 0.2 < road["high"]
    assert found.sentences()[1].startswith(
        f"road {100 * road['before']:.2f} % -> {100 * road['after']:.2f} % (95 % interval of"
    )
    assert found.nights.query("measure == 'rejects'")["value"].tolist() == [0, 0, 0, 0, len(runs.rejects()) / 24]


def test_alike_nights_have_not_changed_and_groups_are_compared_with_themselves(nights, runs):
    assert open_runs(nights[:4]).drift().changed.empty
    found = runs.drift(by=["city"], alike=())
    assert set(found.table["city"]) == {"a", "b"} and found.comparisons == len(found.table) == 14
    assert {("a", "confidence"), ("b", "confidence")} <= set(
        zip(found.changed["city"], found.changed["measure"], strict=True)
    )
    assert set(found.units.values()) == {24}  # each image is a draw
    assert set(open_runs(nights[:2]).drift(alike=["split"]).table["verdict"]) == {UNKNOWN}  # all images are one
    with pytest.raises(ValueError, match="did you mean 'city'"):
        runs.drift(by=["ctiy"])
    with pytest.raises(ValueError, match="two runs or more"):
        open_runs(nights[:1]).drift()


def test_groups_of_one_side_are_named_and_too_few_draws_are_no_verdict(tmp_path):
    uris = [
        make_run(str(tmp_path / name), [Drawn(f"{name}{k}", "0011", city=city, sequence="0") for k in range(4)])
        for name, city in (("mon", "x"), ("tue", "x"), ("wed", "y"))
    ]
    found = open_runs(uris[:2]).drift()
    assert set(found.table["verdict"]) == {UNKNOWN} and "too few images" in repr(found)
    found = open_runs(uris).drift(by=["city"])
    assert (found.only_newest, found.only_earlier, len(found.table)) == (("y",), ("x",), 0)


def test_the_images_least_like_before_are_those_that_were_planted(tmp_path, nights):
    odd = make_run(
        str(tmp_path / "odd"),
        [Drawn(f"odd/{k}", "8" * 16 if k == 5 else "0011133301130135", sequence=str(k // 2)) for k in range(8)],
    )
    found = open_runs([*nights[:4], odd]).unlike(3)
    assert found["image_id"].tolist()[0] == "odd/5" and found["distance"][0] == 1.0  # no earlier image has a car
    assert (found["distance"][1:] < 0.3).all() and found["nearest_run"].isin([f"night-{k}" for k in range(4)]).all()
    assert len({image_id[-1] for image_id in found["image_id"]} & {"4"}) == 0  # the second of its drive comes later


@pytest.mark.slow
def test_generations_of_a_run_are_runs_of_what_each_answered(tmp_path):
    archive = Archive(str(tmp_path), 10)
    segment(archive)
    archive.change()
    extend(archive)
    found = open_generations(archive.run)
    assert list(found.members) == ["run, generation 1", "run, generation 2"]
    first, second = found.members.values()
    assert sorted(second.frame(["image_id"]).compute()["image_id"]) == ["b/003", "b/005", "c/000", "c/001", "c/002"]
    assert len(first.frame(["image_id"]).compute()) == 8 and len(first.rejects()) == 2  # as they were answered then
    assert "8 masks, 2 rejects" in repr(found) and "5 masks, 0 rejects" in repr(found)
    assert found.drift(alike=()).newest == "run, generation 2"
    done = maskmill("drift", archive.run, "--json")
    assert json.loads(done.stdout)["earlier"] == ["run, generation 1"]
    assert "run, generation 2 against run, generation 1" in storage.read(write_report(archive.run)).decode()


def test_the_command_answers_people_and_programs_and_exits_with_2_where_something_changed(nights):
    done = maskmill("drift", *nights)
    assert done.returncode == 2, done.stderr
    assert "night-4 against night-0 to night-3" in done.stdout and "5 of 7 changed" in done.stdout
    quiet = maskmill("drift", *nights[:4], "--json")
    document = json.loads(quiet.stdout)
    assert (quiet.returncode, document["changed"], document["comparisons"]) == (0, 0, 7)
    rows = maskmill("drift", *nights, "--by", "city", "--csv").stdout.splitlines()
    assert rows[0] == "city,measure,class,before,after,change,low,high,p,verdict" and len(rows) == 15
    assert maskmill("drift", nights[0]).returncode == 1


def test_the_report_shows_what_changed_and_the_images_least_like_before(nights, runs):
    html = storage.read(write_report(nights[4], num_worst=1, earlier_uris=nights[:4])).decode()
    section = html.partition('<section id="since">')[2].partition("</section>")[0]
    assert (
        "What changed since earlier runs" in section
        and f"night-4 against {', '.join(f'night-{k}' for k in range(4))}" in section
    )
    road = runs.drift().table.query("`class` == 'road'").iloc[0]
    row = f"road</th><td>{100 * road['before']:.2f}</td><td>{100 * road['after']:.2f}</td>"
    assert row in section and f"was {100 * road['before']:.1f}" in section
    assert section.count("<svg") == 7 and "corrected for 7 comparisons" in section
    farthest = runs.unlike(6)
    assert [image_id in section for image_id in farthest["image_id"]] == [True] * 6
    assert section.count("data:image/jpeg") == 12  # each above the nearest earlier one
    quiet = storage.read(write_report(nights[1], num_worst=1, earlier_uris=nights[:1])).decode()
    assert "Nothing changed since night-0" in quiet
    assert "since earlier runs" not in storage.read(write_report(nights[1], num_worst=1)).decode()


def test_compare_takes_more_runs_than_two(tmp_path, nights):
    drawn = [Drawn("a", "0011", label="0111"), Drawn("b", "0000", label="0000"), Drawn("c", "3333", label="3311")]
    better = [Drawn(one.image_id, one.label, label=one.label) for one in drawn]
    uris = [
        make_run(str(tmp_path / name), those) for name, those in (("one", drawn), ("two", better), ("three", drawn))
    ]
    document = json.loads(maskmill("compare", *uris, "--json").stdout)
    assert [one["after"] for one in document["runs"]] == uris[1:]
    assert [row["difference"] for row in document["runs"][1]["rows"] if row["difference"] is not None] == [0] * 6
    table = maskmill("compare", *uris).stdout
    assert "100.00" in table and "three" in table
    assert maskmill("compare", *uris, "--csv").stdout.startswith("after_run,name,before")
    assert "maskmill drift" in maskmill("compare", *nights[:2]).stderr


def camvid_nights(folder, archive, nights, change=lambda ids: ids):
    """Runs over CamVid's photographs, its labels as masks: six frames in a row are a drive; the last night is changed."""
    with zipfile.ZipFile(archive) as stored:
        names = sorted(name for name in stored.namelist() if name.startswith("labels/"))[::2]
        masks = [np.asarray(Image.open(io.BytesIO(stored.read(name))))[::16, ::16] for name in names]
    random = np.random.default_rng(nights)
    drives = random.permutation(len(masks) // 6)[: 7 * nights]
    uris = []
    for number in range(nights):
        drawn = []
        for drive in drives[number::nights]:
            for place in range(6 * drive, 6 * drive + 6):
                ids = change(masks[place]) if number == nights - 1 else masks[place]
                ids = np.where(ids < SPACE.num_classes, ids, 255)
                text = "/".join("".join("." if one == 255 else f"{one:x}" for one in row) for row in ids)
                drawn.append(Drawn(f"{number}/{place:03d}", text, city="cambridge", sequence=str(drive)))
        uris.append(make_run(f"{folder}/{number}", drawn, images_per_shard=100))
    return uris


@pytest.mark.slow
def test_a_camera_that_sees_less_road_is_found_in_camvid_and_an_unchanged_one_is_not(tmp_path, camvid):
    steady = open_runs(camvid_nights(tmp_path / "steady", camvid, 5)).drift()
    assert steady.changed.empty and steady.comparisons >= 12

    def tilted(ids):
        """The lower third is out of sight: mostly road."""
        return ids[: 2 * len(ids) // 3]

    found = open_runs(camvid_nights(tmp_path / "tilted", camvid, 5, tilted)).drift()
    road = found.table[found.table["class"] == "road"].iloc[0]
    assert road["verdict"] == CHANGED and road["change"] < -0.1


def test_one_sample_against_many_of_one_night_is_unknown(tmp_path):
    many = make_run(str(tmp_path / "many"), [Drawn(f"m{k}", "0012"[k % 2 :]) for k in range(6)])
    runs = open_runs([many, make_run(str(tmp_path / "one"), [Drawn("q", "0011")])])
    assert set(runs.drift().table["verdict"]) == {UNKNOWN}


def test_a_group_named_twice_is_one(tmp_path):
    drawn = {name: [Drawn(f"{name}{k}", "0123"[k:], city="x") for k in range(3)] for name in "ab"}
    runs = open_runs([make_run(str(tmp_path / name), images) for name, images in drawn.items()])
    assert runs.drift(by=["city", "city"]).table.equals(runs.drift(by=["city"]).table)


def test_runs_whose_images_have_no_city_have_intervals_too(tmp_path):
    drawn = [Drawn("a", "01", label="01", city="x"), Drawn("b", "11", label="01")]
    runs = open_runs([make_run(str(tmp_path / name), drawn) for name in "xy"])
    found = runs.intervals_by(["run", "city"])
    assert found["images"].tolist() == [1, 1, 1, 1]
    assert found["value"].tolist() == runs.iou(["run", "city"])["miou"].tolist()


def test_numbers_and_texts_of_one_group_column_are_groups_side_by_side(tmp_path):
    drawn = [Drawn("a", "01", label="01", groups={"night": night}) for night in (2, "2b")]
    runs = open_runs([make_run(str(tmp_path / str(one.groups["night"])), [one]) for one in drawn])
    assert list(runs.iou(["night"]).index) == [2, "2b"]


def test_images_of_one_id_are_not_mistaken_by_the_other_side(tmp_path):
    drawn = [Drawn("a", "01", label="01")]
    one, *both = (make_run(str(tmp_path / name), drawn) for name in ("one", "x", "y"))
    runs = open_runs(both)
    for ask in (
        lambda: open_run(one).compare(runs),
        lambda: open_run(one).next(1, "disagreement", runs, labelled=True),
        lambda: export(runs, "png", str(tmp_path / "out")),
    ):
        with pytest.raises(UserError, match="as two images of one id"):
            ask()


def test_the_table_shows_groups_as_they_are_and_too_few_images_are_not_called_unchanged(tmp_path):
    runs = [
        make_run(str(tmp_path / name), [Drawn("a", "01", city="[a]"), Drawn("b", "01")]) for name in ("[mon]", "[tue]")
    ]
    done = maskmill("drift", *runs, "--by", "city")
    assert done.returncode == 0, done.stderr
    assert "[tue] against [mon]" in done.stdout and "│ [a] " in done.stdout and "\\" not in done.stdout
    assert "│ none " in done.stdout and "nothing changed" not in done.stdout
    assert "[tue]: too few images to tell whether anything changed" in done.stdout
