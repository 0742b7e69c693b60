"""`verify` finds parts of other runs, edited numbers, damaged files, foreign files and single changed bytes."""

import copy
import hashlib
import importlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.analysis import open_run
from pipeline.config import canonical
from pipeline.errors import UserError
from pipeline.runs import Lease, Part, Run, compact, read_success, verify
from pipeline.runs.info import fingerprint_of
from pipeline.runs.read_again import Answer
from pipeline.runs.success import rejects_part
from pipeline.runs.verify import THREADS, threads_for, unanswered
from tests import test_run
from tests.command import maskmill
from tests.small_run import SPACE, Drawn, make_run
from tests.test_run import complete, tables

OTHER = {"crf": {"smooth_weight": 3.0}, "weights_sha256": "b"}
DRAWN = [Drawn(f"i{n}", None if n in (1, 4) else f"01{n}", label="012", city=f"c{n % 2}") for n in range(6)]


@pytest.fixture
def unfinished(tmp_path):
    """A run with three shards, the last without an answer, and the part of another run in the place of the second."""
    run, other = (
        test_run.open_run(tmp_path / name, identity)
        for name, identity in (("run", test_run.IDENTITY), ("other", OTHER))
    )
    complete(other)
    run.commit(0, *tables(run.shard_items(0)))
    shutil.copy(f"{other.uri}/masks/part-00001.parquet", f"{run.uri}/masks/part-00001.parquet")
    names = f"{other.fingerprint[:12]}, .*{run.fingerprint[:12]}"
    return run, rf"masks/part-00001\.parquet is a part of another run \(.*{names}\); delete the file and resume"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Path(make_run(str(tmp_path_factory.mktemp("finished") / "run"), DRAWN))


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, with masks and rejects, that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(path, *keys, value):
    """Change one value of a JSON file."""
    whole = json.loads(path.read_text())
    place = whole
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(whole))


def told(run):
    """What verify says: its faults, or the sentence with which it ends."""
    try:
        return verify(str(run)).problems
    except UserError as error:
        return [str(error)]


@pytest.mark.scorecard("fault", 29)
@pytest.mark.parametrize(
    "ask",
    [
        lambda run: run.pending(),
        lambda run: (run.commit(2, *tables(run.shard_items(2))), run.finish(1)),
        lambda run: run.answered(1),
        lambda run: run.commit(1, *tables(run.shard_items(1))),
        lambda run: open_run(run.uri).iou(),
    ],
    ids=["pending", "finish", "answered", "commit", "open_run"],
)
def test_a_part_of_another_run_is_refused(unfinished, ask):
    run, sentence = unfinished
    with pytest.raises(UserError, match=sentence):
        ask(run)
    assert read_success(run.uri) is None


@pytest.mark.scorecard("fault", 29)
def test_a_part_of_another_run_is_a_fault_and_its_shard_is_done_again_once_it_is_deleted(unfinished):
    run, _ = unfinished
    assert any("masks/part-00001.parquet is a part of another run" in problem for problem in told(run.uri))
    Path(run.uri, "masks/part-00001.parquet").unlink()
    assert run.pending() == [1, 2]
    complete(run)
    run.finish(1)
    assert verify(run.uri).problems == []


def test_a_part_under_the_name_of_another_shard_is_refused(unfinished):
    run, _ = unfinished
    shutil.copy(f"{run.uri}/masks/part-00000.parquet", f"{run.uri}/masks/part-00001.parquet")
    with pytest.raises(UserError, match=r"part-00001\.parquet is another part of this run \(it answers shards 0-0\)"):
        run.pending()


