"""What is sent to a cluster, under which id, and which clusters are refused; test_cluster.py tests a real cluster."""

import json
import shlex
import shutil
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from pipeline.cluster import jobs, submit
from pipeline.errors import UserError
from pipeline.models import checkpoint
from pipeline.models.release import release
from pipeline.train import run_folder
from tests.cluster_configs import segment_values
from tests.small_train import config as config_of_training


@pytest.fixture
def config(tmp_path):
    """Path of a segment config whose data lies in a store."""
    return written(tmp_path / "segment.yaml", segment_values("s3://bucket"))


def written(path, values):
    path.write_text(yaml.safe_dump(values))
    return str(path)


@contextmanager
def server(status):
    """URL of a server that answers every request with a status."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments):
            """Silent."""

    with HTTPServer(("127.0.0.1", 0), Answer) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_the_id_follows_from_the_output_and_not_from_the_machines(config):
    first = submit.prepare("segment", config, None)
    machines = submit.prepare("segment", config, ["actors=64", "gpus_per_actor=1", "batch_size=4"])
    other_model = submit.prepare("segment", config, ["checkpoint=s3://bucket/other"])
    other_output = submit.prepare("segment", config, ["output=s3://bucket/elsewhere"])
    assert (machines.id, machines.digest) == (first.id, first.digest)
    assert other_model.id == first.id
    assert other_model.digest != first.digest
    assert other_output.id != first.id


def test_a_path_of_this_machine_is_refused_and_a_mounted_folder_is_said_so(config):
    with pytest.raises(ValueError, match=r"output is /.*runs/here, a path of this machine; .* file:///"):
        submit.prepare("segment", config, ["output=runs/here"])
    assert submit.prepare("segment", config, ["output=file:///mnt/all/run"]).config["output"] == "file:///mnt/all/run"


def test_a_checkpoint_of_this_machine_travels(config, tmp_path, tiny_checkpoint):
    file = tmp_path / "tiny.safetensors"
    release(tiny_checkpoint, str(file), None)
    job = submit.prepare("segment", config, [f"checkpoint={file}", f"ensemble=[{tiny_checkpoint},s3://bucket/m]"])
    one, (two, stored) = job.config["checkpoint"], job.config["ensemble"]
    assert one.startswith("checkpoints/") and one.endswith("-tiny.safetensors") and stored == "s3://bucket/m"
    folder = tmp_path / "package"
    folder.mkdir()
    submit.pack(job, folder)
    assert (folder / one).read_bytes() == file.read_bytes()
    assert {path.name for path in (folder / two).iterdir()} == {path.name for path in Path(tiny_checkpoint).iterdir()}
    file.write_bytes(file.read_bytes()[:-1])
    assert submit.prepare("segment", config, [f"checkpoint={file}"]).config["checkpoint"] != one


def test_what_travelled_is_found_where_a_node_unpacked_it(tmp_path, monkeypatch, tiny_checkpoint):
    """The driver's address of it means nothing on another node."""
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoints" / "0123456789ab-best")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert (
        checkpoint.load("/another/node/checkpoints/0123456789ab-best").sha256 == checkpoint.load(tiny_checkpoint).sha256
    )


def test_a_checkpoint_that_is_missing_is_not_replaced_by_one_of_its_name(tmp_path, monkeypatch, tiny_checkpoint):
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoints" / "best")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"no checkpoint\.json there"):
        checkpoint.load("/runs/typo/best")


def test_a_training_goes_on_in_a_job_that_was_unpacked_elsewhere(tmp_path, scenes):
    for place in ("one", "two"):
        run_folder.claim(
            config_of_training(scenes, tmp_path / "out", start_from=f"/ray/{place}/checkpoints/0123456789ab-best")
        )
    with pytest.raises(UserError, match="start_from"):
        run_folder.claim(
            config_of_training(scenes, tmp_path / "out", start_from="/ray/two/checkpoints/ba9876543210-best")
        )


