"""The chapter of GPU measurements runs as one command, here in small on a CPU, and fails if results disagree."""

import pytest

from pipeline.crf.gpu import torch_steps

pytest.importorskip("triton")
from tests.bench import gpu
from tests.bench.gpu_chapter import Chapter

TITLES = ["Triton kernels", "coarse scores to a mask", "end to end", "dense CRF", "forward"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_it_prints_every_part_and_agrees(capsys):
    gpu.main(["--tiny", "--networks", "1"])
    told = capsys.readouterr().out
    places = [told.index(f"\n{title}") for title in TITLES]
    assert places == sorted(places)
    assert "Everything that was compared agrees." in told and "LEFT OUT" not in told


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_wrong_step_of_the_crf_fails_it(capsys, monkeypatch):
    monkeypatch.setattr(torch_steps, "blur", lambda values, neighbours: values.clone())
    with pytest.raises(SystemExit, match="1 of the statements above do not hold"):
        gpu.main(["--tiny", "--networks", "1"])
    assert "DISAGREES: 360x480x11, B, batch 1: " in capsys.readouterr().out


def test_without_a_device_it_says_so():
    if gpu.DEVICE.type == "cuda":
        pytest.skip("a CUDA device is here")
    with pytest.raises(SystemExit, match="no CUDA device here; --tiny"):
        gpu.main([])


def test_a_part_that_fails_is_told_and_the_others_go_on(capsys):
    chapter = Chapter(minutes=1)
    chapter.part("broken", ["a"], lambda: [[1 // 0]])
    chapter.part("whole", ["a"], lambda: [[chapter.hold("one is one", True)], [chapter.hold("one is two", False)]])
    with pytest.raises(SystemExit, match="2 of the statements"):
        chapter.close()
    told = capsys.readouterr().out
    assert "DISAGREES: broken: ZeroDivisionError" in told and "DISAGREES: one is two" in told
    assert "| yes |" in told and "| NO  |" in told


def test_what_has_no_time_is_named(capsys):
    chapter = Chapter(minutes=0)
    chapter.part("late", ["a"], lambda: [[1]])
    chapter.close()
    assert "LEFT OUT: late: no time was left" in capsys.readouterr().out