def test_of_very_many_faults_the_first_are_told_and_all_are_counted(finished, tmp_path, monkeypatch):
    """A run of ten million images of which none is answered has as many faults."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for part in (run / "masks").iterdir():
        part.unlink()
    every = verify(str(run))
    assert every.num_problems == len(every.problems) > len(DRAWN)
    monkeypatch.setattr(importlib.import_module("pipeline.runs.verify"), "KEPT_PROBLEMS", 3)
    few = verify(str(run))
    assert (few.problems, few.num_problems) == (every.problems[:3], every.num_problems)
    done = maskmill("verify", str(run))
    assert done.returncode == 1 and f" {every.num_problems} faults" in done.stdout


def test_large_parts_are_read_few_at_a_time():
    parts = [Part("run", "masks", size, shard, shard) for shard, size in enumerate((1000, 250_000_000, 10))]
    assert (threads_for(parts), threads_for(parts[:1]), threads_for([])) == (3, THREADS, THREADS)
    assert threads_for([Part("run", "masks", 2_000_000_000, 0, 0)]) == 1


def test_an_image_that_two_answers_of_its_shard_hold_is_told_with_the_others_that_are_wrong():
    part, images = Part("run", "masks", 1, 0, 1), [pa.array(["a", "b"]), pa.array(["c"])]

    def told(*answered):
        return list(unanswered(images, [Answer(part, ids=[pa.array(ids)]) for ids in answered], "part-00000"))

    assert told(["a", "b"], ["c"]) == told(["c", "a"], ["b"]) == []
    assert told(["a", "b", "b"], ["x", "a"]) == [
        "image 'a' is answered 2 times in part-00000, it must be once",
        "image 'b' is answered 2 times in part-00000, it must be once",
        "image 'c' is answered 0 times in part-00000, it must be once",
        "image 'x' is answered in part-00000 and is not in the plan of its shards",
    ]


def leaves(value, path=()):
    """The path to each value of a JSON file."""
    if isinstance(value, dict | list) and value:
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(below, (*path, key))
    else:
        yield path


def other(value):
    """Another value of the same kind, that the same parser takes."""
    if isinstance(value, str):
        if value[:2] == "20":
            return "2001" + value[4:]  # a year
        return ("1" if value[:1] == "0" else "0") + value[1:]
    return {bool: lambda: not value, int: lambda: value + 1, float: lambda: value + 1}.get(type(value), lambda: 1)()


@pytest.mark.scorecard("fault", 26)
@pytest.mark.parametrize("name", ["_SUCCESS.json", "run.json"])
def test_every_number_of_both_files_is_proved(run, name):
    """Each value is changed by itself; what nothing can prove is named here."""
    text, missed = (run / name).read_text(), []
    right = json.loads(text)
    for path in leaves(right):
        changed = copy.deepcopy(right)
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = other(place[path[-1]])
        (run / name).write_text(json.dumps(changed))
        if not told(run):
            missed.append(path)
    assert missed == []  # run.json is hashed whole, and what _SUCCESS.json says follows from the parts
    (run / name).write_text(text)
    assert told(run) == []


@pytest.mark.scorecard("fault", 26)
@pytest.mark.parametrize(
    ("file", "keys", "value", "fault"),
    [
        ("_SUCCESS.json", ["rows"], 5, "_SUCCESS.json: rows is 5, the parts have 4"),
        ("_SUCCESS.json", ["rejects"], 1, "_SUCCESS.json: rejects is 1, the parts have 2"),
        ("_SUCCESS.json", ["rejects_by_reason"], {"empty": 2}, "rejects_by_reason is {'empty': 2}, the parts have {'trunc"),
        ("_SUCCESS.json", ["fingerprint"], "0" * 64, "_SUCCESS.json: its fingerprint is 000000000000, run.json's is"),
        ("_SUCCESS.json", ["parts", "masks/part-00001.parquet", "bytes"], 7, "masks/part-00001.parquet has 7 bytes and 2 r"),
        ("_SUCCESS.json", ["parts", "rejects/part-00000.parquet", "rows"], 2, "rejects/part-00000.parquet has"),
        ("_SUCCESS.json", ["finished"], "1999-01-01T00:00:00+00:00", "before the run was created"),
        ("run.json", ["identity", "weights_sha256"], "b", "is not that of its identity"),
        ("run.json", ["fingerprint"], "0" * 64, "run.json: the fingerprint 000000000000 is not that of its identity"),
        ("run.json", ["plan", "images"], 5, "run.json: plan.images is 5, the plan's is 6"),
        ("run.json", ["plan", "shards"], 4, "run.json: plan.shards is 4, the plan's is 3"),
        ("run.json", ["plan", "sha256"], "0" * 64, "run.json: plan.sha256 is 000000000000, the plan's is"),
        ("run.json", ["plan", "parts", 0, "first_shard"], 1, "begins with shard 1 and has 6 images, it begins with shard 0"),
        ("run.json", ["plan", "parts", 0, "rows"], 5, "begins with shard 0 and has 5 images, it begins with shard 0 and has 6"),
        ("run.json", ["label_space", "classes", 0], "heaven", "label_space has other classes or colours than camvid11"),
        ("run.json", ["config", "crf"], 1, "identity and config differ in crf: null, now 1"),
    ],
)  # fmt: skip
def test_an_edited_number_is_named_and_nothing_else_is(run, file, keys, value, fault):
    edit(run / file, *keys, value=value)
    problems = told(run)
    assert any(fault in problem for problem in problems), problems
    assert all(problem.startswith(file) for problem in problems), problems
    assert verify(str(run)).images == 6


@pytest.mark.scorecard("fault", 26)
@pytest.mark.parametrize("keys", [("fingerprint",), ("identity", "crf"), ("plan", "sha256"), ("plan", "shards")])
def test_an_edited_run_is_refused_before_anything_of_it_is_used(run, keys):
    """Or the parts would be told to be another run's, and deleted."""
    edit(run / "run.json", *keys, value=9 if keys[-1] == "shards" else "0" * 64)
    for ask in (Run.open, open_run, lambda uri: compact(uri, f"{uri}-copy")):
        with pytest.raises(UserError, match=r"is not what it was made as: run\.json: .*; restore the file from a copy"):
            ask(str(run))