def test_the_start_of_a_training_travels(tmp_path, tiny_checkpoint):
    values = {"corpus": segment_values("s3://bucket")["corpus"], "label_space": "cityscapes19", "output": "s3://bucket/train",
              "start_from": tiny_checkpoint}  # fmt: skip
    job = submit.prepare("train", written(tmp_path / "train.yaml", values), None)
    assert list(job.checkpoints.values()) == [Path(tiny_checkpoint)]
    assert job.config["start_from"] == f"checkpoints/{next(iter(job.checkpoints))}"


def test_code_that_lies_in_the_checkpoint_is_no_folder_that_travels(config):
    assert submit.prepare("segment", config, ["code=trusted"]).config["code"] == "trusted"


@pytest.mark.scorecard("security", 7)
def test_code_and_the_resolved_config_travel_and_no_secret_does(config, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret-value")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary-token-value")
    job = submit.prepare("segment", config, ["actors=3"])
    folder = tmp_path / "package"
    folder.mkdir()
    size = submit.pack(job, folder)
    assert {path.name for path in folder.iterdir()} == {"pipeline", "config.yaml"}
    assert yaml.safe_load((folder / "config.yaml").read_text())["actors"] == 3
    assert size < 3_000_000  # the source alone, 2 MB now: no data
    texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(b"canary-" in text for text in [*texts, job.command.encode()])


@pytest.mark.scorecard("security", 7)
def test_the_job_server_is_told_of_the_package_and_the_run_and_of_no_environment(config, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret-value")
    job = submit.prepare("segment", config, None)
    assert submit.request(job, job.id, "/package") == {
        "submission_id": job.id,
        "entrypoint": "python -m pipeline segment config.yaml",
        "runtime_env": {"working_dir": "/package"},
        "metadata": {"output": "s3://bucket/run", "config": job.digest},
    }


@pytest.mark.scorecard("security", 7)
def test_a_config_that_holds_a_secret_of_the_environment_is_refused(config, monkeypatch):
    monkeypatch.setenv("STORE_PASSWORD", "hunter2hunter2")
    with pytest.raises(ValueError, match="holds the value of STORE_PASSWORD"):
        submit.prepare("segment", config, ["output=s3://bucket/hunter2hunter2/run"])


def runtime_env(folder, text):
    (folder / "env.yaml").write_text(text)
    return str(folder / "env.yaml")


def test_a_runtime_environment_is_sent_beside_the_package(config, tmp_path):
    (tmp_path / "requirements.txt").write_text("rasterio==1.4.3\ntimm\n")
    path = runtime_env(tmp_path, f"pip: {tmp_path}/requirements.txt\nenv_vars: {{OMP_NUM_THREADS: '2'}}\n")
    job = submit.prepare("segment", config, None, path)
    sent = submit.request(job, job.id, "/package")["runtime_env"]
    assert sent["working_dir"] == "/package"
    assert sent["env_vars"] == {"OMP_NUM_THREADS": "2"}
    assert sent["pip"]["packages"] == ["rasterio==1.4.3", "timm"]  # the file itself does not travel
    assert (job.id, job.digest) == (
        submit.prepare("segment", config, None).id,
        submit.prepare("segment", config, None).digest,
    )
    line = shlex.split(submit.plain_line(job, "http://host:8265", job.id))
    told = json.loads(line[line.index("--runtime-env-json") + 1])
    assert told["pip"] == sent["pip"] and told["py_modules"] == [str(submit.PACKAGE)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("working_dir: .", "working_dir is set by the submit itself"),
        ("image_uri: rayproject/ray:2.60.0", "Ray takes image_uri only without a folder of code"),
        ("pips: [timm]", "no key 'pips'; it may have pip, uv, conda"),
        ("pip: [timm]\nuv: [timm]", "cannot be specified at the same time"),
        ("- timm", "expected a mapping with keys among pip, uv"),
        ("pip: [", "cannot be read"),
        ("env_vars: [A]", "env_vars is a mapping"),
        ("env_vars: {A: 2}", "env_vars"),
    ],
)
def test_a_runtime_environment_that_cannot_be_is_refused(config, tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence):
        submit.prepare("segment", config, None, runtime_env(tmp_path, text))
    with pytest.raises(UserError, match="cannot be read"):
        submit.prepare("segment", config, None, str(tmp_path / "none.yaml"))


