"""A model of a power cut: of every SQLite file, a copy of what was synced, as the disk would have it afterwards.

SQLite reaches files through a table of functions (its VFS). In the process that calls `install` those of the
default one are wrapped: a write is remembered, and reaches the copy only with the next sync of its file. What
was written and not synced is lost in the cut, all of it: a disk may keep some, but owes none.
"""

import _sqlite3
import ctypes
import os
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

_POINTER_BYTES = ctypes.sizeof(c_void_p)
# Where the functions are in `sqlite3_vfs` and `sqlite3_io_methods` (https://sqlite.org/c3ref/vfs.html).
_OPEN, _DELETE = 16 + 3 * _POINTER_BYTES, 16 + 4 * _POINTER_BYTES
_WRITE, _TRUNCATE, _SYNC, _METHODS = 3, 4, 5, 19

_OpenT = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DeleteT = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_WriteT = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TruncateT = CFUNCTYPE(c_int, c_void_p, c_int64)
_SyncT = CFUNCTYPE(c_int, c_void_p, c_int)

Change = Callable[[Any], object]
_kept: list[Any] = []


class PowerModel:
    """What the disk would hold, of the files below `source`, in `copy`."""

    def __init__(self, source: Path, copy: Path) -> None:
        self._source = source
        self._copy = copy
        self._paths: dict[int, Path] = {}
        self._unsynced: dict[Path, list[Change]] = {}

    def opened(self, file: int, name: bytes | None) -> None:
        path = Path(os.fsdecode(name)) if name else None
        if path is not None and path.is_relative_to(self._source):
            self._paths[file] = self._copy / path.relative_to(self._source)
        else:
            self._paths.pop(file, None)

    def written(self, file: int, data: bytes, offset: int) -> None:
        def write(copy: Any) -> None:
            copy.seek(offset)
            copy.write(data)

        self._remember(file, write)

    def truncated(self, file: int, size: int) -> None:
        self._remember(file, lambda copy: copy.truncate(size))

    def synced(self, file: int) -> None:
        path = self._paths.get(file)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with path.open("r+b") as copy:
            for change in self._unsynced.pop(path, ()):
                change(copy)

    def deleted(self, name: bytes) -> None:
        path = Path(os.fsdecode(name))
        if path.is_relative_to(self._source):
            (self._copy / path.relative_to(self._source)).unlink(missing_ok=True)

    def _remember(self, file: int, change: Change) -> None:
        path = self._paths.get(file)
        if path is not None:
            self._unsynced.setdefault(path, []).append(change)


def install(source: Path, copy: Path) -> None:
    """Wrap this process's SQLite; for a process that ends soon."""
    vfs, model = _default_vfs(), PowerModel(source, copy)
    original_open = _OpenT(_word(vfs + _OPEN).value or 0)
    original_delete = _DeleteT(_word(vfs + _DELETE).value or 0)

    # Names stay addresses: SQLite keeps them for as long as the file is open.
    def opened(own: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        result = int(original_open(own, name, file, flags, out))
        if result == 0:
            model.opened(file, ctypes.string_at(name) if name else None)
            _wrap_file(file, model)
        return result

    def deleted(own: int, name: int, sync: int) -> int:
        result = int(original_delete(own, name, sync))
        if result == 0:
            model.deleted(ctypes.string_at(name))
        return result

    _word(vfs + _OPEN).value = _address(_OpenT(opened))
    _word(vfs + _DELETE).value = _address(_DeleteT(deleted))


def _wrap_file(file: int, model: PowerModel) -> None:
    """Give an open file a copy of its functions, of which three also tell the model."""
    table = c_void_p * _METHODS
    methods = table.from_buffer_copy(table.from_address(_word(file).value or 0))  # the first member points to them
    write = _WriteT(methods[_WRITE] or 0)
    truncate, sync = _TruncateT(methods[_TRUNCATE] or 0), _SyncT(methods[_SYNC] or 0)

    def written(own: int, data: int, amount: int, offset: int) -> int:
        model.written(own, ctypes.string_at(data, amount), offset)
        return int(write(own, data, amount, offset))

    def truncated(own: int, size: int) -> int:
        model.truncated(own, size)
        return int(truncate(own, size))

    def synced(own: int, flags: int) -> int:
        result = int(sync(own, flags))
        model.synced(own)
        return result

    methods[_WRITE] = _address(_WriteT(written))
    methods[_TRUNCATE] = _address(_TruncateT(truncated))
    methods[_SYNC] = _address(_SyncT(synced))
    _kept.append(methods)
    _word(file).value = ctypes.addressof(methods)


def _default_vfs() -> int:
    for library in (ctypes.CDLL(_sqlite3.__file__) if hasattr(_sqlite3, "__file__") else None, ctypes.CDLL(None)):
        find = getattr(library, "sqlite3_vfs_find", None)
        if find is not None:
            find.restype = c_void_p
            return int(find(None))
    raise RuntimeError("this Python hides its SQLite: no model of a power cut")


def _word(address: int) -> c_void_p:
    return c_void_p.from_address(address)


def _address(function: Any) -> int | None:
    _kept.append(function)
    return ctypes.cast(function, c_void_p).value
