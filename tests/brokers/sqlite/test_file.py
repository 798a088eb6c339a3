"""The file: who may open it, what is wrong with it, and what the error says to do."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from brokers.sqlite.helpers import Opened
from penstock.brokers.sqlite import problems
from penstock.brokers.sqlite.file import SqliteFile
from penstock.brokers.sqlite.problems import kind_of_mount
from penstock.errors import BrokerError, QueueUnknownError
from sync.helpers import run_program

Open = Callable[..., Opened]


class TestRefused:
    def test_a_file_of_a_newer_penstock(self, open_queue: Open, path: Path) -> None:
        queue = open_queue()
        queue.do(lambda s: s._execute("UPDATE penstock_schema SET version = 2"))
        with pytest.raises(BrokerError, match=r"version 2.*knows 1\. Upgrade") as raised:
            open_queue()
        assert str(path) in str(raised.value)

    def test_what_is_no_database(self, open_queue: Open, path: Path) -> None:
        path.write_bytes(b"these are notes about something else\n" * 100)
        with pytest.raises(BrokerError, match=r"queue.db is no SQLite database: give .* path"):
            open_queue()
        assert path.read_bytes().startswith(b"these are notes")

    def test_a_folder_that_is_not_there(self, path: Path) -> None:
        with pytest.raises(BrokerError, match=r"there is no folder .*none\. Make it first"):
            SqliteFile(path.parent / "none" / "queue.db")

    def test_a_folder(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(BrokerError, match=r"it is a folder\. Name a file in it"):
            SqliteFile(path)

    def test_a_file_that_may_not_be_written(self, open_queue: Open) -> None:
        queue = open_queue()
        queue.file.connection.execute("PRAGMA query_only = 1")  # root may write everything
        with pytest.raises(BrokerError, match=r"queue.db cannot be written: see that this user"):
            queue.put(b"a")

    def test_a_network_file_system(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(problems, "_kind_of_file_system", lambda _: "nfs4")
        with pytest.raises(BrokerError, match=r"network file system \(nfs4\).*queue on NATS"):
            SqliteFile(path)
        assert not path.exists()

    @pytest.mark.parametrize(
        ("folder", "kind"),
        [
            ("/", "ext4"),
            ("/home/me", "ext4"),
            ("/srv/shared", "nfs4"),
            ("/srv/shared/deep/down", "nfs4"),
            ("/srv/shared2", "ext4"),
            ("/srv/shared/tmp/x", "tmpfs"),
            ("/mnt/a b", "cifs"),
        ],
    )
    def test_the_kind_of_a_file_system(self, folder: str, kind: str) -> None:
        mounts = (
            "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
            "40 22 0:35 / /srv/shared rw shared:9 - nfs4 server:/x rw,vers=4.2\n"
            "41 40 0:36 / /srv/shared/tmp rw - tmpfs tmpfs rw\n"
            "42 22 0:37 / /mnt/a\\040b rw - cifs //server/b rw\n"
            "nonsense\n"
        )
        assert kind_of_mount(mounts, Path(folder)) == kind


class TestRemoved:
    def test_nothing_is_accepted_that_would_be_gone_with_the_file(
        self, open_queue: Open, path: Path
    ) -> None:
        queue = open_queue()
        assert queue.put(b"a") == [True]
        path.rename(path.with_suffix(".old"))
        with pytest.raises(
            BrokerError, match=r"queue.db was removed or replaced .* start it again"
        ):
            queue.put(b"b")
        path.with_suffix(".old").rename(path)
        assert queue.put(b"b") == [True]


class TestLocked:
    def test_waits_for_another_program_and_then_says_so(self, open_queue: Open, path: Path) -> None:
        queue = open_queue()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        queue.file._busy_timeout = 0.05
        with pytest.raises(BrokerError, match=r"queue.db is locked: .* for 0.05 s. Have it commit"):
            queue.put(b"a")
        other.execute("COMMIT")
        other.close()
        assert queue.put(b"a") == [True]
        assert queue.storage.size() == 1

    def test_a_reader_holds_nobody_up(self, open_queue: Open, path: Path) -> None:
        queue = open_queue()
        queue.put(b"a")
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM penstock_items").fetchall()
        queue.file._busy_timeout = 0.0
        assert queue.put(b"b") == [True]
        assert queue.take_data() == [b"a", b"b"]
        reader.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with a megabyte on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(queue: Opened) -> int:
    """Put until it fails; how many were accepted."""
    accepted = 0

    def put_all() -> None:
        nonlocal accepted
        while queue.put(b"x" * 20_000) == [True]:
            accepted += 1

    with pytest.raises(BrokerError, match=r"queue.db is full: .*Make room; what was") as raised:
        put_all()
    assert not isinstance(raised.value, QueueUnknownError)  # it is not stored, and that is known
    return accepted


class TestFull:
    def test_a_full_disk_keeps_what_was_accepted(self, small_disk: Path) -> None:
        queue = Opened(small_disk / "queue.db", maxsize=1000)
        accepted = fill(queue)
        assert accepted > 5
        assert queue.storage.size() == accepted
        queue.close()
        again = Opened(small_disk / "queue.db", maxsize=1000)
        assert again.storage.size() == accepted
        again.close()

    def test_it_goes_on_when_there_is_room(self, open_queue: Open) -> None:
        queue = open_queue(maxsize=1000)
        queue.file.connection.execute("PRAGMA max_page_count = 60")
        accepted = fill(queue)
        queue.file.connection.execute("PRAGMA max_page_count = 1000")
        items = queue.take(3)
        assert queue.done(*[item.lease for item in items]) == [True] * 3
        assert queue.put(b"x" * 20_000) == [True]
        assert queue.storage.size() == accepted - 2

    def test_a_disk_that_fails_in_the_commit_leaves_it_unknown(self, open_queue: Open) -> None:
        queue = open_queue()

        class Failing:
            """A connection whose commits fail as where a disk is broken."""

            def __init__(self, inner: sqlite3.Connection) -> None:
                self.inner = inner

            def __getattr__(self, name: str) -> object:
                return getattr(self.inner, name)

            def execute(self, statement: str, *values: object) -> object:
                if statement == "COMMIT":
                    raise sqlite3.OperationalError("disk I/O error")
                return self.inner.execute(statement, *values)

        queue.file.connection = Failing(queue.file.connection)  # type: ignore[assignment]
        with pytest.raises(QueueUnknownError, match="it may be stored or not"):
            queue.put(b"a")


class TestDurability:
    @pytest.mark.parametrize("given", ["FULL", "NORMAL"])
    def test_only_what_need_not_survive_a_power_cut_is_written_sooner(
        self, path: Path, given: str
    ) -> None:
        file = SqliteFile(path, synchronous=given)
        seen = []

        def look() -> None:
            seen.append(file.connection.execute("PRAGMA synchronous").fetchone()[0])

        normal, full = 1, 2
        file.write(look)
        file.write(look, is_durable=False)
        file.write(look)
        file.close()
        assert seen == ([full, normal, full] if given == "FULL" else [normal] * 3)


def test_a_forked_child_cannot_open_what_its_parent_has_open(path: Path) -> None:
    outcome = run_program(
        f"""
        import os
        from pathlib import Path
        from penstock.brokers.sqlite.file import SqliteFile
        from penstock.errors import BrokerError

        path = Path({str(path)!r})
        SqliteFile(path).close()
        mine = SqliteFile(path)
        child = os.fork()
        if not child:
            try:
                SqliteFile(path)
            except BrokerError as error:
                os._exit(7 if "Start the queue after the fork" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        mine.close()
        child = os.fork()
        if not child:
            SqliteFile(path).close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """
    )
    assert outcome.returncode == 0, outcome.stderr


def test_what_holds_items_is_for_its_owner(open_queue: Open, path: Path) -> None:
    open_queue().put(b"a")
    files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_the_mode_of_a_file_that_is_there_stays(open_queue: Open, path: Path) -> None:
    path.touch()
    path.chmod(0o660)
    open_queue().put(b"a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