@pytest.mark.scorecard("security", 7)
@pytest.mark.parametrize(
    "text", ["env_vars: {AWS_SECRET_ACCESS_KEY: abcdefgh}", "env_vars: {HARMLESS: x-hunter2hunter2}"]
)
def test_a_runtime_environment_with_a_secret_is_refused(config, tmp_path, monkeypatch, text):
    monkeypatch.setenv("STORE_PASSWORD", "hunter2hunter2")
    with pytest.raises(UserError, match="the job server shows its jobs' environments"):
        submit.prepare("segment", config, None, runtime_env(tmp_path, text))


def test_a_package_over_the_limit_is_refused_and_names_the_largest_file(config, tmp_path, monkeypatch):
    monkeypatch.setattr(submit, "MAX_BYTES", 10_000)
    folder = tmp_path / "package"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"the largest file is pipeline/.*: move data out"):
        submit.pack(submit.prepare("segment", config, None), folder)


def test_a_checkpoint_over_the_limit_is_refused_before_it_is_read(config, tmp_path):
    file = tmp_path / "large.safetensors"
    with file.open("wb") as data:
        data.truncate(submit.MAX_BYTES + 1)  # takes no space
    with pytest.raises(UserError, match=r"large\.safetensors is 100 MB, and a job takes at most 100 MB along; copy it"):
        submit.prepare("segment", config, [f"ensemble=[{file}]"])


@pytest.mark.scorecard("security", 1)
def test_a_cluster_without_a_token_is_refused():
    with server(200) as address, pytest.raises(ValueError, match=r"answers without a token.*--insecure"):
        jobs.connect(address)


def test_a_cluster_with_a_token_is_not_asked_without_one(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with server(401) as address, pytest.raises(ValueError, match=r"asks for a token.*RAY_AUTH_TOKEN"):
        jobs.connect(address)


@pytest.mark.parametrize("address", ["ray://host:10001", "host:8265", "http://"])
def test_an_address_that_is_no_dashboard_is_refused(address):
    with pytest.raises(ValueError, match="expected the cluster's dashboard"):
        jobs.connect(address)


def test_nobody_answers():
    with pytest.raises(ValueError, match="no answer"):
        jobs.connect("http://127.0.0.1:9")


def test_the_plain_line_is_one_shell_command(config):
    job = submit.prepare("segment", config, ["split=a b"])
    line = submit.plain_line(job, "http://host:8265", job.id)
    assert line.startswith(f"ray job submit --address http://host:8265 --submission-id {job.id} --working-dir . ")
    assert line.endswith("--set 'split=a b'")


@pytest.mark.parametrize("insecure", [False, True])
def test_a_server_that_is_no_dashboard_is_told_so(insecure):
    with (
        server(404) as address,
        pytest.raises(UserError, match="answers with HTTP status 404, so it is not the dashboard"),
    ):
        jobs.connect(address, insecure)
    with socket.create_server(("127.0.0.1", 0)) as redis:
        thread = threading.Thread(target=lambda: redis.accept()[0].sendall(b"-ERR wrong number of arguments\r\n"))
        thread.start()
        with pytest.raises(UserError, match="it does not speak HTTP as a dashboard does"):
            jobs.connect(f"http://127.0.0.1:{redis.getsockname()[1]}", insecure)
        thread.join()
    with pytest.raises(UserError, match="nonnumeric port: 'PORT'"):
        jobs.connect("http://127.0.0.1:PORT", insecure)
