"""ONNX Runtime does not report its use: no device identity appears under the home folder."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from esam_rt.loading.doctor import diagnose
from esam_rt.engines.onnxruntime.providers import import_onnxruntime
import_onnxruntime("cpu").InferenceSession
print(*[f.found for f in diagnose().findings if f.name == "onnxruntime"])
"""


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_onnxruntime_is_imported_in_its_package_only() -> None:
    """The package turns telemetry off before the import."""
    places = [p for wing in ("esam_rt", "engines", "export") for p in (ROOT / wing).rglob("*.py")]
    outside = [p for p in places if "onnxruntime" in imports_of(p) and p.parent.name != "onnxruntime"]
    assert outside == []


@pytest.mark.parametrize(("given", "state"), [(None, "off"), ("0", "on")])
def test_no_identity_is_written(tmp_path: Path, given: str | None, state: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    environment |= {"HOME": str(tmp_path), "ESAM_RT_CACHE": str(tmp_path / "esam")}
    if given is not None:
        environment["ORT_DISABLE_TELEMETRY"] = given
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"telemetry {state}" in done.stdout
    written = [p for p in tmp_path.rglob("*") if "Microsoft" in p.parts]
    assert state == "on" or written == []
