"""Configures and builds a preset in build/PRESET, and reads from ninja's log what took longest."""
import os
import shutil
from dataclasses import dataclass, field

import processes

LANGUAGES = ("C", "CXX", "CUDA")


@dataclass
class Preset:
    about: str
    targets: list = field(default_factory=list)  # none: all
    needs: tuple = (None,)  # another preset, and targets of it
    environment: dict = field(default_factory=dict)  # of its tests


@dataclass
class Build:
    preset: str
    ok: bool
    log: str
    wall_s: float
    cpu_s: float
    steps: list  # (seconds, output)


def launchers():
    """ccache where it is installed and not disabled, unless the environment names another launcher."""
    if not shutil.which("ccache") or "CCACHE_DISABLE" in os.environ:
        return {}
    names = [f"CMAKE_{language}_COMPILER_LAUNCHER" for language in LANGUAGES]
    return {name: "ccache" for name in names if name not in os.environ}


def _read_steps(log, begin):
    """Ninja appends a line per output; a log that it has rewritten since is read whole."""
    try:
        with open(log, encoding="utf-8") as file:
            file.seek(begin if begin <= os.path.getsize(log) else 0)
            fields = [line.rstrip("\n").split("\t") for line in file if not line.startswith("#")]
    except FileNotFoundError:
        return []
    steps = [((int(line[1]) - int(line[0])) / 1e3, line[3]) for line in fields if len(line) == 5]
    return sorted(set(steps), reverse=True)


def build(root, name, targets, jobs):
    folder = os.path.join(root, "build", name)
    log, ninja_log = folder + ".log", os.path.join(folder, ".ninja_log")
    os.makedirs(folder, exist_ok=True)
    begin = os.path.getsize(ninja_log) if os.path.exists(ninja_log) else 0
    configured = processes.run(["cmake", "--preset", name, "-DHEP_TESTS=ON"], log, root, launchers())
    wall_s, cpu_s, ok = configured.wall_s, configured.cpu_s, configured.code == 0
    if ok:
        chosen = ["--target", *targets] if targets else []
        built = processes.run(["cmake", "--build", "--preset", name, "-j", str(jobs), *chosen], log, root)
        wall_s, cpu_s, ok = wall_s + built.wall_s, cpu_s + built.cpu_s, built.code == 0
    return Build(name, ok, log, wall_s, cpu_s, _read_steps(ninja_log, begin))
