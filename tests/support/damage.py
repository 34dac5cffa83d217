"""What a broken disk or a wrong hand does to a file, while it is in use or not."""

import os
from pathlib import Path

_PAGE = 4096
_SPOTS = 10


def damage(path: Path, kind: str) -> None:
    """Overwrite ``"spots"`` of a file or ``"all"`` of it, or cut it to ``"half"``."""
    size = path.stat().st_size
    if kind == "half":
        os.truncate(path, size // 2)
        return
    spots = [(size * tenth // _SPOTS // _PAGE * _PAGE, _PAGE) for tenth in range(1, _SPOTS)]
    with path.open("r+b") as file:
        for start, length in spots if kind == "spots" else [(0, size)]:
            file.seek(start)
            file.write(os.urandom(length))
