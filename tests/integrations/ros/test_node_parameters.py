"""Parameters of the ROS 2 node."""

from __future__ import annotations

import pytest

from esam_rt.errors import SettingsError
from esam_rt.integrations.ros.node_parameters import NodeParameters
from esam_rt.settings import Settings


def test_defaults_make_a_segmenter() -> None:
    parameters = NodeParameters.of(NodeParameters.defaults())
    assert parameters == NodeParameters()
    config = parameters.segmenter_config()
    assert (config.model, config.checkpoint) == ("tiny", None)
    assert config.settings == Settings.preset("fast")
    assert (config.execution.device, config.execution.threads) == ("cpu", None)
    assert parameters.deadline_s is None


def test_settings_and_options_are_passed_on() -> None:
    parameters = NodeParameters.of(
        {
            "settings.emr.delta": 0.1,
            "settings.prompts.coarse_side": 4,
            "threads": 1,
            "deadline_ms": 100.0,
            "use_sim_time": True,
            "qos_overrides./esam_rt/entities.publisher.depth": 1,
        }
    )
    config = parameters.segmenter_config()
    assert (config.settings.emr.delta, config.settings.prompts.coarse_side) == (0.1, 4)
    assert config.settings.prompts.fine_side == 32  # of the preset
    assert config.execution.threads == 1 and parameters.deadline_s == 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"policies": "latest"}, "Unknown parameter 'policies'.*policy"),
        ({"policy": "newest"}, "policy: unknown 'newest'"),
        ({"image_transport": "theora"}, "image_transport: unknown 'theora'"),
        ({"depth": 0}, "depth: found 0, expected 1"),
        ({"deadline_ms": -1.0}, "deadline_ms: found -1.0"),
        ({"warm_up_hw": [480]}, r"warm_up_hw: found \[480\]"),
        ({"settings.emr.dleta": 0.1}, "Unknown setting 'emr.dleta'.*emr.delta"),
        ({"backend": "torch"}, "Unknown backend 'torch'"),
        ({"preset": "slow"}, "Unknown preset 'slow'"),
    ],
)
def test_wrong_parameters_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        NodeParameters.of(values).segmenter_config()
