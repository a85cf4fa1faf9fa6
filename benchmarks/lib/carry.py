"""Bring packages to a machine without network: cut wheels into parts, join and install them there.

Here:   python -m benchmarks.lib.carry cut WHEELS PARTS [--megabytes 50]     writes folders PARTS/1, PARTS/2 …
There:  python -m benchmarks.lib.carry keep PARTS/1 STORE                    for each folder, as it arrives
        python -m benchmarks.lib.carry run STORE -m benchmarks.table5 …      installs if needed, then runs Python

``run`` does not change the packages installed there. The wheels are installed to STORE/site without their dependencies,
and Python searches it first. The loader also finds the CUDA libraries that pip installed. Only Python and pip are
needed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

LIST = "wheels.json"  # in each folder of parts: the names of all wheels and the SHA-256 of their parts
INSTALLED = "installed.json"  # a copy of the list, written after STORE/site was installed from it


def cut(wheels: Path, parts: Path, part_bytes: int) -> list[Path]:
    """Cut wheels into parts.

    Args:
        wheels: A folder of wheels.
        parts: The folder to write to.
        part_bytes: Largest size of a folder of parts.

    Returns:
        The folders of parts.
    """
    listed: dict[str, list[str]] = {}
    folders: list[Path] = []
    room = 0
    for wheel in sorted(wheels.glob("*.whl")):
        content = wheel.read_bytes()
        listed[wheel.name] = []
        for nth, start in enumerate(range(0, len(content), part_bytes)):
            part = content[start : start + part_bytes]
            if len(part) > room:
                folders.append(parts / str(len(folders) + 1))
                folders[-1].mkdir(parents=True)
                room = part_bytes
            (folders[-1] / f"{wheel.name}.{nth}").write_bytes(part)
            listed[wheel.name].append(hashlib.sha256(part).hexdigest())
            room -= len(part)
    for folder in folders:
        (folder / LIST).write_text(json.dumps(listed))
    return folders


def keep(folder: Path, store: Path) -> None:
    """Add a folder of parts to the store."""
    store.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        shutil.copyfile(file, store / file.name)


def join(store: Path) -> list[Path]:
    """Join the parts of a store to wheels. SystemExit names a part that is missing or damaged."""
    wheels = []
    for name, digests in json.loads((store / LIST).read_text()).items():
        wheel = store / "wheels" / name
        wheel.parent.mkdir(exist_ok=True)
        with wheel.open("wb") as f:
            for nth, digest in enumerate(digests):
                part = store / f"{name}.{nth}"
                content = part.read_bytes() if part.is_file() else b""
                if hashlib.sha256(content).hexdigest() != digest:
                    raise SystemExit(f"{part}: missing or damaged. Run keep with its folder again.")
                f.write(content)
        wheels.append(wheel)
    return wheels


def install(wheels: list[Path], target: Path) -> None:
    """Install wheels to a folder, without dependencies and without network."""
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), *map(str, wheels)]
    subprocess.run(command, check=True)


def installed(store: Path) -> Path:
    """Return the store's installed packages. They are installed anew if the list of wheels has changed."""
    target, done, listed = store / "site", store / INSTALLED, (store / LIST).read_text()
    if not done.is_file() or done.read_text() != listed:
        wheels = join(store)
        done.unlink(missing_ok=True)
        if target.exists():
            shutil.rmtree(target)
        install(wheels, target)
        written = store / f"{INSTALLED}.part"
        written.write_text(listed)
        written.replace(done)
    return target


def environment(target: Path) -> dict[str, str]:
    """Return an environment for Python with `target` first, and with the CUDA libraries that pip installed."""
    packages = [target, *map(Path, (*site.getsitepackages(), *sys.path))]
    libraries = dict.fromkeys(str(p) for folder in packages for p in sorted(folder.glob("nvidia/*/lib")))
    paths = {"PYTHONPATH": [str(target)], "LD_LIBRARY_PATH": list(libraries)}
    before = {name: os.environ[name].split(os.pathsep) for name in paths if os.environ.get(name)}
    joined = {name: os.pathsep.join([*new, *before.get(name, [])]) for name, new in paths.items()}
    return {**os.environ, **joined}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cutting = commands.add_parser("cut", help="cut wheels into parts")
    cutting.add_argument("wheels", type=Path)
    cutting.add_argument("parts", type=Path)
    cutting.add_argument("--megabytes", type=int, default=50, help="largest size of a folder of parts")
    keeping = commands.add_parser("keep", help="add a folder of parts to a store")
    keeping.add_argument("folder", type=Path)
    keeping.add_argument("store", type=Path)
    running = commands.add_parser("run", help="install the store's wheels and run Python")
    running.add_argument("store", type=Path)
    running.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of Python")
    a = parser.parse_args()
    if a.command == "cut":
        print(*cut(a.wheels, a.parts, a.megabytes << 20), sep="\n")
    elif a.command == "keep":
        keep(a.folder, a.store)
    else:
        target = installed(a.store)
        raise SystemExit(subprocess.run([sys.executable, *a.arguments], env=environment(target)).returncode)


if __name__ == "__main__":
    main()
