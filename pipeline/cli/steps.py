"""What the demos share: print a heading for each step, write its config to a file, segment and verify."""

import yaml
from rich.text import Text

from pipeline import storage
from pipeline.cli.console import console, segmenting
from pipeline.config import Section, SegmentConfig
from pipeline.runs import verify
from pipeline.segment.driver import segment
from pipeline.segment.local_workers import LocalWorkers


def step(number: int, of: int, words: str) -> None:
    """Print which step begins."""
    console.print(Text.assemble((f"{number}/{of}", "bold"), f" {words}"))


def keep(folder: str, name: str, cfg: Section) -> str:
    """Write a config as YAML next to its run, so that the step can be repeated alone, and return its URI."""
    uri = storage.join(folder, name)
    storage.put(uri, yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False).encode())
    return uri


def segment_and_verify(cfg: SegmentConfig, local: LocalWorkers | None = None) -> None:
    """Segment, verify the run, and print what it holds; `local`: worker processes that were started ahead."""
    with segmenting("segmenting") as on_progress:
        segment(cfg, on_progress, local)
    proof = verify(cfg.output)
    assert not proof.problems, proof.problems
    console.print(f"verified: {proof.images} images, {proof.masks} masks, {proof.rejects} rejects, each exactly once")
