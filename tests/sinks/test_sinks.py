"""The files of a run: label maps, overlays, the COCO file and the report."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from esam_rt.entity_map import EntityMap
from esam_rt.errors import InputError, OutputError
from esam_rt.sinks import (
    CocoJson,
    ConceptGraphs,
    FileSink,
    HtmlReport,
    LabelMaps,
    Labelme,
    Overlays,
    RunInfo,
    SamJson,
    Sink,
    YoloSegments,
    drawing,
)
from esam_rt.sinks.output_names import SUFFIXES, StemMaker, check_name, output_stems
from esam_rt.sinks.overlays import draw_overlay
from esam_rt.sinks.palette import entity_colors
from esam_rt.sinks.photo_record import PhotoRecord
from esam_rt.sinks.sink import in_write_order, outputs_of, write_all
from esam_rt.sinks.sink_table import make_sinks
from esam_rt.sources.frame import Frame
from tests.support.pages import CHROMIUM, OWN_SCRIPT, check_policy, shown_by_chromium

TIMES = {"encoder": 0.25, "decoder": 1.5, "mmg": 0.0625}
RUN: dict[str, Any] = {
    "model": {"name": "tiny", "sha256": "ab12"},
    "method": "e-sam",
    "settings": {"emr": {"delta": 0.05}},
    "versions": {"numpy": "9.9"},
    "ended": None,
}
HOSTILE = [
    "<script>alert(1)<b>.jpg",
    "a \"quoted\" & 'single'.png",
    "sub dir/100% #1?x=2&entity=3.jpg",
    "写真/é {{cards}}.jpg",
    "not utf-8 \udcff.jpg",
    "</script><img src=x onerror=alert(1)>.webp",
]


def blocks(rows: int, columns: int, size: int = 12, gap: int = 0) -> EntityMap:
    """rows × columns square entities, `gap` unlabelled pixels around each."""
    inner = np.pad(np.ones((size, size), int), gap)
    labels = np.kron(np.arange(1, rows * columns + 1).reshape(rows, columns), inner)
    n = rows * columns
    return EntityMap.from_labels(labels, np.linspace(0.9, 0.5, n), np.arange(n) % 3, TIMES)


def nothing(height: int, width: int) -> EntityMap:
    return EntityMap.from_labels(np.zeros((height, width), int), np.zeros(0), np.zeros(0, int))


def photo(result: EntityMap, level: int = 128) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(-20, 20, (*result.labels.shape, 3))
    return np.clip(level + noise, 0, 255).astype(np.uint8)


def opened(sink: Sink, folder: Path, stem: str = "x", records: Iterable[PhotoRecord] = ()) -> Any:
    """The sink in a run whose photos all have one stem."""
    sink.open(RunInfo(folder, lambda name: stem, lambda: records))
    return sink


def write_labels(folder: Path, stem: str, result: EntityMap) -> Path:
    opened(LabelMaps(), folder, stem).write(Frame(photo(result), "x.jpg"), result)
    return folder / "labels" / f"{stem}.png"


def write_overlay(folder: Path, frame: Frame, result: EntityMap, stem: str) -> Path:
    opened(Overlays(), folder, stem).write(frame, result)
    return folder / "overlays" / f"{stem}.jpg"


def write_report_photo(folder: Path, frame: Frame, result: EntityMap, stem: str) -> None:
    opened(HtmlReport(), folder, stem).write(frame, result)


def write_report(folder: Path, records: Iterable[PhotoRecord], run: dict[str, Any]) -> Path:
    sink = opened(HtmlReport(), folder, records=records)
    sink.close(run)
    assert isinstance(sink.look_at, Path)
    return sink.look_at


def write_coco(folder: Path, records: Iterable[PhotoRecord]) -> Path:
    opened(CocoJson(), folder, records=records).close({})
    return folder / "entities.json"


# --- labels ----------------------------------------------------------------------------------------------------------


def test_label_maps_keep_more_than_255_entities(tmp_path: Path) -> None:
    result = blocks(30, 30, 3, gap=1)
    read = cv2.imread(str(write_labels(tmp_path, "sub/photo", result)), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint16
    assert read.max() == 900
    np.testing.assert_array_equal(read, result.labels)


def test_a_label_map_without_entities(tmp_path: Path) -> None:
    empty = nothing(5, 7)
    read = cv2.imread(str(write_labels(tmp_path, "x", empty)), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read, np.zeros((5, 7), np.uint16))
    assert read.dtype == np.uint16


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    result = blocks(1, 2)
    frame = Frame(photo(result), "x.jpg")
    record = PhotoRecord.of("x.jpg", "x", result)
    for write in (
        lambda out: write_labels(out, "x", result),
        lambda out: write_overlay(out, frame, result, "x"),
        lambda out: write_coco(out, [record]),
        lambda out: write_report_photo(out, frame, result, "x"),
        lambda out: write_report(out, [record], RUN),
    ):
        with pytest.raises(OutputError, match="a file stands where a folder is needed"):
            write(tmp_path / "out")


# --- names -----------------------------------------------------------------------------------------------------------


def test_the_suffix_goes_where_no_other_photo_is_in_the_way() -> None:
    assert output_stems(["a.jpg", "sub/a.png", "b.c.tif", "sub.x/d.jpg"]) == {
        "a.jpg": "a",
        "sub/a.png": "sub/a",
        "b.c.tif": "b.c",
        "sub.x/d.jpg": "sub.x/d",
    }


def test_the_suffix_stays_where_two_would_meet() -> None:
    stems = output_stems(["s/a.jpg", "s/a.png", "s/a.jpg.png", "s/b.jpg", "s/B.png", "a.jpg"])
    assert stems["s/a.jpg"] == "s/a.jpg"
    assert stems["s/a.png"] == "s/a.png"
    assert stems["s/a.jpg.png"] == "s/a.jpg.png"
    assert (stems["s/b.jpg"], stems["s/B.png"]) == ("s/b.jpg", "s/B.png")
    assert stems["a.jpg"] == "a"


@pytest.mark.parametrize("ascii_only", [True, False])
def test_no_two_photos_of_any_names_meet(ascii_only: bool) -> None:
    """Neither their files, nor a file and a folder, also where case does not count; and every name is short enough."""
    rng = np.random.default_rng(0)
    long = "x" * 247 if ascii_only else "é" * 123 + "x"
    parts = ["a", "A", "a.jpg", "a.png", "a.png-2", "a.js", "a.JPG.png", long, long[:-3]]
    folders = ["", "", "a.png/", "a.jpg.png/", "a.png.png/", "A.png-2.js/", f"{long}.png/"]
    for _ in range(400):
        drawn = {
            rng.choice(folders) + rng.choice(parts) + rng.choice([".jpg", ".png", ".JPG", ".webp"])
            for _ in range(rng.integers(1, 14))
        }
        names = sorted(str(name) for name in drawn)
        names = [n for n in names if not any(o.startswith(f"{n}/") for o in names)]  # a file is no folder
        stems = output_stems(names)
        assert list(stems) == names
        files = [stem + suffix for stem in stems.values() for suffix in SUFFIXES]
        assert len({file.casefold() for file in files}) == len(files)
        inside = {str(folder).casefold() for file in files for folder in PurePosixPath(file).parents}
        assert inside.isdisjoint(file.casefold() for file in files)
        assert max(len(os.fsencode(part)) for file in files for part in file.split("/")) <= 255
        assert all(PurePosixPath(stem).parent == PurePosixPath(name).parent for name, stem in stems.items())


def test_a_number_follows_where_the_suffix_is_not_enough() -> None:
    stems = output_stems(["col/a.jpg", "col/a.png/b.png", "col/a.jpg.png/c.png", "col/a.jpg-2.png"])
    assert stems == {
        "col/a.jpg": "col/a.jpg-3",
        "col/a.png/b.png": "col/a.png/b",
        "col/a.jpg.png/c.png": "col/a.jpg.png/c",
        "col/a.jpg-2.png": "col/a.jpg-2",
    }


def test_long_names_are_cut_and_told_apart(tmp_path: Path) -> None:
    names = [f"{'x' * 251}{suffix}" for suffix in (".jpg", ".png")] + [f"{'写' * 82}.webp"]
    result = blocks(2, 3)
    stems = output_stems(names)
    for name in names:
        write_labels(tmp_path, stems[name], result)
    assert len(list((tmp_path / "labels").iterdir())) == 3
    assert stems[names[2]] == "写" * 82
    assert stems[names[0]].startswith("x" * 200)


@pytest.mark.parametrize("folder", ["a.jpg", "a.png", "a.js", "A.PNG"])
def test_the_suffix_stays_where_a_folder_is_in_the_way(folder: str) -> None:
    assert output_stems(["a.webp", f"{folder}/b.jpg"]) == {"a.webp": "a.webp", f"{folder}/b.jpg": f"{folder}/b"}
    assert output_stems(["s/a.webp", f"s/{folder}/c/b.jpg"])["s/a.webp"] == "s/a.webp"
    assert output_stems(["s/a.webp", f"{folder}/b.jpg"])["s/a.webp"] == "s/a"


def test_no_file_of_a_photo_is_in_the_way_of_another(tmp_path: Path) -> None:
    result = blocks(2, 3)
    names = [
        "a.jpg",
        "a.png/b.jpg",
        "f.jpg",
        "f.txt/a.png",
        "b.png",
        "b.jpg/c.d/c.png",
        "c.jpg",
        "c.js/d.png",
        "e.jpg",
        "e.webp",
    ]
    stems = output_stems(names)
    for name in names:
        write_labels(tmp_path, stems[name], result)
        write_overlay(tmp_path, Frame(photo(result), name), result, stems[name])
        write_report_photo(tmp_path, Frame(photo(result), name), result, stems[name])
        for sink in (YoloSegments(), Labelme(), SamJson(), ConceptGraphs()):
            opened(sink, tmp_path, stems[name]).write(Frame(photo(result), name), result)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) == 9 * len(names)
    assert {".pkl.gz" if path.suffix == ".gz" else path.suffix for path in made} == set(SUFFIXES)


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "a.png", "A.webp", "a.jpg.png"],
        ["a.jpg", "a.png/b.jpg"],
        ["a.png/b.jpg", "a.jpg"],
        ["a.png/b.jpg", "a.jpg", "a.png", "a.jpg.png/c.jpg"],
        ["x" * 251 + ".jpg", "x" * 251 + ".png"],
    ],
)
def test_names_that_are_not_known_in_advance_do_not_meet_either(tmp_path: Path, names: list[str]) -> None:
    stem = StemMaker()
    stems = [stem(name) for name in names]
    assert [stem(name) for name in names] == stems
    result = blocks(1, 2)
    for name in stems:
        write_labels(tmp_path, name, result)
        write_overlay(tmp_path, Frame(photo(result), "x"), result, name)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 2 * len(names)


@pytest.mark.parametrize("name", ["", "/etc/x.jpg", "../x.jpg", "a/../../x.jpg", "a//b.jpg", ".", "a/.", "a\0b"])
def test_names_that_lead_out_of_the_folder_are_refused(name: str) -> None:
    for check in (check_name, StemMaker()):
        with pytest.raises(InputError, match="expected a relative path"):
            check(name)


# --- the journal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_goes_through_one_line_of_json(name: str) -> None:
    record = PhotoRecord.of(name, "sub/stem", blocks(2, 3))
    assert (record.width, record.height, len(record.entities), record.times_s) == (36, 24, 6, TIMES)
    line = record.to_json()
    assert line.isascii()
    assert "\n" not in line
    assert PhotoRecord.from_json(line) == record


@pytest.mark.parametrize("line", ["", "{", "[1, 2]", '{"name": "a.jpg"}', "3", '{"name": "a", "other": 1}'])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(InputError, match=r"not a line of a run's journal\. Remove the line"):
        PhotoRecord.from_json(line)


# --- coco ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own, with NumPy 2
def test_the_coco_file_loads_and_gives_the_masks_back(tmp_path: Path) -> None:
    results = {"b.jpg": blocks(2, 3, gap=2), "none.jpg": nothing(4, 6), "写.jpg": blocks(1, 4)}

    def records() -> Iterator[PhotoRecord]:
        return (PhotoRecord.of(name, name, result) for name, result in results.items())

    path = write_coco(tmp_path, records())
    coco = COCO(str(path))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == list(results)
    assert coco.loadCats(coco.getCatIds()) == [{"id": 1, "name": "entity"}]
    assert coco.dataset["info"]["version"]
    assert sorted(coco.getAnnIds()) == list(range(1, 11))
    for image in coco.loadImgs(coco.getImgIds()):
        result = results[image["file_name"]]
        assert (image["height"], image["width"]) == result.labels.shape
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert len(annotations) == len(result)
        for annotation, mask, score in zip(annotations, result.masks(), result.score, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            assert isinstance(annotation["segmentation"]["counts"], str)
            assert annotation["area"] == mask.sum()
            assert annotation["category_id"] == 1
            assert annotation["score"] == pytest.approx(score, abs=1e-6)
            x, y, w, h = annotation["bbox"]
            assert mask[y : y + h, x : x + w].sum() == mask.sum()


def test_a_coco_file_of_no_photos(tmp_path: Path) -> None:
    data = json.loads(write_coco(tmp_path, []).read_text())
    assert (data["images"], data["annotations"]) == ([], [])


def test_records_are_taken_one_at_a_time(tmp_path: Path) -> None:
    record = PhotoRecord.of("a.jpg", "a", blocks(1, 2))
    seen: list[int] = []

    def records() -> Iterator[PhotoRecord]:
        for _ in range(200):
            seen.append(sum(p.stat().st_size for p in tmp_path.iterdir()))
            yield record

    write_coco(tmp_path, records())
    assert seen[0] < 10_000 < seen[-1]  # the file grew while records were still coming


# --- overlays --------------------------------------------------------------------------------------------------------


def middle_colours(result: EntityMap, image: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Mean color well inside each entity."""
    kernel = np.ones((7, 7), np.uint8)
    return [image[cv2.erode(mask.astype(np.uint8), kernel, borderValue=0) > 0].mean(axis=0) for mask in result.masks()]


