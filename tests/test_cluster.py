"""cluster.yaml, as far as it can be checked without a cloud."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from raysr.cluster import choose_accelerator, cpus_for_each

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


def test_nodes_start_ray_with_that_priority_too(config: dict[str, Any]) -> None:
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_worker_niceness=0 ray start" in " ".join(config[commands])


def test_node_settings_are_names_that_ec2_knows(config: dict[str, Any]) -> None:
    known = {"InstanceType", "ImageId", "BlockDeviceMappings", "MetadataOptions", "IamInstanceProfile"}
    for node in config["available_node_types"].values():
        assert set(node["node_config"]) - {"InstanceMarketOptions"} == known
        (disk,) = node["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["Encrypted"] is True
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_nothing_is_open_to_the_world(config: dict[str, Any]) -> None:
    assert "0.0.0.0" not in TEXT
    for rule in config["provider"]["security_group"]["IpPermissions"]:
        assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
        assert all(source["CidrIp"].endswith("/32") for source in rule["IpRanges"])
    (start,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in start


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
