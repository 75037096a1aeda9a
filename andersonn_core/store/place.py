"""Where a store lies: what kind of file system, and whether locks hold there.

SQLite's write-ahead log (WAL) lets readers go on while the driver writes, but it shares memory
between the programs, so that it works on one host only. On a network file system a store uses a
rollback journal, and only where a lock that one program holds keeps another one out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import psutil

from andersonn_core.store.errors import UnsafePlaceError

MOUNTS = Path("/proc/self/mounts")
# Names of file systems that several hosts may have mounted at once.
SHARED = frozenset(
    "9p afpfs afs beegfs ceph cifs cvmfs fuse.ceph fuse.glusterfs fuse.juicefs fuse.s3fs "
    "fuse.rclone fuse.sshfs glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs pvfs2 smb3 smbfs "
    "virtiofs webdav wekafs".split()
)
REMOTE = "remote"  # what Windows calls such a drive
# Mount options of NFS, CIFS and Lustre with which no other host hears of a lock.
LOCAL_LOCKS = frozenset("nolock local_lock=all local_lock=posix nobrl localflock noflock".split())
PROBE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    connection.execute("BEGIN EXCLUSIVE")
except sqlite3.OperationalError as error:
    print(error)
"""


class Mount(NamedTuple):
    """A mounted file system: its kind and its options, as the system names them."""

    at: str
    kind: str
    options: str


def mount_of(path: Path) -> Mount:
    """The mount that a path is on; one without a kind where nothing tells."""
    here, found = os.path.realpath(path), Mount("", "", "")
    for mount in _mounts():
        inside = here == mount.at or here.startswith(mount.at.rstrip("/") + "/")
        if inside and len(mount.at) >= len(found.at):
            found = mount
    return found


def _mounts() -> list[Mount]:
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        parts = psutil.disk_partitions(all=True)
        return [Mount(part.mountpoint, part.fstype, part.opts) for part in parts]
    return [Mount(_plain(at), kind, options)
            for _, at, kind, options in (line.split()[:4] for line in lines)]  # fmt: skip


def _plain(escaped: str) -> str:
    """A path without the escapes of /proc, where a space is a backslash and 040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), escaped)


def journal_for(path: Path) -> str:
    """SQLite's journal mode for a store at `path`: "wal", or "delete" where WAL does not work.

    Raises UnsafePlaceError for a network file system on which locks do not hold.
    """
    mount = mount_of(path.parent)
    if mount.kind not in SHARED and REMOTE not in mount.options.split(","):
        return "wal"
    where = f"store = {str(path)!r} is on a network file system ({mount.kind})"
    if local := LOCAL_LOCKS.intersection(mount.options.split(",")):
        raise UnsafePlaceError(
            f"{where} whose locks hold only on this host (mounted with {', '.join(local)}): "
            "programs on two hosts could write at once. Put the store on a local disk."
        )
    if not locks_hold(path.parent):
        raise UnsafePlaceError(
            f"{where} where locks do not hold: two programs could write at once. Put the store on "
            "a local disk."
        )
    return "delete"


def locks_hold(folder: Path) -> bool:
    """Whether a lock that this program holds on a database there keeps another program out."""
    import sqlite3

    with tempfile.TemporaryDirectory(dir=folder, prefix=".lock-probe-") as inside:
        path = str(Path(inside) / "probe.sqlite")
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("BEGIN EXCLUSIVE")
            other = subprocess.run(
                [sys.executable, "-c", PROBE, path], capture_output=True, text=True, check=True
            )
        except sqlite3.OperationalError:  # a file system without locks refuses ours already
            return False
        finally:
            connection.close()
    return "locked" in other.stdout
