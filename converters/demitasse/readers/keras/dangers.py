"""What a Keras file can hold besides numbers and the description of a net, and what that could do to a reader.

A file is a stranger's. Keras itself has run what files say more than once (CVE-2024-3660: Lambda layers of .h5 files;
CVE-2025-1550: any Python function named in a .keras file; CVE-2025-9905: Lambda layers of .h5 files in spite of
`safe_mode=True`). Here nothing in a file is ever run, imported, or followed to another file; whatever would need that
is a `Finding`.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

__all__ = ["Danger", "Finding", "is_pickle"]


class Danger(enum.Enum):
    """Names a kind of danger; the value says it to a user."""

    LAMBDA = "Python code"
    PICKLE = "pickled Python object"
    USER_CLASS = "class of the author's own"
    FOREIGN_OBJECT = "object of another library"
    OTHER_FILE = "path to another file"
    EXTERNAL_LINK = "external link"
    SOFT_LINK = "soft link"
    VIRTUAL_DATASET = "virtual dataset"
    EXTERNAL_STORAGE = "external storage"
    FILTER_PLUGIN = "filter that needs a plugin"
    COMPRESSION_BOMB = "compression bomb"
    OVERSIZED = "shape larger than the file"
    ARCHIVE_PATH = "archive member that leaves its folder"


@dataclass(frozen=True, slots=True)
class Finding:
    """One danger in a file: of which kind, where it stands, and what it would do.

    `layer` is the name of the layer that it concerns, if it is just one, and `kind` that layer's class.
    """

    danger: Danger
    where: str
    detail: str
    layer: str = ""
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.danger.value}: {self.detail}"


# PROTO with its version, of protocols 2 to 5 (https://github.com/python/cpython/blob/main/Lib/pickletools.py), then an
# opcode that can follow it: FRAME, an empty or marked collection, a global, a string, or a number.
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x95\]}(\x8ccX\x8d\x8eKMJNB)]")


def is_pickle(start: bytes) -> bool:
    """Tell from its first bytes whether something is a pickle (protocols 2 to 5, which Python 3 writes)."""
    return _PICKLE.match(start) is not None
