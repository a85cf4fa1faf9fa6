"""The Triton repository, on a stand-in server that reads its configs by Triton's own protocol buffers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from tritonclient.grpc import model_config_pb2

from esam_rt import EntitySegmenter, ExecutionConfig, Settings
from esam_rt.errors import ModelError, SettingsError
from esam_rt.integrations.triton.model_config import OUTPUTS, graph_config
from esam_rt.integrations.triton.model_repository import export_repository
from esam_rt.integrations.triton.served_model import FILE, ServedModel
from esam_rt.segmenter import SegmenterConfig
from tests.support.triton_server import StandInServer, Tensor, by_name, read_config

SETTINGS = Settings().with_overrides({"prompts.coarse_side": 6, "prompts.fine_side": 12, "emr.delta": 0.07})
CONFIG = SegmenterConfig("tiny", settings=SETTINGS, execution=ExecutionConfig(threads=1))
MOST = [name for name in OUTPUTS if name != "rle"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_repository(CONFIG, tmp_path_factory.mktemp("models")).path


@pytest.fixture
def server(repository: Path) -> Iterator[StandInServer]:
    with StandInServer(repository).serving() as server:
        yield server


def photo(height: int = 90, width: int = 120) -> np.ndarray[Any, Any]:
    image = np.full((height, width, 3), (60, 120, 90), np.uint8)
    image[20:60, 15:50] = (220, 60, 40)
    image[30:80, 70:110] = (40, 60, 220)
    return image


def test_the_answer_is_that_of_the_library(server: StandInServer) -> None:
    image = photo()
    response = server.infer("esam_tiny", [Tensor("image", image)], list(OUTPUTS))
    assert not response.has_error()
    found = {name: by_name(response.output_tensors, name).as_numpy() for name in OUTPUTS}
    with EntitySegmenter("tiny", settings=SETTINGS, execution=ExecutionConfig(threads=1)) as segment:
        expected = segment(image)
    assert len(expected) > 1
    for name in ("labels", "score", "box_xyxy", "area"):
        assert found[name].tobytes() == getattr(expected, name).tobytes(), name
    assert found["complete"].tolist() == [True]
    for i, counts in enumerate(found["rle"]):
        mask = np.asfortranarray(expected.labels == i + 1, dtype=np.uint8)
        assert coco_mask.encode(mask)["counts"] == counts
    assert server.requests[:2] == ["esam_tiny", "esam_tiny_encoder"]
    assert set(server.requests) == {
        "esam_tiny",
        *(f"esam_tiny_{n}" for n in ("encoder", "decoder", "mask_head", "logits")),
    }


def test_rle_is_made_on_request_alone_and_outputs_can_be_few(server: StandInServer) -> None:
    response = server.infer("esam_tiny", [Tensor("image", photo())], ["score"])
    assert [tensor.name() for tensor in response.output_tensors] == ["score"]


def test_a_deadline_is_kept(server: StandInServer) -> None:
    deadline = Tensor("deadline_s", np.array([1e-6], np.float32))
    response = server.infer("esam_tiny", [Tensor("image", photo()), deadline], MOST)
    assert by_name(response.output_tensors, "complete").as_numpy().tolist() == [False]


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_wrong_deadline_is_an_error_of_its_request(server: StandInServer, deadline_s: float) -> None:
    inputs = [Tensor("image", photo()), Tensor("deadline_s", np.array([deadline_s], np.float32))]
    response = server.infer("esam_tiny", inputs, MOST)
    assert "deadline_s" in response.error().message()
    assert not server.infer("esam_tiny", [Tensor("image", photo())], MOST).has_error()


def test_a_failing_network_is_an_error_of_its_request(server: StandInServer) -> None:
    server.broken = {"esam_tiny_decoder"}
    message = server.infer("esam_tiny", [Tensor("image", photo())], MOST).error().message()
    assert message == "EngineError: esam_tiny_decoder: the server answered: out of order"
    server.broken = set()
    assert not server.infer("esam_tiny", [Tensor("image", photo())], MOST).has_error()


def test_a_server_that_misreads_arrays_is_told_apart(server: StandInServer) -> None:
    class Misread(Tensor):
        def as_numpy(self) -> np.ndarray[Any, Any]:
            return np.broadcast_to(self._array[0, 0, 0], self._array.shape)

    message = server.infer("esam_tiny", [Misread("image", photo())], MOST).error().message()
    assert "Install 'numpy<2' in the server" in message
    assert not server.infer("esam_tiny", [Tensor("image", photo(1, 1))], MOST).has_error()


def test_each_network_answers_its_first_call(server: StandInServer) -> None:
    assert server.warm_up() == 4


def test_configs_name_the_device(repository: Path) -> None:
    served = ServedModel.read(repository / "esam_tiny" / "1" / FILE)
    config = read_config(repository / "esam_tiny_encoder" / "config.pbtxt")
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    (group,) = config.instance_group
    assert (group.kind, group.count) == (model_config_pb2.ModelInstanceGroup.KIND_CPU, 1)
    for device in ("cuda", "tensorrt"):
        text = graph_config("n", "f.onnx", served.graphs.decoder, device, 2, None, warm_up=False)
        assert "count: 2 kind: KIND_GPU" in text
        assert ('name: "tensorrt"' in text) == (device == "tensorrt")
        assert "model_warmup" not in text


def test_a_version_is_not_overwritten_unasked_and_a_new_one_is_served(tmp_path: Path) -> None:
    export_repository(CONFIG, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.onnx")}
    with pytest.raises(SettingsError, match="this version exists"):
        export_repository(CONFIG, tmp_path)
    export_repository(CONFIG, tmp_path, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.onnx")} == before
    export_repository(CONFIG, tmp_path, version=12)
    assert StandInServer(tmp_path).version("esam_tiny").name == "12"
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_files_of_others_stay(tmp_path: Path) -> None:
    other = tmp_path / "esam_tiny_decoder" / "1" / "model.onnx"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    with pytest.raises(SettingsError, match="files that esam-rt did not write"):
        export_repository(CONFIG, tmp_path, overwrite=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [other]


def test_bf16_and_engines_are_refused(tmp_path: Path) -> None:
    bf16 = ExecutionConfig(device="tensorrt", precision="bf16")
    with pytest.raises(ModelError, match="Use precision fp32 or fp16"):
        export_repository(SegmenterConfig(execution=bf16), tmp_path)
    with pytest.raises(SettingsError, match="run on Triton's ONNX Runtime backend"):
        export_repository(SegmenterConfig(execution=ExecutionConfig(backend="tensorrt")), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no whole record"),
        ("[]", "no whole record"),
        ('{"exporter_version": "0"}', "found graphs of exporter version 0"),
        (None, "no whole record"),
    ],
)
def test_a_record_that_does_not_fit_is_one_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / FILE
    if text is not None:
        path.write_text(text)
    with pytest.raises(ModelError, match=message):
        ServedModel.read(path)


def test_a_record_reads_back(repository: Path) -> None:
    path = repository / "esam_tiny" / "1" / FILE
    served = ServedModel.read(path)
    assert served.settings == SETTINGS
    assert served.to_json() == json.loads(path.read_text())
