"""The files of a run, to be compared with those of another run."""

from __future__ import annotations

import json
import re
from pathlib import Path

from esam_rt.run.output_folder import PHOTOS


def contents(out: Path) -> dict[str, object]:
    """All files without what differs between any two runs: times, processes and the order of the journal."""
    found: dict[str, object] = {}
    for path in (path for path in out.rglob("*") if path.is_file()):
        name, data = path.relative_to(out).as_posix(), path.read_bytes()
        if name == PHOTOS:
            records = sorted(map(json.loads, data.splitlines()), key=lambda record: str(record["name"]))
            found[name] = [{**record, "times_s": ()} for record in records]
        elif name == "run.json":
            record = json.loads(data)
            summary = {**record.pop("summary"), "out": "", "look_at": "", "mean_times_s": "", "done": 0}
            times = {"started": "", "ended": "", "workers": ""}
            found[name] = {**record, **times, "summary": {**summary, "done_before": 0}}
        elif name.endswith(".js"):
            page = json.loads(data.removeprefix(b"esamPhoto(").removesuffix(b")\n"))
            found[name] = {**page, "times_s": ()}
        elif name.endswith(".html"):
            found[name] = re.findall(rb"[^/>\"]+\.(?:png|jpg)", data)
        else:
            found[name] = data
    return found
