"""Test the numbers of cores and workers: the affinity, the CPU quota of a container, and a bound."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zsl_tagger.system import threads
from zsl_tagger.system.cgroups import cpu_quota
from zsl_tagger.system.threads import MOST_WORKERS, available_cores, default_workers

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 23 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_SET = "34 23 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"
V1_DOCKER = "33 23 0:30 /docker/a1 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu"


def machine(root: Path, mounts: str, groups: str, files: dict[str, str]) -> Path:
    """The files of ``/proc`` and ``/sys`` of a machine."""
    for path, content in {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{content}\n")
    return root


def v1_files(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": str(period)}


CASES = {
    "version 2 in a container": (V2, "0::/", {"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
    "version 2 without a limit": (V2, "0::/", {"sys/fs/cgroup/cpu.max": "max 100000"}, None),
    "version 2, its root has no file": (V2, "0::/", {}, None),
    "version 2, a service": (V2, "0::/system.slice/a.service", {
        "sys/fs/cgroup/system.slice/a.service/cpu.max": "50000 100000"}, 0.5),
    "version 2, a group above is stricter": (V2, "0::/pods/a", {
        "sys/fs/cgroup/pods/a/cpu.max": "400000 100000", "sys/fs/cgroup/pods/cpu.max": "200000 100000"}, 2.0),
    "version 2, the path of the host": (V2, "0::/../../docker/a", {"sys/fs/cgroup/cpu.max": "300000 100000"}, 3.0),
    "version 1": (f"{V1_SET}\n{V1}", "4:cpuset:/x\n3:cpu,cpuacct:/a", v1_files("sys/fs/cgroup/cpu,cpuacct/a", 250_000),
                  2.5),
    "version 1 without a limit": (V1, "3:cpu,cpuacct:/", v1_files("sys/fs/cgroup/cpu,cpuacct", -1), None),
    "version 1, a group above is stricter": (V1, "3:cpu,cpuacct:/a/b", {
        **v1_files("sys/fs/cgroup/cpu,cpuacct/a/b", -1), **v1_files("sys/fs/cgroup/cpu,cpuacct/a", 100_000)}, 1.0),
    "version 1 in Docker, which mounts its own part": (V1_DOCKER, "3:cpu:/docker/a1",
        v1_files("sys/fs/cgroup/cpu", 10_000, 5_000), 2.0),
    "both versions": (f"{V1}\n{V2.replace('/cgroup rw', '/cgroup/unified rw')}", "3:cpu,cpuacct:/\n0::/",
                      v1_files("sys/fs/cgroup/cpu,cpuacct", 200_000), 2.0),
    "no groups": ("20 1 0:5 / / rw - ext4 /dev/sda rw", "", {}, None),
    "another format": ("rubbish", "rubbish", {}, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_quota_of_a_container(case: str, tmp_path: Path) -> None:
    mounts, groups, files, expected = CASES[case]
    assert cpu_quota(machine(tmp_path, mounts, groups, files)) == expected


def test_without_proc_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("cores", "quota", "available", "workers"),
    [(64, None, 64, MOST_WORKERS), (64, 2.0, 2, 2), (64, 1.5, 2, 2), (64, 0.1, 1, 1), (2, 8.0, 2, 2), (1, None, 1, 1)],
)
def test_cores_and_workers(
    cores: int, quota: float | None, available: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert (available_cores(), default_workers()) == (available, workers)
