"""Commands about networks: import-weights, import-model, export-model, release, models; `commands.py` adds them."""

import re
import shlex
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Literal

import typer

from pipeline.errors import UserError


class ExportFormat(StrEnum):
    """Formats that `maskmill export-model` can write."""

    ONNX = "onnx"
    TORCH_EXPORT = "torch_export"


def export_model(
    checkpoint: Annotated[
        str, typer.Argument(help="What `maskmill train` wrote, <output>/best or <output>/last, or a release file.")
    ],
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
    classes: Annotated[
        str | None,
        typer.Option(
            help="Of an image classifier: which outputs make up a class, e.g. cat=281-285,dog=151-268+275,other=rest."
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
    named = None if classes is None else dict(part.partition("=")[::2] for part in classes.split(","))
    done = run(source, given, space, output, named)
    unseen = ", ".join(f"{key} {value}" for key, value in done.unseen.items() if key not in given)
    backbone = getattr(done.cfg, "backbone", None)
    console.print(
        f"network: {done.cfg.name}{f' on {backbone}' if backbone else ''}, {done.space.num_classes} classes of "
        f"{done.space.name}{f'; not in the file, so taken as the default: {unseen}' if unseen else ''}",
        soft_wrap=True,
    )
    console.print(f"checkpoint: {output} · source sha256 {done.sha256[:12]}", soft_wrap=True)


def _levels(text: str | None, option: str) -> tuple[float, float, float] | None:
    """Parse three numbers of an option, such as 0.485,0.456,0.406; fractions such as 1/255 are allowed."""
    if text is None:
        return None
    try:
        red, green, blue = (float(Fraction(part.strip())) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{option}: found '{text}'; give red, green and blue, such as 0.485,0.456,0.406") from None
    if option == "--std" and min(red, green, blue) <= 0:
        raise UserError(f"--std: found '{text}'; every number must be above 0")
    return red, green, blue


def _size(text: str | None) -> tuple[int, int] | None:
    """Parse height and width of --input-size."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise UserError(f"--input-size: found '{text}'; give height x width in pixels, such as 512x1024")
    return int(found[1]), int(found[2])


def import_model(
    source: Annotated[str, typer.Argument(help="An exported network (.onnx, .pt2): path or URI.")],
    output: Annotated[str, typer.Option("--output", help="Folder of the checkpoint.")],
    label_space: Annotated[
        str, typer.Option("--label-space", help="What its classes mean: a built-in name, or a YAML file of classes.")
    ],
    mean: Annotated[
        str | None,
        typer.Option(help="Of red, green and blue, as values of 0 to 1, such as 0.485,0.456,0.406. Not for uint8."),
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="What the rest is divided by; 1/255,1/255,1/255 gives levels of 0 to 255.")
    ] = None,
    layout: Annotated[
        Literal["NCHW", "NHWC"] | None,
        typer.Option(help="Order of the input's dimensions, where its shape does not tell."),
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option("--input-size", help="HxW, pixels: the only size that it takes. Absent: as the file says."),
    ] = None,
    output_name: Annotated[
        str | None, typer.Option("--output-name", help="The output that holds the scores, where there are several.")
    ] = None,
    scores: Annotated[
        Literal["logits", "probs", "ids"] | None,
        typer.Option(help="What the output is, where running it does not tell."),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load .pt2, TorchScript or pickles, which can run code that is in them.")
    ] = False,
) -> None:
    """Turn an exported network (ONNX, torch.export) into a checkpoint for `maskmill segment`."""
    from pipeline.cli.console import console, hint
    from pipeline.config import read_label_space
    from pipeline.models.import_model import Wanted
    from pipeline.models.import_model import import_model as run

    wanted = Wanted(
        mean=_levels(mean, "--mean"),
        std=_levels(std, "--std"),
        layout=layout,
        size=_size(input_size),
        output=output_name,
        scores=scores,
        trust=trust,
    )
    done = run(source, wanted, read_label_space(label_space, where="--label-space"), output)
    console.print(f"network: {done.words}", soft_wrap=True)
    console.print(f"checkpoint: {output} · sha256 {done.sha256[:12]}", soft_wrap=True)
    if done.cfg.form != "onnx":
        hint("segment with `code: trusted` in the config, since the file runs code")


def release(
    checkpoint: Annotated[str, typer.Argument(help="What `maskmill train` wrote: <output>/best or <output>/last.")],
    output: Annotated[str, typer.Option("--output", help="File to write, .safetensors: a path or a URI.")],
    card: Annotated[
        str | None,
        typer.Option(help="YAML file of what is known of it: title, data, licence, split, figures, command, notes."),
    ] = None,
    half: Annotated[
        bool | None,
        typer.Option("--half/--full", help="Weights as float16 or float32. Absent: float16 if it is over 20 MB."),
    ] = None,
    code: Annotated[
        str | None, typer.Option(help="Folder of the code of a network of your own, or `installed`.")
    ] = None,
) -> None:
    """Write a checkpoint and a card as one file, which is taken wherever a checkpoint is."""
    from pipeline import storage
    from pipeline.cli.console import console, hint
    from pipeline.config import ReleaseCard, load
    from pipeline.models.release import release as run

    done = run(
        storage.absolute(checkpoint), storage.absolute(output), load(ReleaseCard, card) if card else None, half, code
    )
    console.print(
        f"{done.uri}: {done.bytes / 1e6:.1f} MB, {'float16' if done.half else 'float32'}, weights sha256 {done.sha256[:12]}"
        f"{', the same as the checkpoint' if done.same_weights else ''}",
        soft_wrap=True,
    )
    if done.equal is not None:
        console.print(f"labels equal to full precision on {100 * done.equal:.2f} % of the pixels of drawn scenes")
    hint(f"maskmill demo --pretrained {shlex.quote(output)} --images FOLDER segments pictures with it")


def models(
    checkpoint: Annotated[
        str | None, typer.Argument(help="A checkpoint or release file to describe. Absent: every network.")
    ] = None,
) -> None:
    """List the networks that a config can name, or say what a checkpoint or a release file holds."""
    from pipeline.cli.console import console
    from pipeline.cli.tables import print_checkpoint, print_models
    from pipeline.config.networks import networks

    if checkpoint is None:
        print_models(console, networks())
        return
    from pipeline import storage
    from pipeline.models.release import contents

    print_checkpoint(console, contents(storage.absolute(checkpoint)))
