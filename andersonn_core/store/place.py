"""Where a store lies: what kind of file system, and whether locks hold there.

SQLite's write-ahead log (WAL) lets readers go on while the driver writes, but it shares memory
between the programs, so that it works on one host only. On a network file system a store uses a
rollback journal, and only where a lock that one program holds keeps another one out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from andersonn_core.store.errors import UnsafePlaceError

MOUNTS = Path("/proc/self/mounts")
# Linux's names of file systems that several hosts may have mounted at once.
SHARED = frozenset(
    "9p afs beegfs ceph cifs cvmfs fuse.ceph fuse.glusterfs fuse.juicefs fuse.s3fs fuse.sshfs "
    "fuse.rclone glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs pvfs2 smb3 smbfs "
    "virtiofs wekafs".split()
)
PROBE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    connection.execute("BEGIN EXCLUSIVE")
except sqlite3.OperationalError:
    print("kept out")
"""


def file_system_of(path: Path) -> str:
    """The kind of file system that a path is on, as Linux names it; empty where nothing tells."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    here, found = os.path.realpath(path), ("", "")
    for line in lines:
        _, mount, kind = line.split()[:3]
        mount = mount.encode().decode("unicode_escape")  # a space is \040
        inside = here == mount or here.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(found[0]):
            found = mount, kind
    return found[1]


def journal_for(path: Path) -> str:
    """SQLite's journal mode for a store at `path`: "wal", or "delete" where WAL does not work.

    Raises UnsafePlaceError for a network file system on which locks do not hold.
    """
    kind = file_system_of(path.parent)
    if kind not in SHARED:
        return "wal"
    if not locks_hold(path.parent):
        raise UnsafePlaceError(
            f"store = {str(path)!r} is on a network file system ({kind}) where locks do not hold: "
            "two programs could write at once. Put the store on a local disk."
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
    return other.stdout.strip() == "kept out"
