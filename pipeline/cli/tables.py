"""What commands print when they are done: tables of a check, of groups, of searches, of the networks."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pipeline.cli.printing import group_word

if TYPE_CHECKING:  # a table of numbers needs neither torch nor Ray, which take seconds to import
    import pandas as pd

    from pipeline.config.networks import NetworkRow
    from pipeline.corpus.check import CorpusReport
    from pipeline.corpus.detect import Found
    from pipeline.models.release import Contents
    from pipeline.segment.calibrate import Calibrated
    from pipeline.segment.tune_crf import Tuned
    from pipeline.train.tune import Trial


def print_check(console: Console, found: "Found", report: "CorpusReport") -> None:
    """Print what `maskmill check` found."""
    from pipeline.corpus.check import THREADS

    console.print(
        f"layout {found.cfg.layout}: {report.images} images, {report.labelled} with a label, {report.bytes / 1e6:.1f} MB"
    )
    console.print("splits: " + ", ".join(f"{name} {count}" for name, count in sorted(report.splits.items())))
    sizes = ", ".join(f"{h}x{w} ({count})" for (h, w), count in report.sizes.most_common(5))
    console.print(f"sizes (height x width): {sizes or 'none could be read'}")
    if report.pixels.sum():
        shares = zip(report.classes, report.pixels / report.pixels.sum(), strict=True)
        console.print("labelled pixels: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares))
    if report.labels_without_image:
        console.print(f"labels without an image: {report.labels_without_image}")
    for reason, sentences in report.bad.items():
        console.print(f"bad: {len(sentences)} {reason}")
        for sentence in sentences[:3]:
            console.print(f"  {sentence}", soft_wrap=True)
    if report.foreign.pixels:
        console.print(report.foreign.sentence(report.label_space), soft_wrap=True)
    rate = report.checked / max(report.seconds, 1e-9)
    console.print(
        f"read and decoded {rate:.1f} images/s on {THREADS} threads: about {report.estimated_s:.0f} s for one pass"
    )
    if found.others:
        console.print(f"why the layout is taken to be '{found.cfg.layout}'; choose another with --layout NAME:")
    for name, reason in found.others.items():
        console.print(f"  {name}: {reason}", soft_wrap=True)


def print_groups(console: Console, iou: "pd.DataFrame") -> None:
    """Print mIoU and pixel accuracy by group, percent."""
    table = Table(header_style="bold")
    for name in iou.index.names:
        table.add_column(str(name), overflow="fold")
    for heading in ("images", "mIoU", "pixel accuracy"):
        table.add_column(heading, justify="right")
    for key, row in iou.iterrows():
        keys = [group_word(part) for part in (key if isinstance(key, tuple) else (key,))]
        table.add_row(*keys, str(int(row["images"])), f"{100 * row['miou']:.2f}", f"{100 * row['pixel_accuracy']:.2f}")
    console.print(table)


def print_trials(console: Console, trials: Sequence["Trial"]) -> None:
    """Print the trials of a search, best first; below them why some could not be trained."""
    table = Table(header_style="bold")
    for key in trials[0].values:
        table.add_column(key)
    for heading in ("mIoU", "minutes"):
        table.add_column(heading, justify="right")
    for trial in trials:
        values = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in trial.values.values()]
        table.add_row(*values, "failed" if trial.error else f"{100 * trial.miou:.2f}", f"{trial.seconds / 60:.1f}")
    console.print(table)
    for trial in trials:
        if trial.error:
            console.print(f"failed: {trial.values}: {trial.error}", soft_wrap=True)


def print_models(console: Console, rows: Iterable["NetworkRow"]) -> None:
    """Print the networks, one per line."""
    from pipeline.config.networks import HEIGHT, WIDTH

    table = Table(header_style="bold")
    for heading in ("name", "variant"):
        table.add_column(heading)
    for heading in ("parameters", f"GFLOPs at {HEIGHT}x{WIDTH}"):
        table.add_column(heading, justify="right")
    table.add_column("source")
    for row in rows:
        parameters = "any" if row.parameters is None else f"{row.parameters / 1e6:.2f} M"
        gflops = "any" if row.gflops is None else f"{row.gflops:,.1f}"
        table.add_row(row.name, row.variant, parameters, gflops, row.source)
    console.print(table)


def print_checkpoint(console: Console, found: "Contents") -> None:
    """Print the network, classes and preprocessing of a checkpoint, and the card of a release file."""
    ready, card = found.ready, found.card
    backbone = getattr(ready.model_config, "backbone", None)
    lines = {
        "title": card.title,
        "network": f"{ready.model_config.name}{f' on {backbone}' if backbone else ''}",
        "parameters": f"{found.parameters / 1e6:.2f} M",
        "classes": f"{ready.label_space.num_classes} of {ready.label_space.name}: {', '.join(ready.label_space.classes)}",
        "images": "8-bit RGB" if ready.image is None else f"bands {ready.image.bands}, range {ready.image.range}",
        "normalised": f"mean {_numbers(ready.model.mean)}, std {_numbers(ready.model.std)}, of values in 0..1",
        "weights": f"{found.weights_bytes / 1e6:.1f} MB, sha256 {ready.sha256}",
        "training": ", ".join(
            f"{key} {value}" for key, value in ready.info.items() if isinstance(value, int | float | str)
        ),
        "data": card.data,
        "licence": card.licence,
        "split": card.split,
        "figures": ", ".join(f"{name} {value}" for name, value in card.figures.items()),
        "image size": None if card.image_size is None else "x".join(map(str, card.image_size)),
        "CRF": None
        if card.crf is None
        else ", ".join(f"{key} {value}" for key, value in card.crf.model_dump().items()),
        "command": card.command,
        "notes": card.notes,
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in lines.items():
        if words:
            table.add_row(name, words)
    console.print(table)


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def print_tuned(console: Console, found: "Tuned", most: int = 5) -> None:
    """Print the best settings of a search for CRF settings, what they change in each class, and the verdict."""
    table = Table(header_style="bold", title=f"searched on {found.images - found.judged_on} images")
    for heading in ("w1", "sigma_alpha px", "sigma_beta levels", "steps", "mIoU", "class average"):
        table.add_column(heading, justify="right")
    without = next(setting for setting in found.settings if setting.crf is None)
    shown = [setting for setting in found.settings if setting.crf is None or not setting.crf.class_weights][:most]
    for setting in [*shown, *([without] if without not in shown else [])]:
        crf = setting.crf
        values = (
            [crf.colour_weight, crf.colour_px, crf.colour_levels, crf.iterations] if crf else ["no CRF", "", "", ""]
        )
        table.add_row(*(str(v) for v in values), f"{100 * setting.miou:.2f}", f"{100 * setting.class_accuracy:.2f}")
    console.print(table)
    console.print(_verdict_table(found))
    if found.weighted and found.weighted.setting.crf:
        weights = found.weighted.setting.crf.class_weights
        console.print("class weights: " + ", ".join(f"{name} {weight:g}" for name, weight in weights.items()))
    if found.crf is None:
        verdict = "the CRF does not help; it is left off"
    else:
        how = "the CRF helps with class weights" if found.crf.class_weights else "the CRF helps"
        verdict = f"{how}; its settings are written"
    others = " of other sequences" if found.halves_of == "sequences" else " that the search did not see"
    console.print(f"judged on {found.judged_on} images{others}: {verdict}", style="bold", soft_wrap=True)


def _verdict_table(found: "Tuned") -> Table:
    """Compare no CRF, the best setting, and weights of classes, on the images that the search did not see."""
    table = Table(
        header_style="bold", title=f"judged on {found.judged_on} others; change and its 95 % interval, percent"
    )
    for heading in ("", "no CRF", "best", "change", *(("class weights", "change") if found.weighted else ())):
        table.add_column(heading, justify="right" if heading else "left")
    for name, raw in found.raw.class_iou.items():
        cells = [(one.class_iou[name], one.class_change[name]) for one in found.judged]
        table.add_row(name, f"{100 * raw:.2f}", *(text for iou, change in cells for text in _changed(iou, change)))
    for name, raw in (("miou", found.raw.setting.miou), ("class_accuracy", found.raw.setting.class_accuracy)):
        cells = [(getattr(one.setting, name), one.change[name]) for one in found.judged]
        heading = {"miou": "mIoU"}.get(name, name.replace("_", " "))
        table.add_row(heading, f"{100 * raw:.2f}", *(text for iou, change in cells for text in _changed(iou, change)))
    edges = [text for one in found.judged for text in ("", _changed(0, one.change["boundary_iou"])[1])]
    table.add_row("boundary IoU", "", *edges)
    return table


def _changed(value: float, change: tuple[float, float, float]) -> tuple[str, str]:
    middle, low, high = (100 * end for end in change)
    return f"{100 * value:.2f}", f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"


def print_calibrated(console: Console, found: "Calibrated") -> None:
    """Print the fitted temperature, what that of one half changes on the other, and the line for the config."""
    table = Table(header_style="bold")
    for heading in ("", "before", "after", "change", "95 % of draws"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, scale, change in (
        ("calibration error (ECE), %", 100, found.ece),
        ("negative log-likelihood, nats", 1, found.nll),
    ):
        before, after, by, low, high = (scale * value for value in dataclasses.astuple(change))
        table.add_row(name, f"{before:.3f}", f"{after:.3f}", f"{by:+.3f}", f"{low:+.3f} to {high:+.3f}")
    console.print(table)
    console.print(
        f"judged on {found.judged_pixels} labelled pixels of {found.judged_images} images, with temperature "
        f"{found.fitted_temperature:g}, fitted on {found.fitted_images} others",
        soft_wrap=True,
    )
    verdict = "helps" if found.helps else "does not help beyond chance: leave it out"
    console.print(f"temperature {found.temperature:g}, fitted on all {found.images} images, {verdict}", style="bold")
    if found.helps:
        console.print(f"config: predict: {{temperature: {found.temperature:g}}}", soft_wrap=True)
