"""The limits of a container are the machine: control groups of both versions, as folders that tests write."""

from pathlib import Path

import psutil
import pytest

from kinfold import compute
from kinfold.compute import available_memory, container_limits, cpu_count, total_memory

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that writes a machine's files, whose limits count from then on."""
    read = container_limits.__wrapped__

    def write(files):
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{content}\n")
        monkeypatch.setattr(compute, "container_limits", lambda: read(tmp_path))
        return read(tmp_path)

    return write


def second(group, **values):
    """Return the files of a group of the second version."""
    folder = Path("sys/fs/cgroup") / group
    return {str(folder / name.replace("_", ".", 1)): value for name, value in values.items()}


def test_without_control_groups_nothing_is_limited(machine):
    found = machine({})
    assert (found.memory, found.cores, found.room()) == (None, None, None)
    assert total_memory() == psutil.virtual_memory().total


def test_a_limit_of_the_second_version_is_the_memory(machine):
    found = machine(
        {"proc/self/cgroup": "0::/job"}
        | second("job", memory_max=GIB, memory_current=600 << 20)
        | {"sys/fs/cgroup/job/memory.stat": f"anon 100\ninactive_file {300 << 20}\nactive_file {100 << 20}"}
    )
    assert found.memory == total_memory() == GIB
    assert available_memory() == GIB - (200 << 20)  # what it holds of files can be given up


def test_of_nested_groups_the_tightest_counts(machine):
    found = machine(
        {"proc/self/cgroup": "0::/outer/inner"}
        | second("outer", memory_max=2 * GIB, memory_current=GIB, cpu_max="150000 100000")
        | second("outer/inner", memory_max="max", memory_high=3 * GIB, memory_current=0, cpu_max="max 100000")
    )
    assert (found.memory, found.cores) == (2 * GIB, 1.5)
    assert available_memory() <= GIB
    assert cpu_count() <= 2


def test_memory_high_counts_since_beyond_it_a_process_is_halted(machine):
    found = machine({"proc/self/cgroup": "0::/a"} | second("a", memory_max=4 * GIB, memory_high=GIB))
    assert found.memory == GIB


def test_max_everywhere_limits_nothing(machine):
    found = machine({"proc/self/cgroup": "0::/a"} | second("a", memory_max="max", cpu_max="max 100000"))
    assert (found.memory, found.cores) == (None, None)


def test_a_quota_below_one_core_leaves_one(machine):
    machine({"proc/self/cgroup": "0::/a"} | second("a", cpu_max="20000 100000"))
    assert cpu_count() == 1


def test_limits_of_the_first_version_count_too(machine):
    found = machine(
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n2:cpuset:/docker/abc",
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": 800 << 20,
            "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": 500 << 20,
            "sys/fs/cgroup/memory/docker/abc/memory.stat": (
                f"inactive_file 1\ntotal_inactive_file {300 << 20}\ntotal_active_file {50 << 20}"
            ),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": 250000,
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": 100000,
            "sys/fs/cgroup/cpuset/docker/abc/cpuset.cpus": "0-2,7",
        }
    )
    assert (found.memory, found.cores) == (800 << 20, 2.5)
    assert available_memory() == (800 << 20) - (150 << 20)


def test_without_a_quota_the_first_version_says_minus_one(machine):
    found = machine(
        {
            "proc/self/cgroup": "3:cpu:/a",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": -1,
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": 100000,
        }
    )
    assert found.cores is None


def test_inside_a_container_the_path_of_the_host_is_not_there_and_the_top_counts(machine):
    found = machine({"proc/self/cgroup": "0::/../../docker/abc"} | second("", memory_max=GIB))
    assert found.memory == GIB
    found = machine(
        {
            "proc/self/cgroup": "4:memory:/docker/of-the-host",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": GIB // 2,
        }
    )
    assert found.memory == GIB // 2


def test_a_set_of_cores_counts(machine):
    files = second("a", memory_max="max") | {"sys/fs/cgroup/a/cpuset.cpus.effective": "0,4"}
    assert machine({"proc/self/cgroup": "0::/a"} | files).cores == 2


@pytest.mark.parametrize("text", ["", "nonsense", "-", "0-", "\0", "1-x", "9" * 30])
def test_files_that_say_nothing_limit_nothing_or_one_core_at_least(machine, text):
    files = second("a", memory_max=text, cpu_max=text, cpuset_cpus=text)
    found = machine({"proc/self/cgroup": "::\n0::/a\nbroken"} | files)
    assert found.memory is None
    assert cpu_count() >= 1


def test_a_group_that_holds_more_than_its_limit_has_no_room(machine):
    machine({"proc/self/cgroup": "0::/a"} | second("a", memory_max=GIB, memory_current=2 * GIB))
    assert available_memory() == 0
