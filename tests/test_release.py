"""A release file works wherever a checkpoint does, has the same weights to the byte, and is refused with a reason if bad."""

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from pipeline import labels, models, storage
from pipeline.cli import demo_pretrained
from pipeline.config import CorpusConfig, ReleaseCard, load
from pipeline.config.models import UNetConfig
from pipeline.models import checkpoint, release_file
from pipeline.models.release import card_of, contents, release
from pipeline.synthetic.scenes import write_corpus
from tests import small_train
from tests.command import maskmill

CARD = {"title": "Street scenes", "licence": "CC0", "figures": {"mIoU on val": 12.5}, "image_size": [64, 128]}


@pytest.fixture(scope="module")
def released(tiny_checkpoint, tmp_path_factory):
    """The URI of the tiny checkpoint as a release file with a card."""
    out = str(tmp_path_factory.mktemp("release") / "tiny.safetensors")
    done = release(tiny_checkpoint, out, ReleaseCard.model_validate(CARD))
    assert done.same_weights and not done.half and done.bytes == Path(out).stat().st_size
    return out


def test_it_is_the_checkpoint_to_the_byte_and_a_run_goes_on_with_it(tiny_checkpoint, released):
    one, two = checkpoint.load(tiny_checkpoint), checkpoint.load(released)
    assert two.identity == one.identity  # what a run is bound to
    assert all(
        torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True)
    )
    weights = checkpoint.read_weights(released, checkpoint.describe(released))
    assert weights == Path(tiny_checkpoint, "model.safetensors").read_bytes()
    assert checkpoint.label_space_of(released) == one.label_space and checkpoint.image_of(released) is None


def test_the_library_reads_the_same_tensors(tiny_checkpoint, released):
    expected = safetensors.torch.load_file(Path(tiny_checkpoint, "model.safetensors"))
    with safetensors.safe_open(released, "pt") as file:
        assert {*file.keys()} == {*expected}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in expected.items())
        assert json.loads(file.metadata()["maskmill"])["card"] == CARD


def test_the_card_comes_back_and_stays_in_a_release_of_a_release(tiny_checkpoint, released, tmp_path):
    assert contents(released).card == ReleaseCard.model_validate(CARD)
    again = str(tmp_path / "again.safetensors")
    release(released, again, None)
    assert Path(again).read_bytes() == Path(released).read_bytes()
    assert card_of(tiny_checkpoint) == ReleaseCard()


def test_no_address_of_the_training_stands_in_it(tmp_path):
    info = {
        "epoch": 3,
        "miou": 0.5,
        "split": "train",
        "corpus": {"images": "/home/me/secret.zip"},
        "weights_source": "/home/me/w",
    }
    cfg = UNetConfig.model_validate(small_train.QUICK["model"])
    checkpoint.save(str(tmp_path / "in"), models.build(cfg, 19), cfg, labels.space("cityscapes19"), info)
    release(str(tmp_path / "in"), str(tmp_path / "out.safetensors"), None)
    assert b"/home/me" not in (tmp_path / "out.safetensors").read_bytes()
    assert checkpoint.load(str(tmp_path / "out.safetensors")).info == {"epoch": 3, "miou": 0.5, "split": "train"}


def test_half_precision_halves_it_and_gives_nearly_the_same_labels(tiny_checkpoint, tmp_path):
    done = release(tiny_checkpoint, str(tmp_path / "half.safetensors"), None, half=True)
    full = Path(tiny_checkpoint, "model.safetensors").stat().st_size
    assert done.half and not done.same_weights and done.bytes < 0.6 * full
    assert done.equal is not None and done.equal > 0.95
    one, two = checkpoint.load(tiny_checkpoint).model.state_dict(), checkpoint.load(done.uri).model.state_dict()
    for name, tensor in one.items():
        expected = tensor.half().float() if tensor.ndim > 1 else tensor
        assert torch.equal(two[name], expected) and two[name].dtype == tensor.dtype, name


def test_what_float16_cannot_hold_keeps_its_precision():
    places = torch.arange(2048, 2060).view(
        2, 6
    )  # of a table that a network looks up; float16 has even numbers alone there
    weights = safetensors.torch.save({"large": torch.full((2, 2), 1e6), "small": torch.ones(2, 2), "places": places})
    state = safetensors.torch.load(release_file.halved(weights))
    assert state["large"].dtype == torch.float32 and state["small"].dtype == torch.float16
    assert state["places"].tolist() == places.tolist()


