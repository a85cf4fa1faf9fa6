"""The folder of a run or an evaluation: ownership, the user's decision, the record and the journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esam_rt.errors import OutputError, SettingsError
from esam_rt.run.output_folder import OutputFolder
from esam_rt.run.resume import RunFolder
from esam_rt.storage.atomic import TEMPORARY


def folder(path: Path) -> OutputFolder:
    return OutputFolder(
        path, ("rows.jsonl", "table.json", "plots"), "table.json", "a table", "table", journal="rows.jsonl"
    )


def begun(path: Path, **record: object) -> OutputFolder:
    made = folder(path)
    made.write_record({"program": "a table", **record})
    return made


def test_a_new_folder_needs_no_decision(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        assert folder(path).choose(False, False) is None
    (tmp_path / "mine.txt").touch()
    assert folder(tmp_path).choose(False, True) is None


def test_earlier_content_needs_a_decision(tmp_path: Path) -> None:
    made = begun(tmp_path, rows=3)
    with pytest.raises(SettingsError, match="holds an earlier table; give --resume to continue it, --overwrite"):
        made.choose(False, False)
    with pytest.raises(SettingsError, match="give one of them"):
        made.choose(True, True)
    for resume in (True, False):
        assert made.choose(resume, not resume) == {"program": "a table", "rows": 3}


@pytest.mark.parametrize("record", [None, "", "[]", "{}", '{"program": "another"}'])
def test_files_of_others_are_refused(tmp_path: Path, record: str | None) -> None:
    (tmp_path / "plots").mkdir()
    if record is not None:
        (tmp_path / "table.json").write_text(record)
    with pytest.raises(SettingsError, match=r"holds plots.* no table\.json of esam-rt, so they may be someone else's"):
        folder(tmp_path).choose(True, False)


def test_only_owned_files_are_removed_and_the_record_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = begun(tmp_path)
    for name in ("rows.jsonl", "mine.txt", f"{TEMPORARY}12.json"):
        (tmp_path / name).touch()
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.svg").touch()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        with pytest.raises(OutputError, match=r"plots cannot be removed: Permission denied"):
            made.clear()
    assert (tmp_path / "table.json").exists()
    made.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_first_difference_of_a_resumed_run_is_told(tmp_path: Path) -> None:
    made = folder(tmp_path)
    record = {"settings": {"emr": {"delta": 0.1}}, "model": "tiny", "started": 1}
    made.check_same(record, record | {"started": 2}, ("settings", "model"))
    with pytest.raises(SettingsError, match=r"table\.json: settings\.emr\.delta was 0\.1, now it is 0\.2\. Resume"):
        made.check_same(record, record | {"settings": {"emr": {"delta": 0.2}}}, ("settings", "model"))
    with pytest.raises(SettingsError, match="model was 'tiny', now it is None"):
        made.check_same(record, {"settings": record["settings"]}, ("settings", "model"))


def test_a_killed_run_is_mended(tmp_path: Path) -> None:
    made = begun(tmp_path)
    made.append("one")
    with made.journal.open("a") as file:
        file.write("tw")
    (tmp_path / f"{TEMPORARY}12.json").touch()
    made.mend()
    made.append("two")
    assert list(made.lines()) == ["one", "two"]
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "table.json"}


def test_the_folder_of_a_run_owns_the_files_of_all_sinks(tmp_path: Path) -> None:
    owned = RunFolder(tmp_path, ["notes", "labels"]).owned
    assert {"labels", "overlays", "report", "entities.json", "notes", "photos.jsonl", "errors.jsonl"} < set(owned)
    assert owned[-1] == "run.json"
    assert len(set(owned)) == len(owned)
    (tmp_path / "run.json").write_text(json.dumps({"program": "esam-rt"}))
    assert RunFolder(tmp_path).earlier() == {"program": "esam-rt"}
