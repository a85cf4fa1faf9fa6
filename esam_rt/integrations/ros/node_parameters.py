"""Parameters of the ROS 2 node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from esam_rt.errors import SettingsError, did_you_mean
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.run.drop_policy import POLICIES
from esam_rt.segmenter import SegmenterConfig
from esam_rt.settings import Settings

SETTINGS = "settings."  # settings.emr.delta changes emr.delta
TRANSPORTS = ("raw", "compressed")
_ROS_OWN = ("use_sim_time", "start_type_description_service", "qos_overrides.")


@dataclass(frozen=True)
class NodeParameters:
    """Parameters of the node with their defaults. Empty text and 0 stand for the default of esam-rt.

    Attributes:
        model: A name that ``esam-rt models`` lists.
        checkpoint: Weights in place of the model's own.
        preset: Preset of the settings.
        backend: Library that runs the networks.
        device: Device of the backend.
        threads: CPU threads of one call.
        deadline_ms: Milliseconds that one image may take. 0: no limit.
        policy: ``latest`` segments the newest image, ``every`` keeps up to ``depth`` images that wait.
        depth: Images that wait at most, with ``every``.
        track: Give entities identities.
        publish_overlay: Offer images with the entities drawn over them. They are drawn for subscribers alone.
        image_transport: ``raw`` subscribes to ``image``, ``compressed`` to ``image/compressed``.
        warm_up_hw: Height and width of the images, for the first call.
        enable: False leaves images out.
        build_only: Build the engines, and end.
        autostart: Configure and activate at start.
        settings: Changed settings, such as ``{"emr.delta": 0.1}``. In ROS: ``settings.emr.delta``.

    Raises:
        SettingsError: A number or a name is wrong.
    """

    model: str = "tiny"
    checkpoint: str = ""
    preset: str = "fast"
    backend: str = "onnxruntime"
    device: str = ""
    threads: int = 0
    deadline_ms: float = 0.0
    policy: str = "latest"
    depth: int = 5
    track: bool = True
    publish_overlay: bool = True
    image_transport: str = "raw"
    warm_up_hw: tuple[int, int] = (480, 640)
    enable: bool = True
    build_only: bool = False
    autostart: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("policy", self.policy, POLICIES),
            ("image_transport", self.image_transport, TRANSPORTS),
        ):
            if value not in known:
                raise SettingsError(f"{name}: unknown {value!r}.{did_you_mean(value, known)}")
        for name, number, least in (("depth", self.depth, 1), ("deadline_ms", self.deadline_ms, 0)):
            if not least <= number <= 1e6:
                raise SettingsError(f"{name}: found {number}, expected {least} to 1000000.")
        if len(self.warm_up_hw) != 2 or min(self.warm_up_hw) < 1:
            raise SettingsError(f"warm_up_hw: found {list(self.warm_up_hw)}, expected height and width in pixels.")

    @staticmethod
    def defaults() -> dict[str, Any]:
        """Return the parameters that a node declares, with values as ROS takes them."""
        return {n: list(v) if n == "warm_up_hw" else v for n, v in asdict(NodeParameters()).items() if n != "settings"}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> NodeParameters:
        """Read the parameters of a node.

        Args:
            values: Values by name, such as ``settings.emr.delta``. Parameters of ROS itself are left out.

        Raises:
            SettingsError: A name is unknown, or a value is wrong.
        """
        known = [f.name for f in fields(cls) if f.name != "settings"]
        given: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        for name, value in values.items():
            if name.startswith(SETTINGS):
                settings[name.removeprefix(SETTINGS)] = value
            elif name in known:
                given[name] = tuple(value) if name == "warm_up_hw" else value
            elif not name.startswith(_ROS_OWN):
                raise SettingsError(f"Unknown parameter {name!r}.{did_you_mean(name, known)}")
        return cls(**given, settings=settings)

    @property
    def deadline_s(self) -> float | None:
        """Seconds that one image may take, or None."""
        return self.deadline_ms / 1000 or None

    def segmenter_config(self) -> SegmenterConfig:
        """Return all that makes the segmenter.

        Raises:
            SettingsError: A name or a number is wrong.
        """
        options: dict[str, Any] = {"device": self.device or None, "threads": self.threads or None}
        return SegmenterConfig(
            self.model,
            Path(self.checkpoint) if self.checkpoint else None,
            settings=Settings.preset(self.preset).with_overrides(self.settings),
            execution=ExecutionConfig(backend=self.backend, **options),  # type: ignore[arg-type]  # checked there
        )
