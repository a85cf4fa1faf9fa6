"""The files of models: which are here, and their export on a user's order."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
from esam_rt.loading.checkpoints import checkpoint_of, is_downloaded
from esam_rt.loading.events import OnEvent, Reading, ignore
from esam_rt.loading.onnx_cache import export_to, exported, onnx_model
from esam_rt.sam.models import MODELS, get_model
from esam_rt.storage.locks import kept_from_others
from esam_rt.storage.manifest import remove_leftovers


@dataclass(frozen=True)
class ListedModel:
    """One line of ``esam-rt models``.

    Attributes:
        name: Name of the model.
        description: A few words.
        license: License of its weights.
        input_px: Side of its square input in pixels.
        checkpoint_bytes: Size of its checkpoint.
        checkpoint: ``ships``, ``in the cache``, or empty.
        url: Address of the published checkpoint.
        exported: Exports in the cache, such as ``fp16-concat``.
    """

    name: str
    description: str
    license: str
    input_px: int
    checkpoint_bytes: int
    checkpoint: str
    url: str | None
    exported: list[str]

    def to_json(self) -> dict[str, Any]:
        """Convert for ``--json``.

        Returns:
            A plain dict.
        """
        return asdict(self)


@dataclass(frozen=True)
class ExportedFiles:
    """Result of ``export_files``.

    Attributes:
        model: Name of the model.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        checkpoint: The file that was read.
        checkpoint_sha256: Its hash, in hexadecimal.
        published: True if it is the published file.
        files: The graphs and their data files.
        ships: True if the checkpoint is the one that ships with esam-rt.
        run_uses_it: True if ``esam-rt run`` on a CPU finds these files in the cache.
    """

    model: str
    precision: str
    checkpoint: Path
    checkpoint_sha256: str
    published: bool
    files: tuple[Path, ...]
    ships: bool
    run_uses_it: bool

    def to_json(self) -> dict[str, Any]:
        """Convert for ``--json``.

        Returns:
            A plain dict.
        """
        return {
            "model": self.model,
            "precision": self.precision,
            "checkpoint": str(self.checkpoint),
            "checkpoint_sha256": self.checkpoint_sha256,
            "published": self.published,
            "files": [str(file) for file in self.files],
        }


def list_models() -> list[ListedModel]:
    """List the models, and their files on this machine.

    Returns:
        One entry for each model.
    """
    listed = []
    for row in MODELS.values():
        size = row.remote.size_bytes if row.remote else row.checkpoint.stat().st_size if row.checkpoint else 0
        here = "ships" if row.checkpoint else "in the cache" if is_downloaded(row) else ""
        url = row.remote.url if row.remote else None
        listed.append(ListedModel(row.name, row.description, row.license, row.input_px, size, here, url, exported(row)))
    return listed


def export_files(
    model: str,
    checkpoint: Path | None = None,
    precision: str = "fp32",
    attention: str | None = None,
    out: Path | None = None,
    on_event: OnEvent = ignore,
) -> ExportedFiles:
    """Export a model to a folder or the cache.

    Args:
        model: A name that ``esam-rt models`` lists.
        checkpoint: Weights in place of the model's own.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        attention: Attention form of a ViT: ``bias``, ``concat`` or ``fused``. Default: the model's form for CPUs.
        out: Folder for the files. Default: the cache.
        on_event: Gets ``Downloading``, ``Reading`` and ``Writing`` events.

    Returns:
        The files, and the checkpoint that they were made from.

    Raises:
        SettingsError: The name is unknown, the model does not have this attention form, or another process writes to
            ``out``.
        ModelError: The checkpoint is missing, damaged or of another model.
        OutputError: The folder cannot be written.
    """
    row = get_model(model)
    file = checkpoint_of(row, checkpoint, on_event)
    on_event(Reading(file.name))
    digest = checkpoint_sha256(file)
    if out is None:
        files = onnx_model(row, file, precision, attention, on_event).files
    else:
        with kept_from_others(out):
            remove_leftovers(out)
            files = export_to(row, file, out, precision, attention, on_event)
    return ExportedFiles(
        model=model,
        precision=precision,
        checkpoint=file,
        checkpoint_sha256=digest,
        published=row.remote is not None and digest == row.remote.sha256,
        files=files,
        ships=file == row.checkpoint,
        run_uses_it=out is None and attention in (None, row.attention),
    )
