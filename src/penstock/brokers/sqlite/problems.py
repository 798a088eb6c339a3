"""What SQLite says when something is wrong with a file, and what to do about it."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from penstock.errors import BrokerError, QueueUnknownError

# Python 3.10 has no codes of errors, so this goes by SQLite's own words.
_LOCKED = ("database is locked", "database table is locked", "database schema is locked")
_CURES = {
    "database or disk is full": (
        "is full: there is no room on its disk, or for more pages in it. Make room; what was "
        "accepted is safe"
    ),
    "attempt to write a readonly database": (
        "cannot be written: see that this user may write the file, and its folder, where SQLite "
        "keeps two more files beside it"
    ),
    "unable to open database file": (
        "cannot be opened: see that its folder exists, and that this user may read and write there"
    ),
    "file is not a database": "is no SQLite database: give the queue another path",
    "database disk image is malformed": (
        "is damaged: stop all processes, and read it with sqlite3's .recover, or take a backup"
    ),
    "no such table": (
        "has lost its tables, or is another file than the one that was opened: start the queue "
        "again"
    ),
}

#: Files of these kinds are on other machines.
_NETWORK = frozenset(
    {"9p", "afs", "ceph", "cifs", "davfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"smb2", "smb3", "smbfs"}
    | {"fuse.davfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"}
)


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another connection has the lock that was asked for."""
    return str(error).startswith(_LOCKED)


def explained(error: sqlite3.Error, where: str) -> BrokerError:
    """The error to raise instead: it names the file, and the cure."""
    text = str(error)
    for said, cure in _CURES.items():
        if said in text:
            return BrokerError(f"{where} {cure} (SQLite: {text})")
    return BrokerError(f"{where} cannot be used (SQLite: {text})")


class FileLockedError(BrokerError):
    """Another program has the lock of the file, and does not let go of it."""


def locked(where: str, seconds: float) -> FileLockedError:
    """What to raise when another program does not let go of a file."""
    return FileLockedError(
        f"{where} is locked: another program has kept a write transaction open for {seconds:g} s. "
        "Have it commit, or end it: it may be a database browser, or put(connection=...) without a "
        "commit. A larger busy_timeout waits for longer"
    )


def unknown(error: sqlite3.Error, where: str) -> QueueUnknownError:
    """What to raise when the disk failed in a commit."""
    return QueueUnknownError(
        f"{where}: the disk failed while the item was written, so it may be stored or not "
        f"(SQLite: {error}). See the system's log for the disk"
    )


def check_path(path: Path) -> None:
    """See that a file may hold a queue.

    Raises:
        BrokerError: it is on a network file system, or no file, or its folder is missing.
    """
    folder = path.parent
    if not folder.is_dir():
        raise BrokerError(f"{path} cannot be opened: there is no folder {folder}. Make it first")
    if path.is_dir():
        raise BrokerError(f"{path} cannot be opened: it is a folder. Name a file in it")
    kind = _kind_of_file_system(folder)
    if kind in _NETWORK:
        raise BrokerError(
            f"{path} is on a network file system ({kind}), where SQLite's locks do not work and "
            "items would be lost. Take a disk of this machine; for several machines take a queue "
            "on NATS"
        )


def _kind_of_file_system(folder: Path) -> str:
    """As Linux names it; empty where it cannot be told."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        return kind_of_mount(mounts, folder.resolve())
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            raise
        return ""


def kind_of_mount(mounts: str, folder: Path) -> str:
    """The kind of file system that ``folder`` is on, by the text of ``/proc/self/mountinfo``."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = Path(_unescaped(fields[4]))
        # The last of two at one place hides the first.
        if len(point.parts) >= best and (point == folder or point in folder.parents):
            best, kind = len(point.parts), after.split(" ", 1)[0]
    return kind


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


# -- files and forks ------------------------------------------------------------------------------

#: Files that the parent of this process had open when it forked. SQLite cannot open them again
#: here: it would take the locks of the parent for those of the child.
inherited: set[tuple[int, int]] = set()


def identity_of(path: Path) -> tuple[int, int] | None:
    """What a file is known by, whatever its path."""
    try:
        told = os.stat(path)
    except OSError:
        return None
    return told.st_dev, told.st_ino


def refuse_inherited(path: Path) -> None:
    """See that the parent of this process did not have the file open when it forked.

    Raises:
        BrokerError: it did.
    """
    if inherited and identity_of(path) in inherited:
        raise BrokerError(
            f"{path} was open in the parent of this process when it forked, and SQLite cannot open "
            "a file again after that. Start the queue after the fork, or start processes by spawn "
            "or forkserver"
        )
