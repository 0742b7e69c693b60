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
        str,
        typer.Argument(
            help="Checkpoint that `maskmill train` wrote, <output>/best or <output>/last, or a release file."
        ),
    ],
    form: Annotated[ExportFormat, typer.Option("--format", help="Format of the file.")],
    out: Annotated[str, typer.Option(help="File to write: a path or a URI.")],
    height: Annotated[int, typer.Option(help="Height of the images, in pixels.")] = 512,
    width: Annotated[int, typer.Option(help="Width of the images, in pixels.")] = 1024,
    code: Annotated[
        str | None, typer.Option(help="For a network of your own: the folder of its code, or `installed`.")
    ] = None,
) -> None:
    """Export a checkpoint as ONNX or torch.export.

    The logits of the exported network are compared with the checkpoint's own.
    """
    from pipeline import storage
    from pipeline.cli.console import console
    from pipeline.models.export import export as run

    done = run(storage.absolute(checkpoint), form.value, storage.absolute(out), height, width, code)
    console.print(
        f"{done.uri}: {done.bytes / 1e6:.1f} MB, {done.takes} -> logits; largest difference "
        f"{done.difference:.1g} of the largest logit",
        soft_wrap=True,
    )


def import_weights(
    source: Annotated[str, typer.Argument(help="Published weights, .pth, .safetensors or .npz: path or URI.")],
    output: Annotated[str, typer.Option("--output", help="Folder that the checkpoint is written to.")],
    model: Annotated[
        str | None,
        typer.Option("--model", help="Name of the network, see `maskmill models`. Default: recognised from the file."),
    ] = None,
    label_space: Annotated[
        str | None,
        typer.Option(
            "--label-space",
            help="Label space of its classes: a built-in name, or a YAML file. Default: voc21, if there are 21 classes.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="For an image classifier: which outputs form each class, e.g. cat=281-285,dog=151-268+275,other=rest."
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Set a key of the network, e.g. output_stride=16. Other keys are recognised from the file."
        ),
    ] = None,
) -> None:
    """Convert published weights, e.g. torchvision's, to a checkpoint.

    Weights of torchvision, FCN and DeepLab, and those of TensorFlow as .npz, are recognised.
    """
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
    output: Annotated[str, typer.Option("--output", help="Folder that the checkpoint is written to.")],
    label_space: Annotated[
        str, typer.Option("--label-space", help="Label space of its classes: a built-in name, or a YAML file.")
    ],
    mean: Annotated[
        str | None,
        typer.Option(
            help="Mean to subtract from red, green and blue of 0 to 1, e.g. 0.485,0.456,0.406. Not for uint8 inputs."
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(help="Divisor after the mean is subtracted; 1/255,1/255,1/255 gives levels of 0 to 255."),
    ] = None,
    layout: Annotated[
        Literal["NCHW", "NHWC"] | None,
        typer.Option(help="Order of the input's dimensions, if its shape does not tell."),
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option(
            "--input-size", help="The only image size that it accepts, HxW in pixels. Default: as the file says."
        ),
    ] = None,
    output_name: Annotated[
        str | None,
        typer.Option("--output-name", help="Name of the output that holds the scores, if there are several."),
    ] = None,
    scores: Annotated[
        Literal["logits", "probs", "ids"] | None,
        typer.Option(help="What the output holds, if a trial of the network does not tell."),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Load .pt2, TorchScript or pickles, although they can run code that is in them."),
    ] = False,
) -> None:
    """Convert an exported network (ONNX, torch.export) to a checkpoint.

    `maskmill segment` takes the checkpoint like any other.
    """
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
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint that `maskmill train` wrote: <output>/best or <output>/last.")
    ],
    output: Annotated[str, typer.Option("--output", help="File to write, .safetensors: a path or a URI.")],
    card: Annotated[
        str | None,
        typer.Option(
            help="YAML file that describes the network: title, data, licence, split, figures, command, notes."
        ),
    ] = None,
    half: Annotated[
        bool | None,
        typer.Option(
            "--half/--full", help="Weights as float16 or float32. Default: float16 if float32 takes over 20 MB."
        ),
    ] = None,
    code: Annotated[
        str | None, typer.Option(help="For a network of your own: the folder of its code, or `installed`.")
    ] = None,
) -> None:
    """Pack a checkpoint and its card into one file, to share it.

    The file can be given wherever a checkpoint can.
    """
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
        str | None, typer.Argument(help="A checkpoint or release file to describe. Default: list all networks.")
    ] = None,
) -> None:
    """List the available networks, or describe a checkpoint or release file."""
    from pipeline.cli.console import console
    from pipeline.cli.tables import print_checkpoint, print_models
    from pipeline.config.networks import networks

    if checkpoint is None:
        print_models(console, networks())
        return
    from pipeline import storage
    from pipeline.models.release import contents

    print_checkpoint(console, contents(storage.absolute(checkpoint)))
