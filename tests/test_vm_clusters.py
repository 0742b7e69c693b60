"""A dry run of infra/vm: Ray's own validator reads the launcher's YAML; checks of tokens, spot machines, SkyPilot."""

import os
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

VM = Path(__file__).parent.parent / "infra" / "vm"
CLOUDS = ("aws", "gcp")


def read(name):
    return yaml.safe_load((VM / f"{name}.yaml").read_text())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_rays_own_validator_accepts_it(cloud):
    validate_config(prepare_config(read(cloud)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("max_worker",), 3),
        (("available_node_types", "gpu_spot", "max_workers"), "many"),
        (("docker", "imag"), "maskmill:0.1.0"),
        (("head_node_type",), "nobody"),
    ],
)
def test_a_planted_error_is_found(path, value):
    config = read("aws")
    target = config
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_head_does_no_work_and_workers_are_spot_machines(cloud):
    config = read(cloud)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]
    for name in set(types) - {config["head_node_type"]}:
        node = types[name]["node_config"]
        spot = node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        assert spot or node["scheduling"][0]["provisioningModel"] == "SPOT"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_cluster_asks_for_a_token_and_shows_its_dashboard_to_itself_only(cloud):
    config = read(cloud)
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_skypilot_takes_secrets_by_name_and_runs_a_job_that_exists():
    task = read("skypilot")
    assert set(task["secrets"].values()) == {None}
    assert task["resources"]["use_spot"] is True
    assert os.path.exists(VM.parent.parent / task["envs"]["CONFIG"])
    assert 'python -m jobs.segment "$CONFIG" || test $? -eq 2' in task["run"]