@pytest.mark.scorecard("fault", 26)
@pytest.mark.parametrize(
    ("key", "value"), [("rows", 9), ("rejects", 0), ("fingerprint", "0" * 64), ("rejects_by_reason", {"empty": 7})]
)
def test_an_edited_end_of_a_run_is_refused(run, key, value):
    edit(run / "_SUCCESS.json", key, value=value)
    with pytest.raises(
        UserError, match=r"did not end as it says: _SUCCESS\.json: .*; delete the file and run `maskmill resume"
    ):
        Run.open(str(run)).finished()


@pytest.mark.scorecard("fault", 26)
@pytest.mark.parametrize(
    "name",
    ["masks/notes.txt", "masks/part-2.parquet", "masks/part-000001.parquet", "masks/part-00002-00001.parquet",
     "masks/more/part-00001.parquet", "rejects/copy of part-00000.parquet", "plan/part-00001-00000000.parquet"],
)  # fmt: skip
def test_an_alien_file_is_a_fault(run, name):
    (run / name).parent.mkdir(exist_ok=True)
    shutil.copy(run / "masks/part-00001.parquet", run / name)
    assert [problem for problem in told(run) if name in problem] == [
        f"{name} is not a file of this run; move it away, readers of the folder would read it"
    ]


def test_what_a_killed_writer_leaves_behind_is_no_fault(run):
    (run / f"masks/.part-00001.parquet.{'0f' * 16}.tmp").write_bytes(b"half")
    plan = b"of a start that was killed before its run.json"
    (run / f"plan/part-00001-{hashlib.sha256(plan).hexdigest()[:8]}.parquet").write_bytes(plan)
    assert told(run) == []


def test_rejects_that_are_not_those_of_their_masks_part_are_a_fault(run):
    row = {
        "image_id": "i1",
        "uri": "u",
        "member": None,
        "stage": "decode",
        "error": "truncated",
        "message": "m",
        "attempts": 2,
    }
    name, data = rejects_part(Run.open(str(run)).fingerprint, SPACE, 0, 0, [row])
    (run / name).write_bytes(data)
    assert "rejects/part-00000.parquet does not hold the rejects of which masks/part-00000.parquet speaks" in told(run)


GARBAGE = {
    "empty": b"", "cut": None, "blank": b" \n", "text": b"hello", "binary": b"\xff\xfe\x00", "a list": b"[]", "null": b"null",
    "deep": b"[" * 200_000, "no format": b"{}", "format alone": b'{"format": 2}',
}  # fmt: skip


