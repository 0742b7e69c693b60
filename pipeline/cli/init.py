"""`maskmill init`: look at a corpus and write configs to train on it and to segment it; added by `commands.py`."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import storage
from pipeline.cli import cli_output
from pipeline.cli.arguments import Bands, ValueRange, declared_image
from pipeline.errors import UserError

if TYPE_CHECKING:  # the survey of a corpus imports torch, which takes seconds
    from pipeline.cli.starter import Machine
    from pipeline.config import CorpusConfig, ImageConfig
    from pipeline.corpus.propose_splits import Splits
    from pipeline.corpus.survey import Survey

_MOST_CORES = 8  # cores that one process makes use of
_MOST_SHOWN = 12  # classes listed in the terminal


def init(
    folder: Annotated[str, typer.Argument(help="Local folder for the configs and for what their runs write.")],
    images: Annotated[str, typer.Option(help="The images: a folder, a prefix, a zip, a tar, a table.")],
    labels: Annotated[
        str | None,
        typer.Option(help="The labels, if they are stored apart; without labels there is nothing to train on."),
    ] = None,
    images_glob: Annotated[str | None, typer.Option(help="Which files are images, such as images/**/*.jpg")] = None,
    labels_glob: Annotated[
        str | None, typer.Option(help="Which files are labels, such as labels/**/*_mask.png")
    ] = None,
    bands: Bands = None,
    value_range: ValueRange = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="A trained network or release file to segment with, instead of the one to be trained."),
    ] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Images of more pixels are not looked at.")] = 50_000_000,
) -> None:
    """Look at a corpus and write configs to train on it and to segment it.

    They are train.yaml, segment.yaml and, for classes of your own, classes.yaml.
    """
    from pipeline.cli import starter
    from pipeline.cli.console import console, counting
    from pipeline.corpus.propose_splits import propose_splits
    from pipeline.corpus.survey import survey

    target, image = _target(folder), declared_image(bands, value_range, "init")
    cfg = _corpus(images, labels, images_glob, labels_glob)
    with counting("looking at the corpus") as on_progress:
        found = survey(cfg, max_pixels, image, on_progress)
    machine = this_machine()
    space = starter.built_in_space(cfg, found) if found.labelled else None
    splits = None
    if found.labelled:
        _check_classes(found, labels or images)
        cfg, splits = propose_splits(cfg, found.items)
    files = _files(target, cfg, image, found, machine, space, splits, checkpoint)
    _write(target, files)
    written, *advice = _next(Path(folder), list(files), checkpoint)
    for line in [*_seen(cfg, found, space, splits), written, *([] if cli_output.quiet else advice)]:
        console.print(line, soft_wrap=True)


def _target(folder: str) -> Path:
    """Return the folder; UserError if it cannot be one, or holds a config already."""
    if "://" in folder:
        raise UserError(f"init {folder}: configs are read from a disk; give a local folder")
    target = Path(folder).expanduser().absolute()
    above = next(path for path in (target, *target.parents) if path.exists())
    if not above.is_dir():
        raise UserError(f"init {folder}: {above} is a file; give a folder, which may be a new one")
    for name in ("train.yaml", "segment.yaml", "classes.yaml"):
        if (target / name).exists():
            raise UserError(
                f"init {folder}: {target / name} already exists and is never overwritten; use it, remove it, or give "
                "another folder"
            )
    return target


def _corpus(images: str, labels: str | None, images_glob: str | None, labels_glob: str | None) -> "CorpusConfig":
    from pipeline.config import CorpusConfig, parse
    from pipeline.corpus.pairing import pair

    if images_glob is None and labels_glob is None:
        return pair(images, labels)
    values = {"images": images, "labels": labels, "layout": "pairs"}
    return parse(CorpusConfig, values | {"image_glob": images_glob, "label_glob": labels_glob}, where="init")


def _check_classes(found: "Survey", where: str) -> None:
    from pipeline.cli.starter import class_values

    classes = class_values(found)
    if len(classes) < 2:
        held = ", ".join(str(value) for value, _ in classes.values()) or "nothing but 255, which means ignore"
        raise UserError(
            f"labels {where}: {found.looked_at} of them hold {'one value, ' if classes else ''}{held}; a network "
            "needs at least two classes, of which the background may be one"
        )


def this_machine() -> "Machine":
    """Return the cores and the GPU that the written configs may use."""
    import torch

    from pipeline.cli.starter import Machine

    return Machine(min(_MOST_CORES, _cores()), torch.cuda.is_available())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _files(
    target: Path,
    cfg: "CorpusConfig",
    image: "ImageConfig | None",
    found: "Survey",
    machine: "Machine",
    space: str | None,
    splits: "Splits | None",
    checkpoint: str | None,
) -> dict[str, str]:
    """Return name -> text of each file."""
    from pipeline.cli import starter

    files = {}
    if splits is not None:
        if space is None:
            files["classes.yaml"] = starter.classes_text(cfg.labels or cfg.images, found)
        values = starter.train_values(
            cfg, image, space or str(target / "classes.yaml"), splits, found, machine, str(target / "runs/train")
        )
        files["train.yaml"] = starter.commented(
            "train",
            f"A training on {cfg.images}: maskmill train {target / 'train.yaml'}",
            values,
            _notes(splits, found, machine),
        )
    values = starter.segment_values(
        cfg, splits.val if splits else None, found, machine,
        storage.absolute(checkpoint or str(target / "runs/train/best")), str(target / "runs/segment"),
    )  # fmt: skip
    files["segment.yaml"] = starter.commented(
        "segment",
        f"Masks of {cfg.images}: maskmill segment {target / 'segment.yaml'}",
        values,
        _notes(splits, found, machine),
    )
    return files


def _notes(splits: "Splits | None", found: "Survey", machine: "Machine") -> dict[str, str]:
    """Return notes on single values, which follow the key's documentation."""
    here = f"{machine.cores}: of the {_cores()} here."
    notes = {
        "cpus_per_worker": here,
        "cpus_per_actor": here,
        "augment.crop": f"Here most images are {'x'.join(map(str, found.sizes.most_common(1)[0][0]))}.",
    }
    if splits is not None:
        notes |= {
            "epochs": f"Here: {splits.num_train} images to learn from.",
            "split": "The network has not learnt from it, so its IoU is honest. Remove the key to segment all images.",
        }
    return notes


