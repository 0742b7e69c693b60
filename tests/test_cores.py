"""A process that computes keeps what it frees: counted in page faults, not timed."""

import itertools
import multiprocessing
import platform
import resource

import pytest
import torch

from pipeline.cores import take_cores


@torch.inference_mode()
def faults_of_a_pass(ours: bool) -> float:
    """Page faults of a warm network's pass, in the process that calls this: its activations are 32 and 64 MB."""
    if ours:
        take_cores(1)
    widths = (3, 16, 32, 16, 32)
    layers = [torch.nn.Conv2d(few, many, 3, padding=1) for few, many in itertools.pairwise(widths)]
    network, image = torch.nn.Sequential(*layers), torch.zeros(1, 3, 512, 1024)
    for _ in range(4):
        network(image)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        network(image)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_page_faults():
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1, maxtasksperchild=1) as pool:
        plain, kept = (pool.apply(faults_of_a_pass, (ours,)) for ours in (False, True))
    assert plain > 100
    assert kept < plain / 10


def test_threads_are_those_that_were_given():
    threads = torch.get_num_threads()
    take_cores(1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
