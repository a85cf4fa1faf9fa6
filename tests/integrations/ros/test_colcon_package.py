"""The colcon package around the node: its files name what exists."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from ruamel.yaml import YAML

from esam_rt import __version__
from esam_rt.integrations import ros
from esam_rt.integrations.ros.node_parameters import NodeParameters

FOLDER = Path(ros.__file__).parent / "esam_rt_ros"


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py passes to setuptools."""
    passed: dict[str, Any] = {}
    stand_in = ModuleType("setuptools")
    vars(stand_in)["setup"] = lambda **options: passed.update(options)
    monkeypatch.setitem(sys.modules, "setuptools", stand_in)
    runpy.run_path(str(FOLDER / "setup.py"))
    return passed


def test_its_version_is_that_of_the_project(setup: dict[str, Any]) -> None:
    package = ElementTree.parse(FOLDER / "package.xml").getroot()
    assert package.findtext("version") == setup["version"] == __version__
    assert package.findtext("name") == setup["name"] == "esam_rt_ros"
    assert package.findtext("export/build_type") == "ament_python"


def test_every_file_is_installed(setup: dict[str, Any]) -> None:
    installed = {name for _, names in setup["data_files"] for name in names}
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} == installed | {"setup.py", "setup.cfg"}


def test_it_depends_on_what_the_node_imports() -> None:
    package = ElementTree.parse(FOLDER / "package.xml").getroot()
    stated = {element.text for element in package.findall("exec_depend")}
    tree = ast.parse((FOLDER.parent / "entity_node.py").read_text())
    imported = {
        node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
    }
    used = {name for name in imported if name in ("rclpy", "std_srvs")}
    assert used | {"sensor_msgs", "vision_msgs", "diagnostic_msgs"} <= stated


def test_the_command_exists(setup: dict[str, Any]) -> None:
    (command,) = setup["entry_points"]["console_scripts"]
    name, _, target = command.partition(" = ")
    module, _, function = target.partition(":")
    path = FOLDER.parent / f"{module.rpartition('.')[2]}.py"
    assert function in {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    launch = ElementTree.parse(FOLDER / "launch" / "esam.launch.xml").getroot()
    node = launch.find("node")
    assert node is not None and (node.get("pkg"), node.get("exec"), node.get("name")) == (
        setup["name"],
        name,
        "esam_rt",
    )
    arguments = {element.get("name") for element in launch.findall("arg")}
    used = {value for element in node for value in element.attrib.values() if "$(var" in value}
    assert all(value[len("$(var ") : value.index(")")] in arguments for value in used)


def test_the_parameters_are_those_of_the_node() -> None:
    given = YAML(typ="safe").load(FOLDER / "config" / "esam.yaml")["/**"]["ros__parameters"]
    defaults = NodeParameters.defaults()
    assert given == defaults | {"autostart": True}
    assert {name: type(value) for name, value in given.items()} == {name: type(v) for name, v in defaults.items()}
    NodeParameters.of(given).segmenter_config()
