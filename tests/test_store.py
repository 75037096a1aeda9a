"""The store: rows by key, unharmed by crashes, full disks, other programs and network mounts."""

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from andersonn_core.runcard import RunCard
from andersonn_core.store import (
    FAILED,
    DamagedStoreError,
    NewerStoreError,
    Store,
    StoreError,
    UnsafePlaceError,
    opening,
    place,
)
from andersonn_core.store.curves import result_from_bytes
from andersonn_core.store.schema import SCHEMA
from andersonn_core.sweeps.trial import run_trial
from tests.sweep_cases import quick_sweep, quietly

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def row():
    """One trial's row, with its card and its curves."""
    ((_, trial, _),) = quick_sweep(axes={}, seeds=[0]).plan.trials()
    return run_trial(trial)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "s.sqlite"


def filled(path: Path, row, count: int = 300) -> Path:
    """A store of many rows: of some hundred pages."""
    with Store(path) as store:
        store.add(
            store.register("a" * 16, {}, count),
            [([n], replace(row, seed=n)) for n in range(count)],
        )
    return path


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*) FROM rows").fetchone()[0]


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["spec_id", "seed", "repeat", "code", "device"])
def test_a_row_is_of_its_spec_seed_repeat_code_and_device(path, row, part):
    other = replace(row, **{part: 7 if part in ("seed", "repeat") else "other"})
    with Store(path) as store:
        first, second = store.add(None, [([], row), ([], other)])
        assert first != second
        assert store.add(None, [([], other), ([], row)]) == [second, first]
    assert count(path) == 2


def test_a_keys_first_row_stays(path, row):
    with Store(path) as store:
        (first,) = store.add(None, [([], row)])
        again = replace(row, num_evals=99, status="STALLED", curves=None, reason="later")
        assert store.add(None, [([], again)]) == [first]
        (kept,) = store.rows(row.spec_id).to_dict("records")
        assert (kept["num_evals"], kept["status"]) == (row.num_evals, row.status)
        assert store.reasons([first]) == {first: ""} and first in store.results([first])


def test_a_failed_row_gives_way_to_a_later_one_whole(path, row):
    failed = replace(row, status=FAILED, num_evals=None, seconds=None, curves=None, reason="fire")
    with Store(path) as store:
        (first,) = store.add(None, [([], failed)])
        assert store.reasons([first]) == {first: "fire"} and store.results([first]) == {}
        assert store.add(None, [([], row)]) == [first]
        (kept,) = store.rows(row.spec_id).to_dict("records")
        assert (kept["num_evals"], kept["status"]) == (row.num_evals, row.status)
        assert store.reasons([first]) == {first: ""}
        assert store.results([first])[first].num_evals == row.num_evals


def test_two_numbers_of_a_sweep_may_be_one_row(path, row):
    with Store(path) as store:
        sweep = store.register("a" * 16, {}, 2)
        store.add(sweep, [([0, 1], row)])
        assert store.members(sweep)["number"].tolist() == [0, 1]
    assert count(path) == 1


def test_a_sweep_is_registered_once(path):
    with Store(path) as store:
        numbers = [store.register(each * 16, {"of": each}, 2) for each in "aba"]
        assert numbers == [1, 2, 1] and store.sweeps()["sweep_id"].tolist() == ["b" * 16, "a" * 16]
        assert store.sweep_number() == 2 and store.sweep_number("aa") == 1
        for wrong in ("c", "b" * 17):
            with pytest.raises(StoreError, match=f"sweep = '{wrong}'.*{'b' * 16}, {'a' * 16}"):
                store.sweep_number(wrong)


def test_rows_are_added_all_or_none(path, row):
    with Store(path) as store:
        sweep = store.register("a" * 16, {}, 2)
        with pytest.raises(StoreError, match="NOT NULL"):
            store.add(sweep, [([0], row), ([1], replace(row, seed=1, status=None))])
        assert len(store.members(sweep)) == 0
    assert count(path) == 0


