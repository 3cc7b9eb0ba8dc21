"""Where a database lies: its file, the folder beside it, and the turn to write that processes take."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import subprocess
from pathlib import Path
from typing import Final

from ...errors import BrokerUnavailable, ConfigurationError

NETWORK_FILE_SYSTEMS: Final = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|afpfs|webdav|ceph|glusterfs|lustre|gfs2|ocfs2|beegfs"
    r"|fuse\.(sshfs|s3fs|mountpoint-s3|ceph|ceph-fuse|glusterfs|juicefs|mfs|rclone|gcsfuse|blobfuse2?|davfs2?|smbnetfs)"
)
"""Their locks and shared memory do not hold between machines, often not even on one (sqlite.org/useovernet.html)."""

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700


class DatabaseGoneError(BrokerUnavailable):
    """The path leads to another file than the one that is open, or to none: what is written now nobody will find."""

    def __init__(self, file: Path) -> None:
        super().__init__(
            f"{file} was deleted, moved or replaced while it was open, and nothing more is written: stop every process "
            f"that uses it, put it back together with its -wal (or leave it, to begin anew), and start them again"
        )


class Place:
    """The paths of one database. `file.d/` holds the lock and each process's FIFO."""

    def __init__(self, path: str) -> None:
        # Two names of one file must meet at one lock, so links are followed.
        self.file = Path(os.path.realpath(path))
        self.folder = self.file.with_name(self.file.name + ".d")
        self.lock = self.folder / "lock"

    def prepare(self) -> None:
        """Make what is missing. Raises `ConfigurationError` where a database can never work."""
        try:
            self._prepare()
        except OSError as error:
            raise ConfigurationError(f"{self.file} cannot be a database: {error.strerror}") from error

    def _prepare(self) -> None:
        home = self.file.parent
        if self.file.is_dir():
            raise ConfigurationError(f"{self.file} is a folder: name a file in it, such as {self.file / 'work.db'}")
        if self.file.exists() and not self.file.is_file():
            raise ConfigurationError(f"{self.file} is a device or a pipe: name a file")
        if not home.is_dir():
            raise ConfigurationError(f"the folder {home} does not exist: create it, or choose another place")
        if not os.access(home, os.W_OK | os.X_OK):
            raise ConfigurationError(f"the folder {home} is not writable for this user, and SQLite writes beside it")
        if self.file.exists() and not os.access(self.file, os.R_OK | os.W_OK):
            raise ConfigurationError(
                f"{self.file} may not be read and written by this user: run every program that uses it as the user "
                "whose file it is, or choose another one"
            )
        mounted = mounts()
        if str(self.file) in dict(mounted):
            raise ConfigurationError(
                f"{self.file} is mounted alone, and SQLite writes beside it, where nobody else who has the file looks: "
                "mount its folder"
            )
        kind = file_system_of(home, mounted)
        if NETWORK_FILE_SYSTEMS.fullmatch(kind):
            raise ConfigurationError(
                f"{self.file} is on a network file system ({kind}), where SQLite loses data: put it on a local disk, "
                "or use a broker with a server"
            )
        try:
            self.folder.mkdir(FOLDER_MODE, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"cannot make the folder {self.folder}: {error.strerror}") from error

    def create(self) -> None:
        """Make the file readable for its user only; SQLite gives its companions the same mode. Needs the turn."""
        # An existing file is not opened here: closing it would drop the locks of this process's other connections.
        try:
            os.close(os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE))
        except FileExistsError:
            return

    def identity(self) -> list[object]:
        """Tells the files that the paths lead to from others that come to the same paths later."""
        return [_inode(path) for path in (self.file, self.lock)]


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Turn:
    """The turn to write, taken by `with`: waits until it comes, however long.

    SQLite's own busy handler sleeps and tries again, and starves: of two busy writers one got nothing for seconds.
    The kernel serves `flock` in turn. The lock belongs to the open file, so it also orders two brokers of one
    process; and it ends with the process.
    """

    def __init__(self, place: Place) -> None:
        try:
            self._file = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise ConfigurationError(f"cannot open the lock in {place.folder}: {error.strerror}") from error

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._file)


def file_system_of(folder: Path, mounted: list[tuple[str, str]]) -> str:
    """The type of the file system that holds a folder, "" where it cannot be told."""
    above = {str(folder), *map(str, folder.parents)}
    holding = [(len(point), kind) for point, kind in mounted if point in above]
    # Of several mounts on one point the last hides the others.
    return max(enumerate(holding), key=lambda place: (place[1][0], place[0]))[1][1] if holding else ""


def mounts() -> list[tuple[str, str]]:
    """Mount points and their types; as good as the system tells."""
    try:
        return parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    except OSError as error:
        if error.errno != errno.ENOENT:
            return []
    try:
        listing = subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_mount(listing.stdout)


def parse_mountinfo(text: str) -> list[tuple[str, str]]:
    """Linux, proc(5): the fifth field is the point, the first after " - " the type; blanks are octal escapes."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), before.split()[4])
        found.append((point, after.split()[0]))
    return found


def parse_mount(text: str) -> list[tuple[str, str]]:
    """BSD and macOS: `//ann@host/share on /Volumes/share (smbfs, nodev)`."""
    return re.findall(r"^.+? on (.+) \(([^,)]+)", text, re.MULTILINE)