@pytest.mark.scorecard("input", 55)
@pytest.mark.parametrize("name", ["run.json", "_SUCCESS.json"])
@pytest.mark.parametrize("how", GARBAGE)
def test_a_damaged_file_is_named_in_a_sentence(run, name, how):
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole[: len(whole) // 2] if GARBAGE[how] is None else GARBAGE[how])
    (problem,) = told(run)
    assert f"{run}: {name}" in problem
    for ask in (lambda uri: Run.open(uri).finished(), lambda uri: open_run(uri).summary()):
        with pytest.raises(UserError) as found:
            ask(str(run))
        assert str(found.value) == problem


@pytest.mark.scorecard("input", 55)
@pytest.mark.parametrize("command", ["status", "resume", "verify", "evaluate"])
def test_each_command_says_which_file_is_damaged(run, command):
    (run / "run.json").write_bytes(b"{")
    done = maskmill(command, str(run))
    assert done.returncode == 1
    assert f"error: run {run}: run.json is not JSON, or only the beginning of it; restore the file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.scorecard("input", 56)
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"format": 1, "plan": {}}', "run.json has format 1, this version reads 2; use the version that wrote it"),
        ('{"format": "new"}', "run.json has format 'new', this version reads 2"),
        ('{"format": 2}', "run.json is damaged: fingerprint is missing; identity is missing; config is missing"),
    ],
)
def test_a_run_of_another_format_is_told_so(run, text, sentence):
    (run / "run.json").write_text(text)
    for ask in (verify, Run.open, open_run):
        with pytest.raises(UserError) as found:
            ask(str(run))
        assert sentence in str(found.value)


@pytest.mark.scorecard("fault", 26)
@pytest.mark.parametrize(
    "content", [b"", b'{"token": "x"', b"{}", b'{"token":"x","host":"h","machine":"m","pid":-1,"expires":NaN}']
)
def test_a_damaged_lease_is_named(run, content):
    lease = run / "_lease/00000004.json"
    lease.parent.mkdir(exist_ok=True)
    lease.write_bytes(content)
    (problem,) = told(run)
    assert "the lease _lease/00000004.json is " in problem
    with (
        pytest.raises(UserError, match=r"_lease/00000004\.json is .*; if nobody writes the run, delete the file"),
        Lease(str(run)),
    ):
        pass
    with pytest.raises(UserError, match=r"_lease/00000004\.json"):
        Lease.holder(str(run))


def test_a_damaged_mark_of_retried_images_is_named(run):
    (run / "attempts").mkdir(exist_ok=True)
    (run / "attempts/retried-00001").write_bytes(b'["a')
    with pytest.raises(
        UserError, match=r"retried-00001 does not hold the images that are tried again; delete the file"
    ):
        Run.open(str(run)).retried()


@pytest.mark.slow
@pytest.mark.scorecard("fault", 26)
@pytest.mark.parametrize("step", [16, pytest.param(1, marks=pytest.mark.chaos)])
def test_every_single_byte_of_a_footer_is_proved(tmp_path, step):
    """Each part of a run has another byte of its footer changed, and verify names each of them; so on, footer after footer."""
    drawn = [Drawn(f"i{n:02d}", "01") for n in range(64)]
    run = Path(make_run(str(tmp_path / "run"), drawn, images_per_shard=1))
    parts = {path: path.read_bytes() for path in sorted((run / "masks").iterdir())}
    footers = {path: 8 + int.from_bytes(data[-8:-4], "little") for path, data in parts.items()}
    places = list(range(1, min(footers.values()) + 1, step))  # from the end on
    assert places[-1] > 5000
    while places:
        spoilt = dict(zip(parts, places, strict=False))
        del places[: len(parts)]
        for path, place in spoilt.items():
            data = bytearray(parts[path])
            data[-place] ^= 1 << (place % 8)
            path.write_bytes(data)
        problems = verify(str(run)).problems
        assert [path for path in spoilt if not any(f"masks/{path.name}" in problem for problem in problems)] == []


def test_a_fingerprint_is_of_the_text_that_is_stored(run):
    info = json.loads((run / "run.json").read_text())
    assert fingerprint_of(json.loads(canonical(info["identity"]))) == info["fingerprint"]
