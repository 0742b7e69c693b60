"""Runs on a real head, real worker nodes and a real S3 server: submitted, stopped, killed, resumed, verified."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from pipeline import labels, models, storage
from pipeline.cluster import jobs
from pipeline.cluster import submit as submitting
from pipeline.config import parse_model
from pipeline.models import checkpoint
from pipeline.runs import verify
from tests.chaos.nodes import actors
from tests.cluster_configs import VAL_IMAGES, segment_values, write_configs
from tests.local_cluster import local_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster with two workers, its store's variables exported."""
    with local_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as started:
        yield started


@pytest.fixture(scope="module")
def configs(cluster, tmp_path_factory):
    """Paths of train.yaml and segment.yaml; the corpus lies in the store."""
    return write_configs(tmp_path_factory.mktemp("configs"), cluster.store)


@pytest.fixture(scope="module")
def trained(cluster, configs):
    """What `submit train --follow` printed."""
    with maskmill("submit", "train", configs[0], "--follow", "--address", cluster.address) as command:
        output = command.communicate(timeout=400)[0]
    assert command.returncode == 0, output
    return output


def maskmill(*arguments):
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ray_job(word, name, address):
    """Ray's own command, as `maskmill submit` names it."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", word, name, "--address", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def parts(output):
    return len(storage.list_files(storage.join(output, "masks")))


def wait_for(condition, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
    return found


def test_a_training_job_is_followed_and_leaves_its_checkpoint_in_the_store(cluster, trained):
    assert "by hand:\n  ray job submit --address" in trained
    assert "best mIoU" in trained
    assert checkpoint.load(storage.join(cluster.store, "train/best")).label_space.name == "cityscapes19"


def test_no_secret_is_in_what_the_job_server_knows(cluster, trained):
    client = jobs.connect(cluster.address)
    known = str([details.dict() for details in client.list_jobs()]) + trained
    (job,) = client.list_jobs()
    assert list(job.runtime_env) == ["working_dir"]
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert [secret for secret in (token, os.environ["AWS_SECRET_ACCESS_KEY"]) if secret in known] == []


def test_a_wrong_token_is_refused(cluster, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(ValueError, match="refuses this token"):
        jobs.connect(cluster.address)


@pytest.mark.long
def test_a_network_of_the_users_own_travels_with_its_job(cluster, configs, tmp_path):
    """Its code and its checkpoint are gone from here before the job looks for them."""
    code = tmp_path / "networks"
    code.mkdir()
    (code / "mynet.py").write_text(
        "from torch import nn\n\n\ndef make(num_classes):\n    return nn.Conv2d(3, num_classes, 1)\n"
    )
    cfg = parse_model({"name": "python", "build": "mynet:make", "path": str(code)}, where="test")
    space, model = labels.space("cityscapes19"), str(tmp_path / "model")
    checkpoint.save(model, models.build(cfg, space.num_classes), cfg, space, {})
    output = storage.join(cluster.store, "own/run")
    values = segment_values(cluster.store) | {"checkpoint": model, "code": str(code), "output": output}
    (tmp_path / "segment.yaml").write_text(yaml.safe_dump(values | {"predict": {}, "images_per_shard": 8}))
    client, job = jobs.connect(cluster.address), submitting.prepare("segment", str(tmp_path / "segment.yaml"), None)
    sent = submitting.submit(client, job)
    shutil.rmtree(code)
    shutil.rmtree(model)
    wait_for(lambda: client.get_job_status(sent.id).is_terminal(), 400)
    assert client.get_job_status(sent.id) == "SUCCEEDED", client.get_job_logs(sent.id)
    proof = verify(output)
    assert (proof.images, proof.masks, proof.problems) == (VAL_IMAGES, VAL_IMAGES, [])


def test_a_stopped_run_is_resumed_and_outlives_a_killed_node(cluster, configs, trained):
    address = cluster.address
    client, job = jobs.connect(address), submitting.prepare("segment", configs[1], None)
    output = job.config["output"]
    first = submitting.submit(client, job)
    wait_for(lambda: parts(output) >= 2, 300)
    assert submitting.submit(client, job) == submitting.Submitted(first.id, started=False)
    with pytest.raises(ValueError, match="with another config"):
        submitting.submit(client, submitting.prepare("segment", configs[1], ["images_per_shard=2"]))
    assert ray_job("stop", first.id, address).returncode == 0
    assert client.get_job_status(first.id) == "STOPPED"
    assert jobs.exit_code(client.get_job_info(first.id)) != 0
    assert "segmenting: loading weights" in ray_job("logs", first.id, address).stdout
    committed = parts(output)
    assert 2 <= committed < VAL_IMAGES

    with maskmill("submit", "segment", configs[1], "--follow", "--address", address) as command:
        wait_for(lambda: parts(output) > committed or command.poll() is not None, 300)
        cluster.nodes.remove(next(node for node in cluster.nodes.workers if actors(node)))
        scraped = _metrics_until_end(cluster.metrics_port, command)
        printed = command.communicate()[0]
    assert command.returncode == 0, printed
    assert f"job {first.id}-2: submitted" in printed
    proof = verify(output)
    assert (proof.images, proof.masks, proof.rejects, proof.problems) == (VAL_IMAGES, VAL_IMAGES, 0, [])
    assert {"ray_maskmill_images_planned", "ray_maskmill_images_done"} <= scraped


def _metrics_until_end(port, command, timeout_s=400):
    """Names of the run's series that the head's endpoint showed while the command ran."""
    names, deadline = set(), time.monotonic() + timeout_s
    while command.poll() is None:
        assert time.monotonic() < deadline, "the job does not end"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            names |= set(re.findall(r"^ray_maskmill_[a-z_]+", answer.read().decode(), re.MULTILINE))
        time.sleep(1)
    return names
