"""What deploys and watches a server: manifests by Kubernetes' schemas, queries by what exists."""

import json
import re
import shlex

import kubernetes_validate
import pytest
import yaml

from llmkg_lab.base import paths
from llmkg_lab.cli.application import app
from llmkg_lab.serve.metrics import Metrics

DEPLOY = paths.ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
NAME = re.compile(r"\b(?:vllm:|llmkg_)\w+")


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


KINDS = {d["kind"]: d for path in MANIFESTS for d in documents(path)}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_are_what_kubernetes_takes(path):
    for document in documents(path):
        if document["kind"] == "Kustomization":
            named = {DEPLOY / "kubernetes" / name for name in document["resources"]}
            assert named | {path} == set(MANIFESTS)
        else:
            kubernetes_validate.validate(document, "1.31", strict=True)


def test_a_wrong_manifest_would_be_found():
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(KINDS["Service"] | {"spec": {"ports": "80"}}, "1.31")


def test_manifests_fit_each_other():
    deployment, service = KINDS["Deployment"]["spec"], KINDS["Service"]["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    labels = deployment["template"]["metadata"]["labels"].items()
    for selector in (service["selector"], deployment["selector"]["matchLabels"],
                     KINDS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]):  # fmt: skip
        assert selector.items() <= labels
    assert service["ports"][0]["targetPort"] in [port["name"] for port in container["ports"]]
    mounted = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert set(mounted) == {v["name"] for v in deployment["template"]["spec"]["volumes"]}
    assert mounted["artifacts"]["readOnly"]
    assert KINDS["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadOnlyMany"]
    wait = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    arguments = container["args"]
    grace = int(arguments[arguments.index("--grace") + 1])
    assert wait > grace + container["lifecycle"]["preStop"]["sleep"]["seconds"] + 5


def test_commands_have_the_options_that_are_used():
    (container,) = KINDS["Deployment"]["spec"]["template"]["spec"]["containers"]
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    (command,) = [json.loads(line.removeprefix("CMD ")) for line in lines if line[:4] == "CMD "]
    (serve,) = [c for c in app.registered_commands if c.callback.__name__ == "serve"]
    taken = set(serve.callback.__annotations__)
    for arguments in (container["args"], command):
        assert arguments[0] == "serve"
        options = {a[2:].replace("-", "_") for a in arguments if a.startswith("--")}
        assert options <= taken


def test_the_image_is_made_of_what_exists():
    """Docker itself is not asked: docs/guide/serving.md says what was run."""
    sent = [line[1:] for line in (paths.ROOT / ".dockerignore").read_text().splitlines()
            if line.startswith("!")]  # fmt: skip
    copied = []
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied += shlex.split(line)[1:-1]
    assert set(copied) == set(sent)
    assert all((paths.ROOT / name).exists() for name in copied)


def queries():
    board = json.loads((DEPLOY / "grafana" / "llmkg-lab.json").read_text())
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (v["query"]["query"] for v in board["templating"]["list"] if v["name"] == "model")
    (rule,) = yaml.safe_load((DEPLOY / "prometheus" / "adapter.yaml").read_text())["rules"]
    yield rule["seriesQuery"]
    asked = KINDS["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert rule["name"]["as"] == asked


def test_every_query_names_metrics_that_exist():
    there = Metrics().names()
    for query in queries():
        named = NAME.findall(query)
        assert named
        assert set(named) <= there, query
        assert query.count("(") == query.count(")")
    watched = {name for query in queries() for name in NAME.findall(query)}
    assert len(watched) > 15
