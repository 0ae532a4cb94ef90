"""Read the CPU quota of a container: Linux control groups, version 1 and 2.

A container with ``--cpus 2`` still sees all cores of its host, even in the affinity of its processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_MOUNTS, _GROUPS = "proc/self/mountinfo", "proc/self/cgroup"


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPU quota of this process in cores, or None if there is no limit.

    Args:
        root: where ``/proc`` and ``/sys`` are.
    """
    with suppress(OSError, ValueError):  # not Linux, or an unknown format: no limit
        quotas = [quota for folder in _group_folders(root) if (quota := _quota_of(folder)) is not None]
        return min(quotas, default=None)
    return None


def _group_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups and their ancestors; each may set a limit."""
    own = dict(_own_groups(root))
    for line in _read(root / _MOUNTS).splitlines():
        mount, _, kind = line.partition(" - ")
        name, _, options = kind.split()
        controller = "" if name == "cgroup2" else "cpu"
        if name not in ("cgroup", "cgroup2") or (name == "cgroup" and "cpu" not in options.split(",")):
            continue
        if controller in own:
            top, mounted = mount.split()[3:5]
            yield from _folders_up(root / mounted.lstrip("/"), own[controller], PurePosixPath(top))


def _own_groups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield (controller, path of the group); version 2 has a single group with controller ""."""
    for line in _read(root / _GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, PurePosixPath(path)


def _folders_up(mounted: Path, group: PurePosixPath, top: PurePosixPath) -> Iterator[Path]:
    """Yield the mounted folders of a group and its ancestors; ``top`` is the root of the mount."""
    inside = group.relative_to(top) if group.is_relative_to(top) else PurePosixPath()
    for path in (inside, *inside.parents):
        yield mounted / path.as_posix().lstrip("/")


def _quota_of(folder: Path) -> float | None:
    with suppress(OSError):
        if (folder / "cpu.max").exists():  # version 2: "150000 100000" or "max 100000", in microseconds
            quota, period = _read(folder / "cpu.max").split()
            return None if quota == "max" else int(quota) / int(period)
        quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        return None if int(quota) < 0 else int(quota) / int(period)
    return None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
