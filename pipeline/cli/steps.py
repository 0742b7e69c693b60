"""What the demos share: a heading for each step, and the config of each, kept as a file."""

import yaml
from rich.text import Text

from pipeline import storage
from pipeline.cli.console import console
from pipeline.config import Section


def step(number: int, of: int, words: str) -> None:
    """Say which step begins."""
    console.print(Text.assemble((f"{number}/{of}", "bold"), f" {words}"))


def keep(folder: str, name: str, cfg: Section) -> str:
    """Write a config as YAML next to its run, so that the step can be repeated alone; its URI."""
    uri = storage.join(folder, name)
    storage.put(uri, yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False).encode())
    return uri
