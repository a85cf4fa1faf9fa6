"""The Dockerfiles: what they promise about users, networks and layers, and that their commands exist."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs import markdown
from tests.docs.command_lines import check_command_line
from tests.docs.conftest import ROOT
from tests.docs.markdown import PAGES, blocks

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str


def instructions(path: Path) -> list[Instruction]:
    """The instructions of a Dockerfile. Continued lines are joined, and values of ARG are filled in."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    found, values = [], dict[str, str]()
    for line in filter(None, "\n".join(lines).replace("\\\n", " ").splitlines()):
        name, _, text = line.partition(" ")
        for key, value in values.items():
            text = re.sub(rf"\$(\{{{key}\}}|{key}\b)", lambda _, value=value: value, text)
        if name == "ARG":
            key, _, value = text.partition("=")
            values[key] = shlex.split(value)[0]
        found.append(Instruction(name, text.strip()))
    return found


def texts(path: Path, name: str) -> list[str]:
    return [instruction.text for instruction in instructions(path) if instruction.name == name]


def test_there_is_one_for_each_kind() -> None:
    assert [path.name for path in DOCKERFILES] == ["cpu.Dockerfile", "cuda.Dockerfile", "triton.Dockerfile"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=markdown.name)
def test_container_runs_as_a_user_without_rights(path: Path) -> None:
    found = instructions(path)
    last_user = max(i for i, instruction in enumerate(found) if instruction.name == "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", found[last_user].text)  # numbers: Kubernetes cannot judge names
    assert "RUN" not in {instruction.name for instruction in found[last_user:]}  # files of the image belong to root


@pytest.mark.parametrize("path", DOCKERFILES, ids=markdown.name)
def test_base_images_have_a_tag_with_a_version(path: Path) -> None:
    for text in texts(path, "FROM"):
        assert re.fullmatch(r"[\w./-]+:[\d.]+-[\w-]+( AS \w+)?", text)


@pytest.mark.parametrize("path", DOCKERFILES, ids=markdown.name)
def test_nothing_is_added_from_the_network_but_packages(path: Path) -> None:
    assert texts(path, "ADD") == []
    assert not [text for text in texts(path, "RUN") if re.search(r"https?://|\b(curl|wget|git)\b", text)]


@pytest.mark.parametrize("path", DOCKERFILES, ids=markdown.name)
def test_process_1_gets_the_signals(path: Path) -> None:
    """In the form with brackets no shell stands between the container's signals and the program."""
    for text in (*texts(path, "ENTRYPOINT"), *texts(path, "CMD")):
        assert json.loads(text)


@pytest.mark.parametrize("path", DOCKERFILES, ids=markdown.name)
def test_dependencies_are_a_layer_below_the_source(path: Path) -> None:
    copies = [text for text in texts(path, "COPY") if not text.startswith("--from")]
    assert copies == ["pyproject.toml ./", ". ./"]
    (dependencies,) = (text for text in texts(path, "RUN") if "-r pyproject.toml" in text)
    extras = set(re.findall(r"--extra \"?([\w-]+)", dependencies))
    assert extras <= set(PROJECT["optional-dependencies"])
    assert not extras & {"dev", "docs", "train", "bench"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=markdown.name)
def test_commands_exist(path: Path) -> None:
    (health,) = texts(path, "HEALTHCHECK")
    check = json.loads(health[health.index("CMD ") + 4 :])
    lines = [line for text in texts(path, "RUN") for line in text.split(" && ")]
    lines += check[2].split(" && ") if check[0] == "sh" else [shlex.join(check)]
    commands = [words[1:] for words in map(shlex.split, lines) if words[0] == "esam-rt"]
    for words in commands:
        check_command_line(words)
    assert ["compile-kernels", "--quiet"] in commands
    assert ["doctor"] in commands or "localhost:8000/v2/health/ready" in check


def test_context_holds_what_the_wheel_is_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    taken = {line[1:] for line in lines if line.startswith("!")}
    license_files = set(PROJECT["license-files"])
    assert taken == {"pyproject.toml", PROJECT["readme"], "esam_rt", "export", "engines"} | license_files
    assert all((ROOT / name).exists() for name in taken)
    assert lines[lines.index("*") + 1] in {f"!{name}" for name in taken}  # all else is left out first


BUILDS = [
    pytest.param(shlex.split(line, comments=True), id=f"{markdown.name(page)}: {line[:60]}")
    for page in PAGES
    for block in blocks(page, "")
    for line in block.text.replace("\\\n", " ").splitlines()
    if line.startswith("docker build ")
]


@pytest.mark.parametrize("words", BUILDS)
def test_documented_builds_fit_the_files(words: list[str]) -> None:
    path = ROOT / words[words.index("-f") + 1]
    assert path in DOCKERFILES
    given = dict(words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "--build-arg")
    assert set(given) <= {text.partition("=")[0] for text in texts(path, "ARG")}
    if "PREPARE" in given:
        check_command_line(shlex.split(given["PREPARE"]))
    if "EXTRA" in given:
        assert given["EXTRA"] in PROJECT["optional-dependencies"]


def test_every_file_has_a_documented_build() -> None:
    assert {words.values[0][words.values[0].index("-f") + 1] for words in BUILDS} == {  # type: ignore[index, union-attr]
        path.relative_to(ROOT).as_posix() for path in DOCKERFILES
    }