@pytest.mark.parametrize("gap", [0, 1])
def test_neighbours_differ(gap: int) -> None:
    rows, columns = 6, 8
    result = blocks(rows, columns, 16, gap=gap)
    colors = middle_colours(result, draw_overlay(np.full((*result.labels.shape, 3), 128, np.uint8), result))
    grid = np.asarray(colors).reshape(rows, columns, 3)
    for step in (grid[1:] - grid[:-1], grid[:, 1:] - grid[:, :-1]):
        assert np.linalg.norm(step, axis=2).min() > 30
    assert len(np.unique(np.round(grid.reshape(-1, 3)), axis=0)) > 8


@pytest.mark.parametrize("missing_cone", [None, 0, 1])
def test_neighbours_differ_for_people_who_are_color_blind(missing_cone: int | None) -> None:
    """Colors lose what a missing cone would see (Viénot, Brettel, Mollon 1999; another model than the palette's)."""
    rgb_to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    keep = np.eye(3)
    if missing_cone is not None:  # replaced so that white and one more color look as they do to others
        keep[missing_cone] = ([0, 2.02344, -2.52581], [0.494207, 0, 1.24827])[missing_cone]
    to_seen = np.linalg.inv(rgb_to_lms) @ keep @ rgb_to_lms
    result = blocks(6, 8, 16)
    colors = entity_colors(result)[1:] / 255
    seen = np.clip(colors**2.2 @ to_seen.T, 0, 1) ** (1 / 2.2)
    lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2Lab)[0].reshape(6, 8, 3)
    for step in (lab[1:] - lab[:-1], lab[:, 1:] - lab[:, :-1]):
        assert np.linalg.norm(step, axis=2).min() > 20


