"""A dry run of infra/kuberay: every overlay is put together as kustomize would, and what comes out obeys the schema."""

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipeline.config import SegmentConfig, load

KUBERAY = Path(__file__).parent.parent / "infra" / "kuberay"
OVERLAYS = sorted(path.name for path in (KUBERAY / "overlays").iterdir())
SCHEMA = yaml.safe_load((KUBERAY / "schema.yaml").read_text())
CHECK = jsonschema.Draft202012Validator(SCHEMA)


def built(folder):
    """The objects that `kubectl kustomize <folder>` prints, for the kustomize features used here; no other is known."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= {
        "apiVersion", "kind", "resources", "patches", "configMapGenerator", "generatorOptions"
    }  # fmt: skip
    objects = []
    for resource in kustomization["resources"]:
        path = folder / resource
        objects += built(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for generator in kustomization.get("configMapGenerator", []):
        assert all((folder / file).is_file() for file in generator["files"])
    for patch in kustomization.get("patches", []):
        (target,) = [
            one for one in objects if patch["target"] == {"kind": one["kind"], "name": one["metadata"]["name"]}
        ]
        for change in yaml.safe_load(patch["patch"]):
            apply(change, target)
    return objects


def apply(change, target):
    """One operation of RFC 6902."""
    *parents, last = change["path"].strip("/").split("/")
    for name in parents:
        target = target[int(name)] if isinstance(target, list) else target[name]
    value = copy.deepcopy(change["value"])
    match change["op"], target:
        case "add", list():
            assert last == "-"
            target.append(value)
        case "replace", dict() if last in target:
            target[last] = value
        case _:
            raise AssertionError(f"{change['op']} {change['path']} does not fit")


def spec_of(objects):
    """The cluster of an overlay: of its RayCluster, or of its RayJob."""
    (ray,) = [one for one in objects if one["kind"] in ("RayCluster", "RayJob")]
    return ray["spec"].get("rayClusterSpec", ray["spec"])


def errors(one):
    """Innermost errors of the branch that is of the object's kind."""
    branch = {**SCHEMA, "oneOf": [{"$ref": f"#/$defs/{one['kind']}"}]}
    found = list(jsonschema.Draft202012Validator(branch).iter_errors(one))
    return [context for error in found for context in error.context or [error]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_builds_obeys_the_schema(overlay):
    for one in built(KUBERAY / "overlays" / overlay):
        assert [f"{'/'.join(map(str, e.path))}: {e.message}" for e in errors(one)] == []
        CHECK.validate(one)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("headGroupSpec/replica", 1, "'replica' was unexpected"),
        ("headGroupSpec/rayStartParams/num-cpus", 0, "0 is not of type 'string'"),
        ("authOptions/mode", "tokens", "'tokens' is not one of"),
        ("workerGroupSpecs/0/minReplicas", "1", "'1' is not of type 'integer'"),
        ("workerGroupSpecs/0/template/spec/containers/0/resource", {}, "'resource' was unexpected"),
        ("workerGroupSpecs/0/template/spec/containers/0/image", "maskmill:latest", "does not match"),
        ("workerGroupSpecs/0/template/spec/containers/0/readinessProbe/httpGet/prot", 1, "'prot' was unexpected"),
        ("gcsFaultToleranceOptions/redisPassword/value", "plain", "'value' was unexpected"),
    ],
)
def test_a_planted_error_is_found(path, value, message):
    (cluster,) = [one for one in built(KUBERAY / "overlays" / "cluster-cpu") if one["kind"] == "RayCluster"]
    *parents, last = path.split("/")
    target = cluster["spec"]
    for name in parents:
        target = target[int(name)] if isinstance(target, list) else target[name]
    target[last] = value
    assert any(message in error.message for error in errors(cluster))
    assert not CHECK.is_valid(cluster)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_head_does_no_work_and_every_pod_reads_its_secrets_by_reference(overlay):
    spec = spec_of(built(KUBERAY / "overlays" / overlay))
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["autoscalerOptions"]["version"] == "v2"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "maskmill-store"}}]
        assert "env" not in container
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in group["template"]["spec"]["volumes"]}


def test_the_job_is_the_same_cluster_without_what_only_a_lasting_one_needs():
    for kind in ("cpu", "gpu"):
        cluster = spec_of(built(KUBERAY / "overlays" / f"cluster-{kind}"))
        job = spec_of(built(KUBERAY / "overlays" / f"job-{kind}"))
        del cluster["gcsFaultToleranceOptions"]
        pod = job["headGroupSpec"]["template"]["spec"]
        assert pod["containers"][0]["volumeMounts"].pop() == {"name": "config", "mountPath": "/etc/maskmill"}
        assert pod["volumes"].pop() == {"name": "config", "configMap": {"name": "maskmill-config"}}
        assert job == cluster


def test_the_gpu_overlay_asks_for_gpus_and_the_cpu_overlay_does_not():
    asked = {
        overlay: [
            group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
            for group in spec_of(built(KUBERAY / "overlays" / overlay))["workerGroupSpecs"]
        ]
        for overlay in OVERLAYS
    }
    assert asked == {"cluster-cpu": [None], "cluster-gpu": [None, "1"], "job-cpu": [None], "job-gpu": [None, "1"]}


@pytest.mark.parametrize(("overlay", "device"), [("job-cpu", "--set gpus_per_actor=0 "), ("job-gpu", "")])
def test_a_retry_of_the_job_resumes_and_a_run_with_rejects_is_not_retried(overlay, device):
    (job,) = [one for one in built(KUBERAY / "overlays" / overlay) if one["kind"] == "RayJob"]
    assert job["spec"]["backoffLimit"] >= 1
    command = f"python -m jobs.segment /etc/maskmill/config.yaml {device}|| test $? -eq 2"
    assert job["spec"]["entrypoint"] == command


def test_the_jobs_config_is_one_that_the_job_reads():
    assert load(SegmentConfig, str(KUBERAY / "job" / "config.yaml")).output.startswith("s3://")
