"""`maskmill config` prints type, default, unit and meaning of every key, all taken from the schema."""

import io
import re
import subprocess
import sys
from typing import Literal

import pytest
from pydantic import Field
from rich.console import Console

from pipeline.cli import config as command
from pipeline.cli import console as screen
from pipeline.config import TrainConfig
from pipeline.config.base import Section
from pipeline.config.describe import SCHEMAS, detail, overview
from pipeline.config.models import NETWORK_SECTIONS
from pipeline.errors import UserError


def told(kind, key=None):
    return {entry.path: entry for entry in (overview(kind) if key is None else detail(kind, key))}


def test_the_overview_has_every_key_and_those_below_them():
    found = told("train")
    assert TrainConfig.model_fields.keys() <= found.keys()
    assert {"optimizer.lr", "augment.crop", "loss.terms", "validate_crf.colour_px", "corpus.images"} <= found.keys()
    assert not any(path.startswith(("model.", "loss.terms.")) for path in found)  # one of several sections: by name


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_key_has_a_type_a_default_and_a_meaning(kind):
    for entry in [*overview(kind), *detail("train", "model"), *detail("train", "loss.terms")]:
        assert entry.kind and entry.doc and (entry.default or entry.chosen), entry


def test_type_default_unit_and_meaning_stand_as_the_schema_declares_them():
    found = told("train") | told("segment")
    facts = {path: (found[path].kind, found[path].default, found[path].unit) for path in found}
    assert facts["epochs"] == ("whole number >= 1", "40", "epochs")
    assert facts["augment.crop"] == ("list of 2 whole numbers >= 1", "[256, 256]", "pixels")
    assert facts["optimizer.momentum"] == ("number >= 0 and < 1", "0.9", "")
    assert facts["optimizer.lr"] == ("number > 0", "follows from other keys", "")
    assert facts["optimizer.milestones"][0] == "list of numbers > 0 and < 1"
    assert facts["precision"] == ("one of fp32, bf16", "fp32", "")
    assert facts["output"] == ("URI", "required", "")
    assert facts["crf"] == ("section", "absent", "")
    assert facts["max_pixels"] == ("whole number >= 1", "50_000_000", "pixels")
    assert facts["compile"] == ("true or false", "false", "")
    assert facts["loss.terms"][:2] == (
        "list of sections with name cross_entropy, focal, ohem, dice, lovasz",
        "[{name: cross_entropy}]",
    )
    assert facts["metrics.boundary_px"] == ("list of whole numbers >= 1 and <= 254", "[]", "pixels")
    assert (
        found["accumulate"].doc == "A worker takes its share of a batch in so many parts: less memory, same gradient."
    )


def test_one_of_several_sections_is_told_by_its_name():
    networks = told("train", "model")
    assert networks.keys() == {"model"} | {f"model.{name}" for name in NETWORK_SECTIONS}
    assert networks["model.unet"].doc == "U-Net (arXiv:1505.04597)."
    keys = told("train", "model.deeplabv3plus")
    assert {"model.deeplabv3plus.aspp_channels", "model.deeplabv3plus.backbone"} <= keys.keys()
    assert told("train", "model.aspp_channels").keys() == {"model.deeplabv3plus.aspp_channels"}  # as --set has it
    assert told("train", "model.upsampling").keys() >= {"model.segnet.upsampling", "model.unet.upsampling"}
    assert told("train", "loss.terms.focal.gamma")["loss.terms.focal.gamma"].default == "2"
    assert "space.<key>.loguniform" in told("tune")


def test_a_new_key_needs_nothing_but_its_declaration(monkeypatch):
    class Inner(Section):
        width: float = Field(2.5, gt=0)
        """[metres] How wide it is."""

    class Fresh(Section):
        colour: Literal["red", "blue"]
        """Which colour
        it has."""
        inner: Inner | None = None
        """More of it."""

    monkeypatch.setitem(SCHEMAS, "train", Fresh)
    lines = [(one.path, one.kind, one.default, one.unit, one.doc) for one in overview("train")]
    assert lines == [
        ("colour", "one of red, blue", "required", "", "Which colour it has."),
        ("inner", "section", "absent", "", "More of it."),
        ("inner.width", "number > 0", "2.5", "metres", "How wide it is."),
    ]


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("optimiser.lr", r"there is no key 'optimiser\.lr'; did you mean optimizer\.lr, "),
        ("lr", r"did you mean optimizer\.lr\?"),
        ("model.deeplabv3_plus", r"did you mean model\.deeplabv3plus, "),
        ("learning_rate", r"did you mean optimizer\.lr\?"),
        ("zzz", "at the top are corpus, train_split"),
    ],
)
def test_an_unknown_key_suggests_near_ones(key, sentence):
    with pytest.raises(UserError, match=sentence):
        detail("train", key)


@pytest.mark.parametrize("width", [80, 120])
def test_the_listing_fits_the_terminal(monkeypatch, width):
    monkeypatch.setattr(screen, "console", Console(width=width, record=True, file=io.StringIO(), markup=False))
    command.config("train")
    lines = screen.console.export_text().splitlines()
    assert max(len(line) for line in lines) <= width
    assert any(re.match(r"epochs: whole number >= 1 \[epochs\]; default: 40$", line) for line in lines)
    assert "A config must set corpus, label_space, output" in " ".join(lines)


def test_the_command_answers_without_loading_torch_or_ray():
    code = "import sys; from pipeline.cli import main\ntry: main()\nfinally: print({'torch', 'ray'} & set(sys.modules))"
    arguments = ["config", "segment", "crf.colour_px"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("crf.colour_px: number > 0 [pixels]; default: 67\n"), done.stderr
    assert done.stdout.endswith("set()\n")
    wrong = [sys.executable, "-c", code, "config", "segment", "crf.colour"]
    done = subprocess.run(wrong, capture_output=True, text=True, timeout=120)
    assert done.stderr.startswith("error: config segment: there is no key 'crf.colour'; did you mean crf.colour_px")
