"""What of this installation works: versions, device, plugins, extras, folders. Nothing is changed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import __version__
from .errors import SciInferError
from .extend.registry import registry

Level = Literal["ok", "info", "warn", "bad"]
_PYTHON = (3, 11)
_ASIDE = ("dev", "docs")  # for who works on the package itself


@dataclass(frozen=True)
class Finding:
    """One line: ``section``, ``name``, how it stands, what was found, and what to do about it."""

    section: str
    name: str
    level: Level
    text: str
    fix: str = ""


def examine() -> list[Finding]:
    """All findings, section by section.

    Example:
        >>> {finding.section for finding in examine()} >= {"versions", "compute", "plugins", "extras", "folders"}
        True
    """
    return [finding for part in (_versions, _compute, _plugins, _extras, _folders) for finding in part()]


def _versions() -> Iterator[Finding]:
    fine = sys.version_info[:2] >= _PYTHON
    needed = ".".join(map(str, _PYTHON))
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("versions", "python", "ok" if fine else "bad", text, "" if fine else f"use Python >= {needed}")
    yield Finding("versions", "sciinfer", "ok", f"{__version__} in {Path(__file__).parent}")
    declared = {name: specifier for name, specifier, extra in _requirements() if not extra}
    for name, specifier in {**declared, "numpy": declared.get("numpy", "")}.items():
        yield _package("versions", name, specifier)


def _package(section: str, name: str, specifier: str) -> Finding:
    from packaging.specifiers import SpecifierSet

    wanted = f"{name}{specifier}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(section, name, "bad", "not installed", f'pip install "{wanted}"')
    if not SpecifierSet(specifier).contains(version, prereleases=True):
        return Finding(section, name, "bad", f"{version}, needed is {specifier}", f'pip install -U "{wanted}"')
    return Finding(section, name, "ok", version)


def _requirements() -> Iterator[tuple[str, str, str]]:
    """``(name, specifier, extra)`` of what the distribution declares; extras of extras aside."""
    from packaging.requirements import Requirement

    extras = importlib.metadata.metadata("sciinfer").get_all("Provides-Extra") or []
    for line in importlib.metadata.requires("sciinfer") or ():
        wanted = Requirement(line)
        if wanted.name == "sciinfer":
            continue
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            yield wanted.name, str(wanted.specifier), ""
            continue
        for extra in extras:
            if wanted.marker.evaluate({"extra": extra}):
                yield wanted.name, str(wanted.specifier), extra


def _compute() -> Iterator[Finding]:
    try:
        import torch

        lower = torch.linalg.cholesky(torch.eye(2, dtype=torch.float64) * 4.0)
        works = bool(lower[0, 0] == 2.0)
    except (ImportError, OSError, RuntimeError) as err:
        yield Finding("compute", "torch", "bad", f"does not work: {err}", "reinstall torch")
        return
    text = "float64 linear algebra works" if works else "float64 linear algebra gives a wrong answer"
    yield Finding("compute", "torch", "ok" if works else "bad", text, "" if works else "reinstall torch")
    yield _device()
    set_by = f", OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}" if "OMP_NUM_THREADS" in os.environ else ""
    yield Finding("compute", "threads", "info", f"{torch.get_num_threads()} of {os.cpu_count()} cores{set_by}")
    yield _memory()


def _device() -> Finding:
    import torch

    from .training import resolve_device

    try:
        device = resolve_device("auto", "float64")
    except SciInferError as err:
        return Finding("compute", "device", "bad", err.what, err.fix or "")
    name = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return Finding("compute", "device", "info", f"{device} (device=auto, float64){name}")


def _memory() -> Finding:
    from .labelled.readers.common import Limits

    return Finding(
        "compute", "memory", "info", f"files may ask for up to {Limits().bytes / 1e9:.1f} GB (half of the free)"
    )


def _plugins() -> Iterator[Finding]:
    for plugin in registry().manager.loaded:
        count = sum(map(len, plugin.entries.values()))
        yield Finding(
            "plugins", plugin.name, "ok", f"{plugin.info.version}, {count} entries, from {plugin.distribution}"
        )
    for problem in registry().problems:
        origin = f" ({problem.distribution})" if problem.distribution else ""
        text = f"left out at {problem.stage}{origin}: {' '.join(problem.reason.split())}"
        yield Finding("plugins", problem.plugin, "warn", text, "update or uninstall it; the others work")


def _extras() -> Iterator[Finding]:
    found: dict[str, list[Finding]] = {}
    for name, specifier, extra in _requirements():
        if extra and extra not in _ASIDE:
            found.setdefault(extra, []).append(_package("extras", name, specifier))
    for extra, packages in found.items():
        absent = [package for package in packages if package.level != "ok"]
        have = ", ".join(f"{package.name} {package.text}" for package in packages if package.level == "ok")
        if not absent:
            yield Finding("extras", extra, "ok", have)
            continue
        lacking = ", ".join(f"{package.name} {package.text}" for package in absent)
        yield Finding("extras", extra, "info", lacking, f'pip install "sciinfer[{extra}]"')


def _folders() -> Iterator[Finding]:
    try:
        with tempfile.NamedTemporaryFile(prefix="sciinfer-") as file:
            file.write(b"x" * 4096)
            file.flush()
        yield Finding("folders", "temporary", "ok", f"{tempfile.gettempdir()} is writable")
    except OSError as err:
        fix = "free some space, or set TMPDIR to a writable folder"
        yield Finding("folders", "temporary", "bad", f"cannot be written: {err}", fix)
    yield _data_folder()
    selection = os.environ.get("SCIINFER_PLUGINS")
    if selection is not None:
        yield Finding("folders", "SCIINFER_PLUGINS", "info", selection)


def _data_folder() -> Finding:
    named = os.environ.get("SCIINFER_DATA")
    if not named:
        return Finding("folders", "SCIINFER_DATA", "info", "not set: data sets of source 'local' cannot be opened")
    if not Path(named).is_dir():
        return Finding(
            "folders", "SCIINFER_DATA", "warn", f"{named} is not a folder", "set it to the folder of the data"
        )
    areas = sorted(path.name for path in Path(named).iterdir() if path.is_dir())
    return Finding("folders", "SCIINFER_DATA", "ok", f"{named} ({', '.join(areas[:8]) or 'empty'})")
