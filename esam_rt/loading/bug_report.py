"""Describes this machine in one block for a bug report, without names of people, machines, folders or files."""

from __future__ import annotations

import getpass
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from esam_rt._version import __version__
from esam_rt.loading.doctor import Diagnosis, State
from esam_rt.storage.cache_dir import cache_folder

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
OPTIONAL = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13", "cuda-python", "cuda-core", "torch")
LIMITS_MB = ("AS", "DATA", "STACK", "MEMLOCK", "FSIZE")  # of the module resource
LIMITS = (*LIMITS_MB, "CPU", "NOFILE", "NPROC")
INSTRUCTIONS = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "amx_tile",
    "amx_int8",
    "asimd",
    "asimdhp",
    "sve",
)
# Variables that change speed or results. A path in one of them is left out.
VARIABLES = re.compile(
    r"(ESAM_RT|ORT|NUMBA|OMP|MKL|OPENBLAS|NVIDIA|CUDA|TRT)_\w+|LD_PRELOAD|PYTHON(UTF8|IOENCODING)|LC_ALL|LANG"
)
MB = 1 << 20


def bug_report(diagnosis: Diagnosis, proc: Path = PROC, cgroups: Path = CGROUPS) -> dict[str, str]:
    """Collect what a maintainer asks for first.

    Args:
        diagnosis: Result of ``diagnose``.
        proc: Folder of the kernel's process files.
        cgroups: Folder where control groups are mounted.

    Returns:
        Text by title, in order. Each text is one line.
    """
    lines = {
        "esam-rt": f"{__version__}, Python {platform.python_version()}, {platform.platform()}",
        "can run on": ", ".join(diagnosis.backends) or "nothing",
        "packages": ", ".join(_packages()),
    }
    shown = {"onnxruntime", "tensorrt", "tensorrt-rtx", "gpu"}
    for finding in diagnosis.findings:
        is_shown = finding.name in shown or finding.name.startswith("onnxruntime on")
        if is_shown or (finding.state is State.BAD and finding.name != "cache"):
            lines[finding.name] = finding.found
    lines |= {
        "CPU": _cpu(proc),
        "memory": _memory(proc),
        "limits": ", ".join(_limits()) or "no limits are known on this system",
        "control group": ", ".join(f"{name} {value}" for name, value in _control_group(proc, cgroups).items())
        or "no limits",
        "cache": _cache(diagnosis),
        "text": f"{sys.getfilesystemencoding()} for files, {getattr(sys.stdout, 'encoding', None)} for stdout",
        "environment": ", ".join(_variables(os.environ)) or "nothing set",
    }
    return {title: anonymous(" ".join(text.split())) for title, text in lines.items()}


def as_block(report: Mapping[str, str]) -> str:
    """Write a report as one block of code that issue trackers keep as it is.

    Args:
        report: Result of ``bug_report``.

    Returns:
        Lines between two fences of Markdown.
    """
    return "\n".join(["```text", *(f"{title}: {text.replace('```', '')}" for title, text in report.items()), "```"])


def anonymous(text: str) -> str:
    """Remove the names of the user, of the machine, and of folders outside the home folder.

    Args:
        text: One line.

    Returns:
        The line with ``~``, ``(path)``, ``(user)`` and ``(host)`` in their places.
    """
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home raises without a home folder
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    text = re.sub(r"(?<![\w~/.-])/[^\s,:;'\")]+", "(path)", text)
    for name, placeholder in ((_user(), "(user)"), (platform.node(), "(host)")):
        if name:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", placeholder, text)
    return text


def _packages() -> Iterator[str]:
    """Yield each required package with its version, then the optional ones that are installed."""
    try:
        required = [r for r in metadata.requires("esam-rt") or () if "extra ==" not in r]
    except metadata.PackageNotFoundError:
        required = []
        yield "esam-rt itself is not installed by pip"
    for name in [*(match[0] for r in required if (match := re.match(r"[\w.-]+", r))), *OPTIONAL]:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            if name not in OPTIONAL:
                yield f"{name} missing"


