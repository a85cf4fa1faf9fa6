"""Does the repository of `esam-rt export-triton` work in a real Triton server, with the answers of the library?

    pip download --no-deps nvidia-pytriton; unzip nvidia_pytriton-*.whl -d SERVER     # brings tritonserver
    python -m venv V; V/bin/pip install 'numpy<2' '.[cpu]' 'tritonclient[grpc]'
    V/bin/python -m benchmarks.triton_server SERVER --json triton_server.json

This server has the Python backend alone. The networks are served by Python models that run ONNX Runtime, with the
tensors of their configs; all else is the repository as exported. The server's Python needs NumPy 1: this version was
built for it, and gives empty outputs with NumPy 2. Photos come from scikit-image.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import skimage.data
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from benchmarks.lib.command_line import note, parser_of
from esam_rt import EntitySegmenter, SegmenterConfig, Settings
from esam_rt.integrations.triton.model_config import OUTPUTS
from esam_rt.integrations.triton.model_repository import export_repository
from esam_rt.storage.atomic import write_json

PHOTOS = ("astronaut", "chelsea", "coffee")
READY_S = 120
NETWORK = """
import json
from pathlib import Path

import onnxruntime
import triton_python_backend_utils as server


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.session = onnxruntime.InferenceSession(next(folder.glob("*.onnx")))

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        feed = {name: server.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        names = request.requested_output_names()
        arrays = self.session.run(names, feed)
        return server.InferenceResponse([server.Tensor(name, array) for name, array in zip(names, arrays)])
"""


def serve_networks_in_python(repository: Path, names: tuple[str, ...]) -> None:
    """Replace the backend that the server lacks."""
    for name in names:
        config = repository / name / "config.pbtxt"
        text = config.read_text().replace('backend: "onnxruntime"', 'backend: "python"')
        config.write_text(re.sub(r"default_model_filename: .*\n", "", text))
        (repository / name / "1" / "model.py").write_text(NETWORK)


@contextmanager
def running(folder: Path, repository: Path, log: Path) -> Iterator[InferenceServerClient]:
    """Start the server, wait until all models are ready, and end it."""
    home = folder / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = shutil.copy(home / "python_backend_stubs" / version / "triton_python_backend_stub", home / "backends/python")
    server = home / "bin" / "tritonserver"
    for program in (Path(stub), server):
        program.chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    libraries = [sysconfig.get_config_var("LIBDIR"), str(folder / "nvidia_pytriton.libs")]
    command = [server, f"--model-repository={repository}", f"--backend-directory={home / 'backends'}"]
    command += [f"--grpc-port={port}", "--allow-http=false", "--allow-metrics=false"]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONHOME": sys.base_prefix,
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        client = InferenceServerClient(f"localhost:{port}")
        end = time.monotonic() + READY_S
        while not _is_ready(client):
            if process.poll() is not None or time.monotonic() > end:
                errors = [line for line in log.read_text().splitlines() if line.startswith("E") or "Error" in line]
                raise SystemExit("\n".join(["The server is not ready:", *errors]))
            time.sleep(0.2)
        yield client
        client.close()
    finally:
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_ready(client: InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready())
    except InferenceServerException:
        return False


def ask(client: InferenceServerClient, name: str, image: np.ndarray) -> dict[str, np.ndarray]:
    asked = InferInput("image", image.shape, "UINT8")
    asked.set_data_from_numpy(image)
    answer = client.infer(name, [asked], outputs=[InferRequestedOutput(output) for output in OUTPUTS])
    return {output: answer.as_numpy(output) for output in OUTPUTS}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("server", type=Path, help="folder of the unpacked wheel nvidia-pytriton")
    a = parser.parse_args()
    config = SegmenterConfig(settings=Settings.preset("fast"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        exported = export_repository(config, Path(folder) / "models")
        serve_networks_in_python(exported.path, exported.graph_names)
        with (
            running(a.server.resolve(), exported.path, Path(folder) / "log") as client,
            EntitySegmenter(settings=config.settings) as segment,
        ):
            ready = [name for name in (exported.name, *exported.graph_names) if client.is_model_ready(name)]
            note(f"ready: {', '.join(ready)}")
            for name in PHOTOS:
                image = np.ascontiguousarray(getattr(skimage.data, name)())
                expected, found = segment(image), ask(client, exported.name, image)
                names = ("labels", "score", "box_xyxy", "area")
                same = [n for n in names if found[n].tobytes() == getattr(expected, n).tobytes()]
                counts = [entity["segmentation"]["counts"] for entity in expected.to_coco()]
                if [c.decode() for c in found["rle"]] == counts:
                    same.append("rle")
                rows.append({"photo": name, "entities": len(expected), "same_bytes": same})
                note(f"{name}: {len(expected)} entities, the same to the byte: {', '.join(same)}")
            try:
                ask(client, exported.name, np.zeros((8, 8, 4), np.uint8))
                refused = "an image of four channels was taken"
            except InferenceServerException as e:
                refused = str(e)
            note(f"four channels: {refused}")
            version = client.get_server_metadata().version
    if a.json is not None:
        write_json(a.json, {"server": version, "ready": ready, "photos": rows, "four_channels": refused})


if __name__ == "__main__":
    main()