def test_unlabelled_pixels_keep_the_photo_and_labelled_ones_show_it() -> None:
    result = blocks(3, 3, 20, gap=4)
    image = photo(result)
    before = image.copy()
    drawn = draw_overlay(image, result)
    np.testing.assert_array_equal(image, before)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[result.labels == 0], image[result.labels == 0])
    assert (drawn[result.labels > 0] != image[result.labels > 0]).any(axis=1).mean() > 0.95
    inside = (slice(10, 18), slice(10, 18))  # the photo's texture is still there, with most of its contrast
    assert np.corrcoef(drawn[inside][..., 0].ravel(), image[inside][..., 0].ravel())[0, 1] > 0.9
    assert drawn[inside].std() > 0.65 * image[inside].std()


@pytest.mark.parametrize("level", [10, 128, 245])
@pytest.mark.parametrize("gap", [0, 3])
def test_outlines_are_white_with_a_dark_rim_on_any_photo(level: int, gap: int) -> None:
    result = blocks(2, 2, 20, gap=gap)
    drawn = draw_overlay(np.full((*result.labels.shape, 3), level, np.uint8), result)
    row, labels = drawn[10 + gap].astype(int), result.labels[10 + gap]
    line = np.flatnonzero((row.min(axis=1) > 220) & (labels > 0))
    # Thin: one pixel between two entities that touch, and one at each end of an entity beside nothing.
    expected = 1 if gap == 0 else 4
    assert len(line) == expected
    for x in line:
        inner = [x + step for step in (-1, 1) if labels[x + step] and x + step not in line]
        assert inner
        assert row[x].sum() - min(row[i].sum() for i in inner) > 150