def _cpu(proc: Path) -> str:
    """The model, its cores, those that this process may use, and its instructions for vectors."""
    fields = dict(_fields(proc / "cpuinfo"))
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?"
    vectors = " ".join(name for name in INSTRUCTIONS if name in flags) or "unknown instructions"
    model = fields.get("model name") or platform.processor() or platform.machine()
    return f"{model}, {usable} of {os.cpu_count()} cores usable, {vectors}"


def _memory(proc: Path) -> str:
    """Memory and swap of the whole machine."""
    fields = dict(_fields(proc / "meminfo"))
    known = {
        words: int(fields[name].split()[0]) * 1024 / 1e9
        for name, words in (("MemTotal", "in all"), ("MemAvailable", "available"), ("SwapTotal", "swap"))
        if fields.get(name, "")[:1].isdigit()
    }
    return ", ".join(f"{gigabytes:.1f} GB {words}" for words, gigabytes in known.items()) or "unknown"


def _limits() -> Iterator[str]:
    """Yield the limits of this process by the names of ``setrlimit``."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for name in LIMITS:
        soft = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
        value = f"{soft / MB:.0f} MB" if name in LIMITS_MB else str(soft)
        yield f"{name} {'unlimited' if soft == resource.RLIM_INFINITY else value}"


def _control_group(proc: Path, cgroups: Path) -> dict[str, str]:
    """Find the strictest limits on the way from this process's group to the root, of both versions."""
    found: dict[str, list[float]] = {}
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        names = set(controllers.split(","))
        root = cgroups / controllers if controllers else cgroups
        folder = root / group.strip("/")
        above = [] if ".." in folder.parts else [folder, *folder.parents]
        for place in [root, *(p for p in above if root in p.parents)]:
            if not controllers:
                _note(found, "memory", _text(place / "memory.max"))
                _note(found, "pids", _text(place / "pids.max"))
                quota, period = [*_text(place / "cpu.max").split(), "", ""][:2]
                _note(found, "cpu", quota, period)
            if "memory" in names:
                _note(found, "memory", _text(place / "memory.limit_in_bytes"))
            if "pids" in names:
                _note(found, "pids", _text(place / "pids.max"))
            if "cpu" in names:
                _note(found, "cpu", _text(place / "cpu.cfs_quota_us"), _text(place / "cpu.cfs_period_us"))
    units = {"memory": (MB, " MB"), "cpu": (1, " cores"), "pids": (1, "")}
    return {name: f"{min(found[name]) / unit:g}{word}" for name, (unit, word) in units.items() if name in found}


def _note(found: dict[str, list[float]], name: str, value: str, divisor: str = "1") -> None:
    """Keep a limit, unless it is missing or says that there is no limit."""
    if value.strip().isdigit() and divisor.strip().isdigit() and int(divisor) > 0 and int(value) < 1 << 60:
        found.setdefault(name, []).append(int(value) / int(divisor))


def _cache(diagnosis: Diagnosis) -> str:
    """Tell where the cache lies and if it can be written. A folder outside the home folder is not named."""
    folder = os.path.abspath(cache_folder())  # noqa: PTH100 - links stay, as the user wrote them
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home raises without a home folder
    is_inside = len(home) > 1 and Path(folder).is_relative_to(home)
    place = f"~/{Path(folder).relative_to(home).as_posix()}" if is_inside else "outside the home folder"
    given = " by ESAM_RT_CACHE" if os.environ.get("ESAM_RT_CACHE") else ""
    state = next((f for f in diagnosis.findings if f.name == "cache"), None)
    if state is None or state.state is State.BAD:
        return f"{place}{given}, cannot be written"
    return f"{place}{given},{state.found.rpartition(',')[2]}"


def _variables(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the variables that matter. The place of the cache is told elsewhere."""
    for name, value in sorted(environment.items()):
        if VARIABLES.fullmatch(name) and name != "ESAM_RT_CACHE":
            yield f"{name}=(path)" if os.sep in value else f"{name}={value}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no entry in the list of users
        return ""


def _fields(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the ``name: value`` lines of a file of the kernel."""
    for line in _text(path).splitlines():
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()


def _text(path: Path) -> str:
    """The content, empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
