"""open_sink: paths become sinks, with and without a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esam_rt.entity_map import EntityMap
from esam_rt.errors import SettingsError
from esam_rt.run import segment_source
from esam_rt.sinks import OverlayVideo, SinkGroup, open_sink
from esam_rt.sinks.sink_table import SINKS, SUFFIXES
from esam_rt.sources import ArraySource, Frame
from tests.sinks.test_overlay_video import read
from tests.support.fake_segmenter import FakeSegmenter


def frame(number: int = 0) -> Frame:
    return Frame(np.full((48, 64, 3), 90, np.uint8), f"{number:03}", disposable=True)


def scene() -> EntityMap:
    labels = np.zeros((48, 64), int)
    labels[8:30, 10:40] = 1
    return EntityMap.from_labels(labels, np.array([0.9]), np.array([0]))


def test_each_path_is_written(tmp_path: Path) -> None:
    """The overlay draws on the disposable frame, so it must come last although it is named first."""
    photo = frame()
    with open_sink(tmp_path / "v" / "drive.mp4", str(tmp_path / "labels"), tmp_path / "c" / "entities.json") as sink:
        sink.write(photo, scene())
    ((_, picture),) = read(tmp_path / "v" / "drive.mp4")
    assert picture.shape == (48, 64, 3)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "labels" / "000.png")), scene().labels)
    assert len(json.loads((tmp_path / "c" / "entities.json").read_text())["annotations"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "labels", "v"]


def test_every_output_of_the_table_is_a_path() -> None:
    for make in SINKS.values():
        for output in make.outputs:
            (sink,) = open_sink(Path("out") / output).sinks
            assert type(sink) is make and sink.folder == Path("out") and output in sink.outputs
    for suffix, name in SUFFIXES.items():
        assert any(output.endswith(suffix) for output in SINKS[name].outputs)


def test_a_run_takes_the_sinks(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "far" / "labels", tmp_path / "far" / "report")
    images = ArraySource([frame(number).image_hwc_rgb for number in range(2)])
    summary = segment_source(images, FakeSegmenter(), [sink], tmp_path / "out")
    assert summary.done == 2 and len(list((tmp_path / "far" / "labels").iterdir())) == 2
    assert summary.look_at == tmp_path / "far" / "report" / "index.html"


def test_a_sink_that_cannot_begin_ends_those_before_it(tmp_path: Path) -> None:
    class Broken(OverlayVideo):
        def open(self, run: object) -> None:
            raise SettingsError("broken")

    with pytest.raises(SettingsError), SinkGroup([SINKS["coco"](tmp_path), Broken(tmp_path)]):
        pass
    assert json.loads((tmp_path / "entities.json").read_text())["images"] == []


@pytest.mark.parametrize("path", ["out/entity.json", "out/x.png", "out", "x.zip"])
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(SettingsError, match=rf"{path}: no sink makes .*(Did you mean|Known)"):
        open_sink(path)