def _changed(data: bytes, **said) -> bytes:
    """The file with other values beside its description."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    values = json.loads(header["__metadata__"]["maskmill"]) | said
    header["__metadata__"]["maskmill"] = json.dumps(values)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda data: data[:-100], r"bytes, and its header says \d+; the copy was broken off: copy it again"),
        (lambda data: data[:1000], "not a readable safetensors file; copy it again"),
        (lambda data: b"", "not a readable safetensors file; copy it again"),
        (lambda data: b"\xff" * 5000, "not a readable safetensors file; copy it again"),
        (lambda data: data[:-3] + b"abc", "its weights have sha256 .* the file is damaged: copy it again"),
        (lambda data: release_file.without_metadata(data), "a file of weights alone.*import-weights"),
        (lambda data: _changed(data, release=2), "release format 2, this version reads 1; use the version"),
        (lambda data: _changed(data, checkpoint={"format": 9}), "format 9, this version reads 1"),
        (lambda data: _changed(data, checkpoint=[]), "not a readable safetensors file"),
        (lambda data: None, "no such file; give what `maskmill release` wrote"),
    ],
)  # fmt: skip
def test_a_bad_file_is_explained_in_one_sentence(released, tmp_path, spoil, sentence):
    data = spoil(Path(released).read_bytes())
    if data is not None:
        (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=sentence):
        checkpoint.load(str(tmp_path / "bad.safetensors"))


def test_another_ending_is_refused(tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"known by its ending; name it .*model\.bin\.safetensors"):
        release(tiny_checkpoint, str(tmp_path / "model.bin"), None)


def test_a_wrong_key_of_a_card_is_named_with_its_line(tmp_path):
    (tmp_path / "card.yaml").write_text("title: x\nlicense: CC0\n")
    with pytest.raises(ValueError, match=r"card\.yaml:2: license: unknown key.*did you mean .licence"):
        load(ReleaseCard, str(tmp_path / "card.yaml"))


def test_the_commands_write_it_and_describe_it(tiny_checkpoint, tmp_path):
    (tmp_path / "card.yaml").write_text(json.dumps(CARD))
    out = str(tmp_path / "net.safetensors")
    done = maskmill("release", tiny_checkpoint, "--output", out, "--card", str(tmp_path / "card.yaml"))
    assert done.returncode == 0 and "float32" in done.stdout and "the same as the checkpoint" in done.stdout
    told = maskmill("models", out).stdout
    assert checkpoint.load(tiny_checkpoint).sha256 in told
    assert all(words in told for words in ("deeplabv3plus on efficientnet_lite0", "CC0", "mIoU on val 12.5", "64x128"))


def test_it_is_read_from_a_store(s3, tiny_checkpoint, released):
    uri = storage.join(s3, "release/tiny.safetensors")
    storage.put(uri, Path(released).read_bytes())
    assert checkpoint.load(uri).identity == checkpoint.load(tiny_checkpoint).identity
    with pytest.raises(ValueError, match="no such file"):
        checkpoint.load(storage.join(s3, "release/none.safetensors"))


@pytest.mark.slow
def test_a_training_starts_from_it_as_from_the_checkpoint(scenes, tmp_path):
    first = small_train.config(scenes, tmp_path / "first", **small_train.QUICK, epochs=1, workers=1)
    small_train.train_alone(first)
    file = str(tmp_path / "first.safetensors")
    release(f"{first.output}/best", file, None)
    losses = [
        small_train.train_alone(
            small_train.config(scenes, tmp_path / name, **small_train.QUICK, epochs=1, workers=1, start_from=start)
        )
        for name, start in (("folder", f"{first.output}/best"), ("file", file))
    ]
    assert losses[0] == losses[1]


@pytest.fixture(scope="module")
def camvid_network(tmp_path_factory):
    """A release file of a network with other classes than the drawn scenes have, which learnt from small pictures."""
    folder = tmp_path_factory.mktemp("other")
    cfg = UNetConfig.model_validate(small_train.QUICK["model"])
    checkpoint.save(str(folder / "in"), models.build(cfg, 11), cfg, labels.space("camvid11"), {})
    release(
        str(folder / "in"), str(folder / "net.safetensors"), ReleaseCard(image_size=(24, 48), crf={"iterations": 2})
    )
    return str(folder / "net.safetensors")


def test_labels_of_other_classes_are_left_out_and_large_pictures_are_shrunk(scenes, camvid_network, capsys):
    found = contents(camvid_network)
    cfg = CorpusConfig(images=scenes[0], labels=scenes[1], layout="cityscapes")
    corpus, looked = demo_pretrained._with_known_labels(cfg, found)
    assert corpus.labels is None and len(looked.items) == 14 and not looked.labelled
    assert "lack, so there is no IoU" in " ".join(capsys.readouterr().out.split())
    run = demo_pretrained._config(corpus, looked, found, camvid_network, "/unused")
    assert run.predict.scales == (0.375,) and run.crf is not None and run.crf.iterations == 2


def test_labels_of_other_classes_among_the_images_are_told(camvid_network, tmp_path):
    tree, _ = write_corpus(str(tmp_path), {"val": 1}, 64, 128, seed=1, packed=False)
    with pytest.raises(ValueError, match=r"labels lie among the images.*give the folder of the images alone"):
        demo_pretrained._with_known_labels(CorpusConfig(images=tree, layout="cityscapes"), contents(camvid_network))


@pytest.mark.slow
def test_the_demo_segments_labelled_pictures(ray_session, scenes, released, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_pretrained, "this_machine", lambda: demo_pretrained.starter.Machine(1, False))
    demo_pretrained.demo(str(tmp_path), released, *scenes)
    told = capsys.readouterr().out
    assert "verified: 14 images, 14 masks, 0 rejects" in told and "mIoU" in told and "Predicted pixels" in told
    (folder,) = tmp_path.iterdir()
    assert len(list((folder / "pictures").glob("*.jpg"))) == demo_pretrained.PICTURES
    assert (folder / "segment.yaml").exists() and list((folder / "run").glob("report*"))


def test_options_that_need_a_network_are_refused_without(tmp_path):
    done = maskmill("demo", "--images", str(tmp_path))
    assert done.returncode == 1 and "go with --pretrained FILE" in done.stderr
