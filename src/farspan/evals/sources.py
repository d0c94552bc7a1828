"""Finding and reading the files of published benchmarks: a folder first, then the cache of the hub, then the hub.

A folder replaces the hub with the same relative names, so everything runs without a network. Files are read line by
line, out of zip archives too, and big arrays element by element: memory stays bounded however large a file is.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from farspan.errors import FarspanError

DATA_VARIABLE = "FARSPAN_DATA"
_CHUNK = 1 << 20


class MissingDataError(FarspanError):
    """A data file that is nowhere to be found; says what to download and where to put it."""


class DataFileError(FarspanError):
    """A data file that is not what it should be: damaged, another version, or of another form."""


@dataclass(frozen=True)
class DataFile:
    """One published file.

    repo : data set on the hub, `org/name`
    name : path inside it
    revision : commit that published scores belong to, or a branch
    sha256 : of its bytes, where known
    size : bytes, where known, for people
    other_names : further names under which it is accepted
    strict : another hash than the known one is refused; else it is told beside the scores
    """

    repo: str
    name: str
    revision: str = "main"
    sha256: str | None = None
    size: int | None = None
    other_names: tuple[str, ...] = ()
    strict: bool = True


def resolve_file(file: DataFile, data_dir: str | Path | None = None) -> Path:
    """Where a file is on this machine, downloaded if it must be.

    Looked for in `data_dir`, in the folder that the variable FARSPAN_DATA names, each as `org__name/file` and as
    `file`, in the hub's cache, and on the hub unless HF_HUB_OFFLINE is set. What was found is compared with the
    published hash where there is one.

    Raises
    ------
    MissingDataError : it is in none of these.
    DataFileError : its hash is another than the known one, and the file is `strict`.
    """
    tried: list[Path] = []
    for folder in (data_dir, os.environ.get(DATA_VARIABLE)):
        if not folder:
            continue
        for name in (file.name, *file.other_names):
            for place in (Path(folder) / file.repo.replace("/", "__") / name, Path(folder) / name):
                if place.is_file():
                    return _checked(place, file)
                tried.append(place)
    if data_dir is not None:
        # A folder that was named is all that is wanted; fetching something else behind it would surprise.
        raise _missing(file, tried, "")
    return _checked(_from_hub(file, tried), file)


def _from_hub(file: DataFile, tried: list[Path]) -> Path:
    """The file from the hub's cache, or from the hub, under the first of its names that is there."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    def got(name: str, *, local: bool) -> Path:
        return Path(
            hf_hub_download(file.repo, name, repo_type="dataset", revision=file.revision, local_files_only=local)
        )

    names = (file.name, *file.other_names)
    for name in names:
        try:
            return got(name, local=True)
        except (LocalEntryNotFoundError, EntryNotFoundError):
            continue
    if constants.HF_HUB_OFFLINE:
        raise _missing(file, tried, "the hub was not asked, since HF_HUB_OFFLINE is set")
    said: Exception | None = None
    for name in names:
        try:
            return got(name, local=False)
        except LocalEntryNotFoundError as error:
            # the hub cannot be reached, under no name
            raise _missing(file, tried, f"the hub says: {_first_line(error)}") from error
        except EntryNotFoundError as error:
            said = said or error
        except (HfHubHTTPError, OSError) as error:
            raise _missing(file, tried, f"the hub says: {_first_line(error)}") from error
    raise _missing(file, tried, f"the hub says: {_first_line(said)}") from said


def _first_line(error: Exception | None) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def hub_commit(path: Path) -> str:
    """The commit of a file in the hub's cache, empty for one that is elsewhere.

    A branch moves; what was read is told by its commit.
    """
    parts = path.parts
    place = len(parts) - 1 - parts[::-1].index("snapshots") if "snapshots" in parts else -1
    return parts[place + 1] if 0 <= place < len(parts) - 2 else ""


def _missing(file: DataFile, tried: list[Path], hub: str) -> MissingDataError:
    """What to download and where to put it, on one line."""
    size = "" if file.size is None else f" ({file.size / 1e6:,.1f} MB)"
    places = f"; looked at {', '.join(map(str, tried))}" if tried else ""
    return MissingDataError(
        f"no {file.name}{size} of {file.repo}{places}{'; ' + hub if hub else ''}. Download it, for instance with "
        f"`hf download --repo-type dataset {file.repo} {file.name} --revision {file.revision} --local-dir DIR`, and "
        f"pass --data-dir DIR or set {DATA_VARIABLE}; it may stand there as {file.name} or "
        f"{file.repo.replace('/', '__')}/{file.name}"
    )


def _checked(path: Path, file: DataFile) -> Path:
    if file.strict and file.sha256 is not None and (found := known_sha256(path)) != file.sha256:
        raise DataFileError(
            f"{path} is not the published {file.name}: its sha256 begins {found[:12]}, that one's {file.sha256[:12]}"
        )
    return path


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def known_sha256(path: str | Path) -> str:
    """`file_sha256`, read once for each state of a file that its size and time tell apart."""
    state = Path(path).resolve()
    facts = state.stat()
    return _hash_of(str(state), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash_of(path: str, size: int, changed: int) -> str:
    return file_sha256(path)


@contextmanager
def opened(path: Path, member: str | None = None) -> Iterator[io.BufferedIOBase]:
    """A file's bytes, or those of the archive member whose path ends with `member`.

    Raises
    ------
    DataFileError : no archive, no such member, or several.
    """
    if member is None:
        with path.open("rb") as stream:
            yield stream
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataFileError(f"{path} is no readable zip archive: {error}") from error
    with archive:
        found = [name for name in archive.namelist() if f"/{name}".endswith(f"/{member}")]
        if len(found) != 1:
            raise DataFileError(f"{path} has {len(found) or 'no'} members named {member}")
        with archive.open(found[0]) as stream:
            yield stream  # type: ignore[misc]


def iter_jsonl(path: Path, member: str | None = None) -> Iterator[dict[str, object]]:
    """Objects of a file with one a line, read line by line.

    Raises
    ------
    DataFileError : a line that is no JSON object (its number is named).
    """
    with opened(path, member) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataFileError(f"{member or path}, line {number} is no JSON: {error}") from error
            yield _object(row, f"{member or path}, line {number}")


def iter_json_array(path: Path, member: str | None = None) -> Iterator[dict[str, object]]:
    """Objects of a file that is one array, read one after another.

    Raises
    ------
    DataFileError : no array of objects.
    """
    import ijson

    with opened(path, member) as stream:
        try:
            for number, row in enumerate(ijson.items(stream, "item", use_float=True)):
                yield _object(row, f"{member or path}, element {number}")
        except ijson.JSONError as error:
            raise DataFileError(f"{member or path} is no JSON array: {error}") from error


def _object(row: object, where: str) -> dict[str, object]:
    if not isinstance(row, dict):
        raise DataFileError(f"{where} is no object but {type(row).__name__}")
    return row