@pytest.mark.parametrize("level", [10, 245])
def test_entities_wear_their_color_along_the_border_on_any_photo(level: int) -> None:
    result = blocks(2, 2, 24, gap=2)
    drawn = draw_overlay(np.full((*result.labels.shape, 3), level, np.uint8), result).astype(int)
    for color, mask in zip(entity_colors(result)[1:].astype(int), result.masks(), strict=True):
        depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L1, 3)[1:-1, 1:-1]
        assert np.abs(drawn[depth == 2] - color).max() < 60
        assert np.abs(drawn[depth == 8] - level).max() < 0.35 * np.abs(color - level).max()


@pytest.mark.parametrize("shape", [(900, 700), (700, 900)])
def test_large_photos_are_drawn_as_if_at_once(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    labels = cv2.resize(rng.integers(0, 9, (9, 7)).astype(np.uint16), shape[::-1], interpolation=cv2.INTER_NEAREST)
    image, colors = rng.integers(0, 256, (*shape, 3), np.uint8), rng.integers(0, 256, (9, 3)).astype(np.uint8)
    monkeypatch.setattr(drawing, "_STRIP_PIXELS", 1 << 30)
    at_once = drawing.tint(image, labels, colors)
    monkeypatch.setattr(drawing, "_STRIP_PIXELS", 1)
    np.testing.assert_array_equal(drawing.tint(image, labels, colors), at_once)


def test_overlays_are_drawn_over_the_array_only_if_that_is_asked_for() -> None:
    result = blocks(3, 3, 20)
    image = photo(result)
    before = image.copy()
    drawn = draw_overlay(image, result)
    small = draw_overlay(image, result, max_side=30, reuse=True)
    assert small.shape == (30, 30, 3)
    np.testing.assert_array_equal(image, before)
    assert draw_overlay(image, result, reuse=True) is image
    np.testing.assert_array_equal(image, drawn)


def test_outlines_grow_with_the_photo_and_stay_inside() -> None:
    labels = np.zeros((40, 6000), int)
    labels[:, :2000], labels[:, 2000:4000] = 1, 2
    result = EntityMap.from_labels(labels, np.array([0.9, 0.8]), np.zeros(2, int))
    drawn = draw_overlay(np.full((40, 6000, 3), 60, np.uint8), result)
    white = np.flatnonzero(drawn[20].min(axis=1) > 200)
    assert 3 <= (white < 3000).sum() <= 5
    assert 2 <= (white > 3000).sum() <= 5
    assert (drawn[:, 4000:] == 60).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_overlays_of_extreme_shapes(shape: tuple[int, int]) -> None:
    labels = np.ones(shape, int)
    labels[: shape[0] // 2] = 2
    result = EntityMap.from_labels(labels, np.array([0.9, 0.8]), np.zeros(2, int))
    assert draw_overlay(np.zeros((*shape, 3), np.uint8), result).shape == (*shape, 3)


def test_the_overlay_of_no_entities_is_the_photo() -> None:
    empty = nothing(5, 7)
    np.testing.assert_array_equal(draw_overlay(photo(empty), empty), photo(empty))


def test_overlay_files(tmp_path: Path) -> None:
    result = blocks(3, 4, 30)
    read = cv2.imread(str(write_overlay(tmp_path, Frame(photo(result), "x.jpg"), result, "a/b.c")))[..., ::-1].astype(
        int
    )
    assert read.shape == (90, 120, 3)
    assert np.abs(read - draw_overlay(photo(result), result)).mean() < 12


def test_an_overlay_longer_than_a_jpeg_can_be(tmp_path: Path) -> None:
    labels = np.ones((2, 70_000), int)
    labels[:, 35_000:] = 2
    result = EntityMap.from_labels(labels, np.array([0.9, 0.8]), np.zeros(2, int))
    path = write_overlay(tmp_path, Frame(np.zeros((2, 70_000, 3), np.uint8), "x.png"), result, "x")
    with Image.open(path) as image:
        assert image.size == (65_500, 2)
        row = np.asarray(image)[0].astype(int)
    assert np.abs(row[20_000] - row[45_000]).sum() > 40


# --- the report ------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags with their attributes, and the text of the cards."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.bold: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "b":
            self.bold.append(data)


def data_of(path: Path) -> dict[str, Any]:
    text = path.read_text("ascii")
    match = re.fullmatch(r"esamPhoto\((.*)\)\n", text)
    assert match
    return dict(json.loads(match[1]))


def report(out: Path, names: list[str]) -> tuple[Page, str]:
    result = blocks(2, 3, 20, gap=2)
    stems = output_stems(names)
    for name in names:
        write_report_photo(out, Frame(photo(result), name), result, stems[name])
    path = write_report(out, (PhotoRecord.of(name, stems[name], result) for name in names), RUN)
    assert path == out / "report" / "index.html"
    text = path.read_text("utf-8")
    return Page(text), text


def test_hostile_names_are_text_and_their_files_are_found(tmp_path: Path) -> None:
    page, text = report(tmp_path, HOSTILE)
    cards = [attributes for tag, attributes in page.tags if tag == "a"]
    shown = [name.replace("\udcff", r"\udcff") for name in HOSTILE]  # the page is UTF-8 all the same
    assert [card["title"] for card in cards] == shown
    assert set(shown) <= set(page.bold)
    images = [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("loading") == "lazy"]
    assert len(images) == len(HOSTILE)
    for name, card, image in zip(shown, cards, images, strict=True):
        thumb = tmp_path / "report" / unquote(image["src"] or "", errors="surrogateescape")
        assert thumb.is_file()
        address = (card["href"] or "").removeprefix("#photo=")
        assert re.fullmatch(r"[\w./%~-]+", address, re.ASCII)
        stem = unquote(address, errors="surrogateescape")
        with Image.open(tmp_path / "report" / "photos" / f"{stem}.jpg") as picture:
            assert picture.size == (72, 48)
        data = data_of(tmp_path / "report" / "photos" / f"{stem}.js")
        assert (data["stem"], data["name"]) == (address, name)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert "{{" not in text.replace("{{cards}}.jpg", "")


def test_the_policy_of_the_page(tmp_path: Path) -> None:
    report(tmp_path, HOSTILE)
    check_policy((tmp_path / "report" / "index.html").read_bytes())


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; test_the_policy_of_the_page reads the policy")
def test_a_browser_runs_the_page_and_no_other_script(tmp_path: Path) -> None:
    report(tmp_path, HOSTILE)
    page = tmp_path / "report" / "index.html"
    stem = quote(os.fsencode(output_stems(HOSTILE)[HOSTILE[3]]))
    document, refused = shown_by_chromium(page, tmp_path / "profile", f"#photo={stem}")
    assert refused == ""
    assert f"<title>{HOSTILE[3]}</title>" in document  # the page has read photos/<stem>.js and its pictures
    assert document.count("<tr") == 1 + 6
    spoiled = page.read_text("utf-8").replace("<body>", f"<body>{OWN_SCRIPT}")
    page.write_text(spoiled.replace("</title>", "</title><style>body { display: none }</style>"), "utf-8")
    document, refused = shown_by_chromium(page, tmp_path / "profile", f"#photo={stem}")
    assert "<title>owned</title>" not in document and document.count("<tr") == 1 + 6
    assert refused.count("violates") == 3


def test_the_page_needs_nothing_but_its_own_folder(tmp_path: Path) -> None:
    page, text = report(tmp_path, ["a.jpg"])
    for _, attributes in page.tags:
        for key in ("src", "href"):
            assert not re.match(r"[a-z]+:|/", attributes.get(key) or "", re.IGNORECASE)
    assert "http:" not in text and "https" not in text
    assert "fetch(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_head_of_the_report(tmp_path: Path) -> None:
    _, text = report(tmp_path, ["a.jpg", "b.jpg"])
    for shown in (
        "model <b>tiny</b>",
        "method <b>e-sam</b>",
        "<b>2</b><span>photos</span>",
        "<b>12</b><span>entities</span>",
        "<b>1.81</b><span>seconds a photo</span>",
        "<span>settings.emr.delta</span><code>0.05</code>",
        "<span>versions.numpy</span><code>9.9</code>",
        "6 entities &middot; 1.81 s",
    ):
        assert shown in text


def test_a_total_that_the_caller_measured_counts(tmp_path: Path) -> None:
    record = PhotoRecord("a.jpg", 1, 1, [], {"encoder": 1.0, "total": 4.5}, "a")
    text = write_report(tmp_path, [record], {}).read_text()
    assert "0 entities &middot; 4.50 s" in text


def test_a_report_of_no_photos(tmp_path: Path) -> None:
    assert "<b>0</b><span>photos</span>" in write_report(tmp_path, [], {}).read_text()


def test_the_data_of_a_photo(tmp_path: Path) -> None:
    result = blocks(20, 20, 8, gap=1)
    write_report_photo(tmp_path, Frame(photo(result), "a.jpg"), result, "a")
    data = data_of(tmp_path / "report" / "photos" / "a.js")
    kind, _, content = data["labels"].partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as png:
        rgb = np.asarray(png).astype(int)
    np.testing.assert_array_equal(rgb[..., 0] + 256 * rgb[..., 1], result.labels)
    assert data["times_s"] == TIMES
    assert (data["width"], data["height"]) == (200, 200)
    assert len(data["colors"]) == len(data["entities"]) + 1 == 401
    score, area, stage, right, upper = data["entities"][21]
    assert score == pytest.approx(result.score[21], abs=1e-4)
    assert (area, stage, right, upper) == (64, ("MMG", "EMR", "USR")[result.stage[21]], 19, 11)


def test_large_photos_are_shown_smaller(tmp_path: Path) -> None:
    result = blocks(1, 2, 1200)
    write_report_photo(tmp_path, Frame(np.zeros((1200, 2400, 3), np.uint8), "a.jpg"), result, "a")
    data = data_of(tmp_path / "report" / "photos" / "a.js")
    with Image.open(io.BytesIO(base64.b64decode(data["labels"].partition(",")[2]))) as png:
        labels = np.asarray(png)[..., 0]
    assert labels.shape == (800, 1600)
    assert (labels[:, :800] == 1).all()
    assert (labels[:, 800:] == 2).all()
    for folder, size in (("photos", (1600, 800)), ("thumbs", (480, 240))):
        with Image.open(tmp_path / "report" / folder / "a.jpg") as picture:
            assert picture.size == size
    assert (data["width"], data["height"], data["entities"][0][1]) == (2400, 1200, 1_440_000)


# --- sinks -----------------------------------------------------------------------------------------------------------


def test_sinks_write_without_a_run(tmp_path: Path) -> None:
    """With records of their own, in any names, and the same files as in a run."""
    result = blocks(2, 3, 20)
    for sink in (LabelMaps(tmp_path), Overlays(str(tmp_path)), CocoJson(tmp_path), HtmlReport(tmp_path)):
        with sink:
            for name in ("b.jpg", "a/b.png", "b.png"):
                sink.write(Frame(photo(result), name), result)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png")} == {
        "labels/b.png",
        "labels/a/b.png",
        "labels/b.png.png",
    }
    assert len(list((tmp_path / "overlays").rglob("*.jpg"))) == 3
    coco = json.loads((tmp_path / "entities.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["b.jpg", "a/b.png", "b.png"]
    assert len(coco["annotations"]) == 18
    assert "<b>3</b><span>photos</span>" in (tmp_path / "report" / "index.html").read_text()


def test_a_sink_without_a_folder_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Pass one: LabelMaps\('out'\)"), LabelMaps():
        pass
    with pytest.raises(ValueError, match="is not open"):
        LabelMaps().write(Frame(np.zeros((1, 1, 3), np.uint8), "x"), nothing(1, 1))


def test_the_table_makes_the_named_sinks() -> None:
    assert [type(sink) for sink in make_sinks(["overlay", "labels", "labels"])] == [LabelMaps, Overlays]
    everyday = make_sinks(["report", "overlay", "coco", "labels"])
    assert outputs_of(everyday) == ["labels", "entities.json", "overlays", "report"]
    assert outputs_of([LabelMaps(), Plain()]) == ["labels"]


class Plain:
    """The least that a sink must have."""

    def __init__(self) -> None:
        self.images: list[NDArray[np.uint8]] = []

    def open(self, run: RunInfo) -> None:
        pass

    def write(self, frame: Frame, entities: EntityMap) -> None:
        assert not frame.disposable
        self.images.append(frame.image_hwc_rgb.copy())

    def close(self, summary: object) -> None:
        pass


class Scribble(FileSink):
    """Draws on the frame, if it may."""

    draws_on_image = True

    def write(self, frame: Frame, entities: EntityMap) -> None:
        if frame.disposable:
            frame.image_hwc_rgb[:] = 0


@pytest.mark.parametrize("disposable", [False, True])
def test_only_the_last_sink_draws_on_a_disposable_frame(tmp_path: Path, disposable: bool) -> None:
    result = blocks(1, 2)
    frame = Frame(photo(result), "x", disposable=disposable)
    before = frame.image_hwc_rgb.copy()
    seen = Plain()
    sinks = in_write_order([Scribble(), opened(Overlays(), tmp_path), seen])
    assert sinks[0] is seen
    write_all(sinks, frame, result)
    np.testing.assert_array_equal(seen.images[0], before)
    alone = write_overlay(tmp_path, Frame(before, "x"), result, "alone").read_bytes()
    assert (tmp_path / "overlays/x.jpg").read_bytes() == alone
    assert np.array_equal(frame.image_hwc_rgb, before) == (not disposable)


def test_a_frame_that_cannot_be_written_is_copied(tmp_path: Path) -> None:
    result = blocks(1, 2)
    image = photo(result)
    image.flags.writeable = False
    assert write_overlay(tmp_path, Frame(image, "x", disposable=True), result, "x").is_file()