def _write(target: Path, files: dict[str, str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with (target / name).open("x", encoding="utf-8") as file:
            file.write(text)


def _seen(cfg: "CorpusConfig", found: "Survey", space: str | None, splits: "Splits | None") -> Iterator[str]:
    """Yield the lines that say what was found."""
    sizes = ", ".join(f"{height}x{width} ({count})" for (height, width), count in found.sizes.most_common(3))
    more = f", {found.looked_at} of them looked at" if found.looked_at < len(found.labelled or found.items) else ""
    yield f"images: {len(found.items)}, {len(found.labelled)} with a label{more}; layout {cfg.layout}; height x width {sizes}"
    for reason, sentences in found.bad.items():
        yield f"bad: {len(sentences)} {reason}, e.g. {sentences[0]}; repair them before training, `maskmill check` lists all"
    if splits is None:
        yield "no labels, so there is nothing to train on; if you have labels, give them with --labels URI"
        return
    yield _classes_line(found, space)
    train, val = f"{splits.num_train} images of '{splits.train}'", f"{splits.num_val} of '{splits.val}'"
    yield f"splits: {train} to learn from, {val} to be judged by"


def _next(folder: Path, files: list[str], checkpoint: str | None) -> Iterator[str]:
    """Yield the lines that say what was written, and what comes next."""
    yield f"written: {', '.join(str(folder / name) for name in files)}"
    if "classes.yaml" in files:
        yield f"next: give the classes their names in {folder / 'classes.yaml'}, then"
        yield f"  maskmill train {shlex.quote(str(folder / 'train.yaml'))}"
    elif "train.yaml" in files:
        yield f"next: maskmill train {shlex.quote(str(folder / 'train.yaml'))}"
    else:
        missing = (
            "" if checkpoint else f", once there is a trained network; name it in {folder / 'segment.yaml'}: checkpoint"
        )
        yield f"next: maskmill segment {shlex.quote(str(folder / 'segment.yaml'))}{missing}"


def _classes_line(found: "Survey", space: str | None) -> str:
    from pipeline.cli.starter import class_values

    classes, pixels = class_values(found), found.ids.total() + found.colours.total()
    if space is not None:
        return f"classes: those of {space}, which knows all {len(found.ids) + len(found.colours)} values that the labels hold"
    shares = [f"{value} ({100 * count / pixels:.1f} %)" for value, count in classes.values()]
    tail = f" and {len(shares) - _MOST_SHOWN} more" if len(shares) > _MOST_SHOWN else ""
    return f"classes: {len(classes)}, by what the labels hold: {', '.join(shares[:_MOST_SHOWN])}{tail}"