def test_card_and_curves_come_back_as_they_were(path, row):
    with Store(path) as store:
        (number,) = store.add(None, [([], row)])
        assert store.card(number) == RunCard.from_json(row.card)
        kept, made = (
            store.results([number])[number],
            result_from_bytes(row.curves, RunCard.from_json(row.card)),
        )
        for name in ("relative_residual", "running", "event", "map_seconds"):
            one, other = getattr(kept.history, name), getattr(made.history, name)
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(kept.status, made.status) and kept.history.clock == row.clock
        with pytest.raises(StoreError, match="row 99 is not in the store"):
            store.card(99)


def test_a_query_by_spec_id_finds_the_rows_of_all_code_and_devices(path, row):
    rows = [replace(row, code=code, device=device) for code in "ab" for device in "xy"]
    with Store(path) as store:
        store.add(None, [([], each) for each in (*rows, replace(row, spec_id="other"))])
        found = store.rows(row.spec_id)
        assert sorted(zip(found["code"], found["device"], strict=True)) == [
            ("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"),
        ]  # fmt: skip
        keys = store.found([row.spec_id, "absent"], "a")
        assert {each.device for each in keys[row.key]} == {"x", "y"} and len(keys) == 1


def test_a_frames_columns_are_of_their_kind_however_many_rows_hold_nothing(path, row):
    """Arrow's driver takes the type of a column from its first rows."""
    failed = replace(row, status=FAILED, num_evals=None, seconds=None, relative_residual=None)
    with Store(path) as store:
        sweep = store.register("a" * 16, {}, 3001)
        store.add(sweep, [([n], replace(failed, seed=n)) for n in range(3000)])
        only_failed = store.members(sweep)
        store.add(sweep, [([3000], replace(row, seed=3000, seconds=0.1, accuracy=0.3))])
        frame = store.members(sweep)
    last = frame.iloc[-1]
    assert (last["seconds"], last["accuracy"], last["num_evals"]) == (0.1, 0.3, row.num_evals)
    assert last["relative_residual"] == row.relative_residual and frame["seconds"].count() == 1
    assert frame.drop(columns="device").dtypes.equals(only_failed.drop(columns="device").dtypes)
    with Store(path.with_name("empty.sqlite")) as store:
        nothing = store.members(store.register("a" * 16, {}, 1))
    assert len(nothing) == 0 and list(nothing) == list(frame)


# -- where it lies --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b.sqlite", "a#b?c=d&e.sqlite", "50%20.sqlite", "ä'\"ß.sqlite"])
def test_any_name_of_a_file_will_do(tmp_path, row, name):
    folder = tmp_path / "x y#z?"
    folder.mkdir()
    filled(folder / name, row, 3)
    with Store(folder / name, read_only=True) as store:
        assert len(store.members(1)) == 3 and len(store.found([row.spec_id], row.code)) == 3
    assert all(each.name.startswith(name) for each in folder.iterdir())


