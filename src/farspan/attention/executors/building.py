"""Building a small C program with the machine's own compiler, once for each source, compiler and processor.

The library lies in the cache folder under a name made of all that it depends on, or for this process alone beside it
where the folder cannot be written. What the program computes, and what happens without it, is its caller's business.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from farspan.attention.executors.failure import ExecutorFailed
from farspan.attention.executors.files import cache_folder

SHARED = ("-O3", "-shared", "-fPIC")
# what turns on the processor's own instructions, in the dialects of compilers
OWN = (("-march=native",), ("-mcpu=native",), ())


class BuildFailed(ExecutorFailed):
    """A C program could not be built or loaded on this machine."""


def program(name: str, source: bytes, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The loaded program: from the cache folder, or compiled now (under a second).

    Parameters
    ----------
    name : what its file's name begins with
    source : text of the one C file
    flags : of the compiler, besides those that every shared library takes

    Raises
    ------
    BuildFailed : no C compiler, or the program does not build or load here.
    """
    candidates = (os.environ.get("CC"), "cc", "gcc", "clang")
    compiler = next((found for candidate in candidates if (found := _which(candidate))), None)
    if compiler is None:
        raise BuildFailed("no C compiler found (cc, gcc, clang or $CC)")
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    flags = (*SHARED, *flags)
    parts = [source.hex(), compiler, version, platform.machine(), str(sorted(capabilities.items())), *flags]
    path = cache_folder() / f"{name}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}.so"
    if not path.exists():
        path = _build(compiler, source, flags, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildFailed(f"{path} does not load here ({error})") from error


def _which(name: str | None) -> str | None:
    return shutil.which(name) if name else None


def _build(compiler: str, source: bytes, flags: tuple[str, ...], path: Path) -> Path:
    """Compile into the cache folder, or beside it where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent))
    except OSError:
        folder = Path(tempfile.mkdtemp())
        path = folder / path.name
    text, draft = folder / "program.c", folder / "draft.so"
    text.write_bytes(source)
    complaint = ""
    for own in OWN:
        done = subprocess.run(
            [compiler, *flags, *own, "-o", str(draft), str(text), "-lm"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            draft.replace(path)
            break
        complaint = done.stderr.strip().splitlines()[0][:200] if done.stderr.strip() else "no reason given"
    text.unlink()
    if folder != path.parent:
        folder.rmdir()
    if not path.exists():
        raise BuildFailed(f"{compiler} does not build {path.stem.rsplit('-', 1)[0]} ({complaint})")
    return path
