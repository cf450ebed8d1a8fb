"""Why an HDF5 file that is whole cannot be read: a filter that is not installed, or another program that has it open."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py

# Numbers that filters are registered under with the HDF Group.
_FILTERS = {
    305: "LZO",
    307: "bzip2",
    32000: "LZF",
    32001: "Blosc",
    32004: "LZ4",
    32008: "bitshuffle",
    32015: "zstd",
    32026: "Blosc2",
}
_LOCKED = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK}


class UnreadableFilterError(ValueError):
    """Values are compressed by something that is not installed."""


def missing_filters(file: h5py.File) -> list[str]:
    """-> names of the filters that are needed to read the file and are not there."""
    import h5py

    needed: dict[int, str] = {}

    def look(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            properties = item.id.get_create_plist()
            for i in range(properties.get_nfilters()):
                number, _, _, text = properties.get_filter(i)
                needed[number] = _FILTERS.get(number) or text.decode(errors="replace").strip() or f"filter {number}"

    file.visititems(look)
    return sorted(name for number, name in needed.items() if not h5py.h5z.filter_avail(number))


def is_locked(error: BaseException) -> bool:
    """Whether a file could not be opened because another program has locked it."""
    text = str(error)
    return isinstance(error, OSError) and (
        "unable to lock file" in text
        or "already open for write" in text
        or (isinstance(error, BlockingIOError) and error.errno in _LOCKED)
    )
