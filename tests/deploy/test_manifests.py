"""The Kubernetes manifests against the schemas, and the script that makes TF_CONFIG."""

import json
import os
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from conftest import ROOT

MANIFESTS = sorted((ROOT / "deploy").glob("*.yaml"))
VERSIONS = ["1.30", kubernetes_validate.latest_version()]


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def find(kind):
    (found,) = (d for path in MANIFESTS for d in documents(path) if d["kind"] == kind)
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_fit_the_schemas(path, version):
    assert documents(path)
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_are_strict():
    job = find("Job")
    job["spec"]["completionmode"] = "Indexed"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[0], strict=True)


def test_the_network_lets_in_the_job_alone():
    policy, job = find("NetworkPolicy")["spec"], find("Job")
    pods = {"matchLabels": {"job-name": job["metadata"]["name"]}}
    assert policy["podSelector"] == pods
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"from": [{"podSelector": pods}]}]


def test_names_agree():
    job, template = find("Job"), find("Job")["spec"]["template"]["spec"]
    services = {
        document["metadata"]["name"]: document["spec"]
        for path in MANIFESTS
        for document in documents(path)
        if document["kind"] == "Service"
    }
    headless = services[template["subdomain"]]
    assert headless["clusterIP"] == "None"
    assert headless["selector"] == {"job-name": job["metadata"]["name"]}
    (container,) = template["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    workers = int(environment["WORKERS"])
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == workers
    claim = find("PersistentVolumeClaim")["metadata"]["name"]
    deployment = find("Deployment")["spec"]["template"]
    for volume in (*template["volumes"], *deployment["spec"]["volumes"]):
        assert (
            volume.get("persistentVolumeClaim", {"claimName": claim})["claimName"]
            == claim
        )
    selector = services[find("Deployment")["metadata"]["name"]]["selector"]
    assert selector.items() <= deployment["metadata"]["labels"].items()


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_script_makes_tf_config_from_the_index_of_the_pod(tmp_path, interrupted):
    script = find("ConfigMap")["data"]["train.sh"].replace("/models/", f"{tmp_path}/")
    if interrupted:
        Path("runs/lenet").mkdir(parents=True)
        Path("runs/lenet/config.json").touch()
    Path("python").write_text('#!/bin/sh\necho "$TF_CONFIG"\necho "$@"\n')
    Path("python").chmod(0o755)
    configs = []
    for index in range(3):
        finished = subprocess.run(
            ["sh", "-c", script],
            env={
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "WORKERS": "3",
                "JOB_COMPLETION_INDEX": str(index),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        config, arguments = finished.stdout.splitlines()
        configs.append(json.loads(config))
        assert arguments.startswith("-m recipes.lenet --strategy multi_worker --out ")
        assert arguments.endswith(" --resume") == interrupted
    addresses = [f"lenet-{index}.lenet:2222" for index in range(3)]
    assert configs == [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        for index in range(3)
    ]
