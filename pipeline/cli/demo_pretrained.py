"""`maskmill demo --pretrained`: segment pictures with a trained network, in about a minute."""

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.analysis import open_run, write_report
from pipeline.analysis.run_view import RunView
from pipeline.cli import starter
from pipeline.cli.console import console, counting
from pipeline.cli.init import this_machine
from pipeline.cli.run_tables import areas_table, iou_table
from pipeline.cli.steps import keep, segment_and_verify, step
from pipeline.cli.tables import print_checkpoint
from pipeline.config import CorpusConfig, SegmentConfig, parse
from pipeline.corpus.pairing import pair
from pipeline.corpus.survey import Survey, survey
from pipeline.errors import UserError
from pipeline.models.release import Contents, contents
from pipeline.segment.local_workers import LocalWorkers, started_ahead
from pipeline.synthetic.scenes import write_corpus

SCENES, HEIGHT, WIDTH, SEED = 24, 256, 512, 7
PICTURES = 6
MAX_PIXELS = 50_000_000
_SHRINK_ABOVE = 2  # pictures of more than this many times the training images' height are shrunk
_TILE = {"tile": [3072, 3072], "overlap": 256}  # for pictures that are shrunk, in pixels before shrinking


def demo(folder: str, pretrained: str, images: str | None, labels: str | None) -> None:
    """Segment pictures, verify, and print the results; everything is below `folder`, in a folder per network and corpus.

    Raises:
        UserError: there is no such checkpoint, or no picture that can be read.
    """
    with started_ahead() as local:  # they start while network and pictures are read
        _demo(folder, pretrained, images, labels, local)


def _demo(folder: str, pretrained: str, images: str | None, labels: str | None, local: LocalWorkers) -> None:
    uri = storage.absolute(pretrained)
    found = contents(uri)
    what = [found.ready.sha256, *(storage.absolute(place) for place in (images, labels) if place)]
    folder = storage.join(
        storage.absolute(folder), f"pretrained-{hashlib.sha256(' '.join(what).encode()).hexdigest()[:8]}"
    )
    step(1, 3, f"the network: {uri}")
    print_checkpoint(console, found)
    corpus, looked = _drawn(folder, found) if images is None else _own(images, labels, found)
    cfg = _config(corpus, looked, found, uri, storage.join(folder, "run"))
    crf = "dense CRF with the settings of its card" if cfg.crf else "no CRF"
    step(2, 3, f"{len(looked.items)} images, {crf}: maskmill segment {keep(folder, 'segment.yaml', cfg)}")
    segment_and_verify(cfg, local)
    step(3, 3, "computing the results with Dask\n")
    _answer(open_run(cfg.output), folder)


def _answer(view: RunView, folder: str) -> None:
    """Print tables of the run, and write its report and pictures."""
    console.print(areas_table(view))
    if view.is_labelled():
        console.print(iou_table(view))
    report = write_report(view.uri)
    console.print(f"\nReport:   {report}", soft_wrap=True)
    for path in _pictures(view, storage.join(folder, "pictures")):
        console.print(f"Picture:  {path}", soft_wrap=True)
    console.print(f"Masks:    {view.uri}/masks/part-*.parquet (any Parquet reader)", soft_wrap=True)


def _pictures(view: RunView, folder: str) -> Iterator[str]:
    """Write overlays of some images, spread evenly over the run, and yield their URIs."""
    ids = sorted(view.frame(["image_id"])["image_id"].compute())
    chosen = [ids[place] for place in sorted(set(np.linspace(0, len(ids) - 1, PICTURES).astype(int)))] if ids else []
    for image_id, picture in view.pictures(chosen).items():
        if picture.image is not None:
            file = io.BytesIO()
            Image.fromarray(picture.overlay(legend=True)).save(file, format="JPEG", quality=92)
            uri = storage.join(folder, f"{image_id.replace('/', '_')}.jpg")
            storage.put(uri, file.getvalue())
            yield uri


def _drawn(folder: str, found: Contents) -> tuple[CorpusConfig, Survey]:
    """Draw street scenes, with their labels if the network has their classes."""
    if found.ready.image is not None:
        raise UserError("demo --pretrained: the network sees bands that drawn pictures lack; give --images")
    console.print(
        "No --images: these street scenes are drawn, so a network trained on photographs does worse on them than on "
        "photographs.",
        soft_wrap=True,
    )
    images, truths = write_corpus(storage.join(folder, "scenes"), {"val": SCENES}, HEIGHT, WIDTH, SEED)
    cfg = parse(CorpusConfig, {"images": images, "labels": truths, "layout": "cityscapes"}, where="demo")
    return _with_known_labels(cfg, found)


def _own(images: str, labels: str | None, found: Contents) -> tuple[CorpusConfig, Survey]:
    return _with_known_labels(pair(images, labels), found)


def _with_known_labels(cfg: CorpusConfig, found: Contents) -> tuple[CorpusConfig, Survey]:
    """Return the corpus and its survey, without the labels if they hold values that the network's classes lack."""
    looked = _look(cfg, found)
    space = found.ready.label_space
    if not looked.labelled or starter.knows(space, looked):
        return cfg, looked
    console.print(
        f"The labels hold values that the network's classes, {space.name}, lack, so there is no IoU; `maskmill evaluate RUN "
        "--labels LABELS --label-space NAME --map FILE` scores the run on their classes.",
        soft_wrap=True,
    )
    cfg = cfg.model_copy(update={"labels": None})
    looked = _look(cfg, found)
    if looked.labelled:
        raise UserError(
            f"demo --images {cfg.images}: labels lie among the images, and hold values that the network's classes lack; give "
            "the folder of the images alone"
        )
    return cfg, looked


def _look(cfg: CorpusConfig, found: Contents) -> Survey:
    with counting("looking at the pictures") as on_progress:
        return survey(cfg, MAX_PIXELS, found.ready.image, on_progress)


def _config(corpus: CorpusConfig, looked: Survey, found: Contents, checkpoint: str, output: str) -> SegmentConfig:
    values: dict[str, Any] = starter.segment_values(corpus, None, looked, this_machine(), checkpoint, output)
    (height, _), _ = looked.sizes.most_common(1)[0]
    learnt = found.card.image_size
    if learnt is not None and height > _SHRINK_ABOVE * learnt[0]:
        scale = round(learnt[0] / height, 3)
        values["predict"] = {**(_TILE if "predict" in values else {}), "scales": [scale]}
        console.print(
            f"pictures are predicted at {scale:g} of their size, near that of the images that the network learnt from"
        )
    crf = {} if found.card.crf is None else {"crf": found.card.crf.model_dump(mode="json")}
    return parse(SegmentConfig, {**values, **crf, "max_pixels": MAX_PIXELS}, where="demo")