def test_a_store_needs_its_folder_and_a_reader_its_file(tmp_path, path):
    with pytest.raises(StoreError, match="folder '.*absent' does not exist"):
        Store(tmp_path / "absent" / "s.sqlite")
    for wrong in (path, tmp_path / "absent" / "s.sqlite"):
        with pytest.raises(StoreError, match="does not exist: run a sweep into it first"):
            Store(wrong, read_only=True)
    with pytest.raises(StoreError, match="is a folder"):
        Store(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_of_an_empty_file_is_told_so_and_a_driver_makes_a_store_of_it(path, row):
    path.touch()
    with pytest.raises(StoreError, match="holds nothing yet"):
        Store(path, read_only=True)
    assert path.stat().st_size == 0
    filled(path, row, 2)
    assert count(path) == 2


def journal(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA journal_mode").fetchone()[0]


def test_on_a_local_disk_readers_go_on_while_the_driver_writes(path, row):
    filled(path, row, 2)
    assert journal(path) == "wal"
    with closing(sqlite3.connect(path, isolation_level=None)) as driver:
        driver.execute("BEGIN IMMEDIATE")
        driver.execute("DELETE FROM members")
        with Store(path, read_only=True) as store:
            assert len(store.members(1)) == 2


@pytest.fixture
def on_nfs(tmp_path, monkeypatch):
    """The temporary folder is a network mount, as Linux tells of one."""

    def mount(kind: str = "nfs4", options: str = "rw,local_lock=none") -> None:
        at = str(tmp_path).replace(" ", "\\040")
        lines = f"/dev/sda1 / ext4 rw 0 0\nhost:/export {at} {kind} {options} 0 0\n"
        (tmp_path / "mounts").write_text(lines)

    mount()
    monkeypatch.setattr(place, "MOUNTS", tmp_path / "mounts")
    return mount


def test_on_a_network_mount_a_store_has_a_rollback_journal(path, row, on_nfs):
    filled(path, row, 2)
    assert journal(path) == "delete"
    with Store(path, read_only=True) as store:
        assert len(store.members(1)) == 2


def test_a_store_that_moves_to_a_network_mount_changes_its_journal(path, row, monkeypatch, request):
    filled(path, row, 2)
    assert journal(path) == "wal"
    request.getfixturevalue("on_nfs")
    filled(path, row, 4)
    assert journal(path) == "delete" and count(path) == 4


def test_a_network_mount_where_locks_do_not_hold_is_refused(path, on_nfs, monkeypatch):
    monkeypatch.setattr(place, "locks_hold", lambda folder: False)
    with pytest.raises(UnsafePlaceError, match=r"network file system \(nfs4\).*local disk"):
        Store(path)
    assert not path.exists()


@pytest.mark.parametrize(
    "options", ["rw,nolock", "rw,local_lock=all", "rw,local_lock=posix", "nobrl"]
)
def test_a_mount_whose_locks_stay_on_one_host_is_refused(path, on_nfs, options):
    on_nfs(options=options)
    with pytest.raises(UnsafePlaceError, match="only on this host"):
        Store(path)
    assert not path.exists()


def test_locks_hold_on_a_real_disk_and_do_not_where_nothing_is_locked(tmp_path, monkeypatch):
    assert place.locks_hold(tmp_path)
    connect = sqlite3.connect

    def without_locks(path, **options):
        return connect(f"file:{path}?vfs=unix-none", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", without_locks)
    assert not place.locks_hold(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_innermost_mount_counts(tmp_path, on_nfs):
    assert place.mount_of(tmp_path / "deep" / "er").kind == "nfs4"
    assert place.mount_of(Path("/")).kind == "ext4"
    assert place.mount_of(tmp_path.with_name(tmp_path.name + "2")).kind == "ext4"


# -- damage ---------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def garbage_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for start in range(4096, len(data) - 4096, 8192):
        data[start : start + 4096] = bytes(range(256)) * 16
    path.write_bytes(data)


def garbage_page(path: Path) -> None:
    """The root of the rows."""
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'rows'"
        (page,) = connection.execute(query).fetchone()
    data = bytearray(path.read_bytes())
    data[(page - 1) * 4096 : page * 4096] = bytes(range(256)) * 16
    path.write_bytes(data)


def garbage_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[:100] = bytes(range(100))
    path.write_bytes(data)


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("harm", [truncate, garbage_pages, garbage_page, garbage_header])
def test_a_damaged_store_is_told_copied_and_left_as_it_is(path, row, harm, read_only):
    harm(filled(path, row))
    before = path.read_bytes()
    for _ in range(2):  # the second time finds its copy
        with pytest.raises(DamagedStoreError, match="nothing was overwritten") as caught:
            Store(path, read_only)
        assert str(path) in str(caught.value) and path.read_bytes() == before
    (copy,) = path.parent.glob("s.sqlite.damaged-*")
    assert copy.read_bytes() == before
    assert str(copy) in str(caught.value)
    with pytest.raises(DamagedStoreError):
        quietly(quick_sweep(), path)
    assert path.read_bytes() == before


def test_damage_in_a_store_too_large_to_check_is_told_when_it_is_met(path, row, monkeypatch):
    monkeypatch.setattr(opening, "CHECKED", 0)
    garbage_page(filled(path, row))
    before = path.read_bytes()
    with Store(path) as store:
        for meet in (
            lambda: store.members(1),
            lambda: store.found([row.spec_id], row.code),
            lambda: store.add(None, [([], replace(row, seed=10_000))]),
            store.check,
        ):
            with pytest.raises(DamagedStoreError, match="A copy is kept"):
                meet()
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_and_not_touched(path, row):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE rows (name TEXT)")
    before = path.read_bytes()
    for read_only in (True, False):
        with pytest.raises(StoreError, match="database of another program"):
            Store(path, read_only)
    assert path.read_bytes() == before and not list(path.parent.glob("*damaged*"))


def test_a_text_file_is_no_store(path):
    path.write_text("epoch,loss\n" * 100)
    with pytest.raises(DamagedStoreError, match="not a database"):
        Store(path)
    assert path.read_text() == "epoch,loss\n" * 100


def test_a_store_of_a_newer_version_is_refused_and_not_touched(path, row):
    filled(path, row, 2)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA + 1}")
    before = path.read_bytes()
    for read_only in (True, False):
        with pytest.raises(NewerStoreError, match=f"format {SCHEMA + 1}.*knows {SCHEMA}.*Update"):
            Store(path, read_only)
    assert path.read_bytes() == before


# -- what can go wrong meanwhile ------------------------------------------------------------------


@contextmanager
def room_for(pages: int, monkeypatch):
    """SQLite's own refusal of a file above so many pages: what it does on a full disk."""
    connect = sqlite3.connect

    def small(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.execute(f"PRAGMA max_page_count={pages}")
        return connection

    with monkeypatch.context() as patched:
        patched.setattr(opening.sqlite3, "connect", small)
        yield


@pytest.mark.parametrize("mount", ["local", "on_nfs"])
def test_a_full_disk_is_told_and_the_same_call_goes_on_once_there_is_room(
    path, monkeypatch, request, mount
):
    if mount != "local":
        request.getfixturevalue(mount)
    monkeypatch.setattr("andersonn_core.sweeps.session.FLUSH", 0.0)
    with room_for(40, monkeypatch):
        with pytest.raises(StoreError, match="disk is full.*kept: free some space"):
            quietly(quick_sweep(), path)
    with Store(path) as store:
        store.check()
        part = store.members(1)
    assert 0 < len(part) < 40
    whole = quietly(quick_sweep(), path)
    assert len(whole) == 40
    kept = whole[whole["number"].isin(part["number"])]
    assert (
        kept["row"].tolist() == part["row"].tolist()
        and kept["date"].tolist() == part["date"].tolist()
    )


def test_a_driver_that_waits_too_long_for_another_says_so(path, row, monkeypatch):
    monkeypatch.setattr(opening, "PATIENCE", 0.1)
    filled(path, row, 2)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, Store(path) as store:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="Another program has been writing"):
            store.add(None, [([], replace(row, seed=9))])
    assert count(path) == 2


KILLED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size=1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE rows SET status = 'WRONG'")
connection.execute("DELETE FROM details")
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("mount", ["local", "on_nfs"])
@pytest.mark.parametrize("read_only", [True, False])
def test_what_a_killed_driver_had_not_finished_is_undone(path, row, request, mount, read_only):
    if mount != "local":
        request.getfixturevalue(mount)
    filled(path, row)
    reader = Store(path, read_only=True)
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode == -9
    end = "-wal" if mount == "local" else "-journal"
    assert Path(f"{path}{end}").exists()
    assert set(reader.members(1)["status"]) == {row.status}
    reader.close()
    with Store(path, read_only) as store:
        store.check()
        assert set(store.members(1)["status"]) == {row.status}
        assert len(store.results([1, 300])) == 2


# -- who may do what, and several at once ----------------------------------------------------------

NOBODY = 65534


@contextmanager
def as_somebody_else():
    """Without the rights of root, who may write everywhere."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_store_in_a_folder_that_may_only_be_read(row):
    """As of a colleague, on a medium for reading: SQLite can't make its files beside it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = filled(folder / "s.sqlite", row, 3)
        assert journal(path) == "wal" and len(Store(path, read_only=True).members(1)) == 3
        for beside in folder.glob("*.sqlite-*"):
            beside.unlink()
        path.chmod(0o444)
        folder.chmod(0o555)
        with as_somebody_else():
            with Store(path, read_only=True) as store:
                assert len(store.members(1)) == 3 and len(store.results([1])) == 1
            with pytest.raises(StoreError, match="choose another file"):
                Store(path)
        folder.chmod(0o755)
        assert count(path) == 3


DRIVER = """
import sys
from tests.sweep_cases import quick_sweep, quietly
print(len(quietly(quick_sweep(repeats=2), sys.argv[1])))
"""


def program(code: str, *arguments) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def outcome(process: subprocess.Popen) -> str:
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return printed.strip()


@pytest.mark.slow
@pytest.mark.parametrize("mount", ["local", "on_nfs"])
def test_readers_go_on_while_a_driver_writes(path, row, request, mount):
    """Rows never become fewer, and each that is there is whole."""
    if mount != "local":
        request.getfixturevalue(mount)
    stop, seen = threading.Event(), [[] for _ in range(3)]

    def read(counts: list[int]) -> None:
        while not stop.is_set():
            with Store(path, read_only=True) as store:
                for _ in range(5):
                    frame = store.members(1)
                    counts.append(len(frame))
                    if len(frame):
                        last = int(frame["row"].iloc[-1])
                        assert store.results([last])[last].num_evals == row.num_evals

    Store(path).close()
    with ThreadPoolExecutor(3) as pool, Store(path) as store:
        readers = [pool.submit(read, counts) for counts in seen]
        sweep, n, deadline = store.register("a" * 16, {}, 10_000), 0, time.monotonic() + 3.0
        while time.monotonic() < deadline:
            store.add(sweep, [([n], replace(row, seed=n))])
            n += 1
        stop.set()
        for reader in readers:
            reader.result(60)
    assert count(path) == n > 20
    assert all(counts == sorted(counts) and counts[-1] > 0 for counts in seen)


def test_a_journal_may_go_while_a_reader_looks_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda self: True)  # it was there a moment ago
    assert opening._size(tmp_path / "s.sqlite", "-journal") == 0


@pytest.mark.slow
def test_two_drivers_on_one_store_make_no_row_twice(path):
    both = [program(DRIVER, path) for _ in range(2)]
    assert [outcome(each) for each in both] == ["80", "80"]
    with Store(path, read_only=True) as store:
        store.check()
        assert len(store.sweeps()) == 1
        assert store.members(1)["number"].tolist() == list(range(80))
    assert count(path) == 80


def test_drivers_that_make_a_store_at_once_make_one(path):
    rounds = 10
    threads = 4
    for number in range(rounds):
        at = path.with_name(f"{number}.sqlite")
        barrier = threading.Barrier(threads)

        def make(at=at, barrier=barrier) -> None:
            barrier.wait()
            with Store(at) as store:
                store.register("a" * 16, {}, 1)

        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(make) for _ in range(threads)]:
                future.result(60)
        with Store(at, read_only=True) as store:
            assert len(store.sweeps()) == 1
        assert journal(at) == "wal"
