"""Commands about networks and their weights: export-model, import-weights, models; `pipeline/cli/__init__.py` adds them."""

from enum import StrEnum
from typing import Annotated

import typer


class ExportFormat(StrEnum):
    """What `maskmill export-model` can write."""

    ONNX = "onnx"
    TORCH_EXPORT = "torch_export"


def export_model(
    checkpoint: Annotated[str, typer.Argument(help="What `maskmill train` wrote: <output>/best or <output>/last.")],
    form: Annotated[ExportFormat, typer.Option("--format", help="Who is to read it.")],
    out: Annotated[str, typer.Option(help="File to write: a path or a URI.")],
    height: Annotated[int, typer.Option(help="Of the images, pixels.")] = 512,
    width: Annotated[int, typer.Option(help="Of the images, pixels.")] = 1024,
    code: Annotated[
        str | None, typer.Option(help="Folder of the code of a network of your own, or `installed`.")
    ] = None,
) -> None:
    """Write a checkpoint as ONNX or torch.export, checked against the checkpoint's own logits."""
    from pipeline import storage
    from pipeline.cli.console import console
    from pipeline.models.export import export as run

    done = run(storage.absolute(checkpoint), form.value, storage.absolute(out), height, width, code)
    console.print(
        f"{done.uri}: {done.bytes / 1e6:.1f} MB, uint8 (N, 3, {height}, {width}) -> logits; largest difference "
        f"{done.difference:.1g} of the largest logit",
        soft_wrap=True,
    )


def import_weights(
    source: Annotated[str, typer.Argument(help="A published file, .pth, .safetensors or .npz: path or URI.")],
    output: Annotated[str, typer.Option("--output", help="Folder of the checkpoint.")],
    model: Annotated[
        str | None,
        typer.Option("--model", help="Name of the network: see `maskmill models`. Absent: seen from the file."),
    ] = None,
    label_space: Annotated[
        str | None,
        typer.Option(
            "--label-space",
            help="What its classes mean: a built-in name, or a YAML file of classes. Absent: voc21, of 21 classes.",
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="key=value of the network, e.g. output_stride=16. Absent ones are seen from the file."
        ),
    ] = None,
) -> None:
    """Turn published weights (torchvision's, FCN's, DeepLab's, TensorFlow's as .npz) into a checkpoint of their network."""
    from pipeline.cli.console import console
    from pipeline.config import read_label_space
    from pipeline.config.loading import value_of
    from pipeline.models.identify import import_weights as run

    pairs = [value.partition("=") for value in values or []]
    given = {**({"name": model} if model else {}), **{key: value_of(text) for key, _, text in pairs}}
    space = None if label_space is None else read_label_space(label_space, where="--label-space")
    done = run(source, given, space, output)
    unseen = ", ".join(f"{key} {value}" for key, value in done.unseen.items() if key not in given)
    backbone = getattr(done.cfg, "backbone", None)
    console.print(
        f"network: {done.cfg.name}{f' on {backbone}' if backbone else ''}, {done.space.num_classes} classes of "
        f"{done.space.name}{f'; not in the file, so taken as the default: {unseen}' if unseen else ''}",
        soft_wrap=True,
    )
    console.print(f"checkpoint: {output} · source sha256 {done.sha256[:12]}", soft_wrap=True)


def models() -> None:
    """List the networks that a config can name."""
    from pipeline.cli.console import console
    from pipeline.cli.tables import print_models
    from pipeline.models.listing import catalogue

    print_models(console, catalogue())
