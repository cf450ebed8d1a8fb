"""Checksums of the files of a shared model, as ``sha256sum --check`` reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from transanno.data._files import MODEL_FILE

CHECKSUMS_FILE = "SHA256SUMS"


def sha256_of(path: Path) -> str:
    """File -> SHA-256 of its bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Write down what the files of these names are."""
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in sorted(names)]
    (folder / CHECKSUMS_FILE).write_text("".join(lines), encoding="utf-8", newline="\n")


def check_checksums(folder: Path, *, source: str) -> None:
    """Raise ValueError unless the model, and all else that is listed, is what was written down; ``source`` says where it is from."""
    listed = folder / CHECKSUMS_FILE
    if not listed.is_file():
        raise ValueError(
            f"{source} holds no {CHECKSUMS_FILE}, so that nothing says whether its files are complete. Ask its authors to share the "
            "model with model.push_to_hub(...), which writes one. If you trust it as it is, download it and load the folder: "
            "load(folder, False)."
        )
    lines = (line.partition("  ") for line in listed.read_text(encoding="utf-8").splitlines() if line)
    expected = {name: digest for digest, _, name in lines}
    if MODEL_FILE not in expected:
        raise ValueError(
            f"{CHECKSUMS_FILE} of {source} does not list {MODEL_FILE}. It is damaged, or was written for something else."
        )
    names = {name: folder / name for name in expected}
    wrong = [name for name, path in names.items() if Path(name).name != name or not path.is_file()]
    wrong += [name for name, path in names.items() if name not in wrong and sha256_of(path) != expected[name]]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} of {source} {'is' if len(wrong) == 1 else 'are'} missing or not as {CHECKSUMS_FILE} says: the download was "
            "cut short, or a file was changed after the model was shared. Fetch it again, or ask its authors."
        )


def check_sha256(path: Path, expected: str, *, source: str) -> None:
    """Raise ValueError unless the file is the one of this checksum."""
    found = sha256_of(path) if path.is_file() else "missing"
    if found != expected:
        raise ValueError(
            f"{path.name} of {source} is not the file that was registered: its SHA-256 is {found}, and {expected} was expected. The "
            "model was replaced or damaged: ask its authors, or whoever wrote the registry of models."
        )
