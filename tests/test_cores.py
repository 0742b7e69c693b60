"""A process that computes keeps the memory that it frees: shown by counting page faults, not by timing."""

import itertools
import multiprocessing
import platform
import resource
import threading

import pyarrow as pa
import pytest
import ray
import torch

from pipeline.cluster.worker_env import take_cores, worker_environment


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


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc's settings are glibc's")


@pytest.mark.slow
@glibc
def test_freed_memory_is_used_again_without_page_faults():
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1, maxtasksperchild=1) as pool:
        plain, kept = (pool.apply(faults_of_a_pass, (ours,)) for ours in (False, True))
    assert plain > 100
    assert kept < plain / 10


@pytest.mark.slow
@glibc
def test_workers_keep_it_in_the_threads_in_which_ray_computes(ray_session):
    class Passes:
        def __call__(self, row):
            assert threading.current_thread() is not threading.main_thread()
            return pa.table({"faults": [faults_of_a_pass(ours=True)]})

    def faults(environment) -> float:
        counted = ray.data.range(1).map_batches(
            Passes, batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1,
            ray_remote_args_fn=lambda: {"runtime_env": environment},
        )  # fmt: skip
        return counted.take_all()[0]["faults"]

    # Where threads outnumber malloc's arenas, eight a core, one may get the main arena by chance; here each gets its own.
    own_arena = {"env_vars": {"MALLOC_ARENA_MAX": "1000"}}
    plain = faults(own_arena)
    assert plain > 100
    assert faults(worker_environment(gpus=0)) < plain / 10
    assert worker_environment(gpus=1) == {}


def test_threads_are_those_that_were_given():
    threads = torch.get_num_threads()
    take_cores(1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
