"""Runs programs and measures them: wall time, and the CPU time of a program and of all it waited for. Every program
leads a process group of its own, which is ended with it.
"""
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

TIMED_OUT = 124

_groups = set()
_lock = threading.Lock()


@dataclass
class Ended:
    code: int
    wall_s: float
    cpu_s: float


def _kill_group(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def run(command, log, folder=None, environment=None, timeout_s=None):
    """Standard output and error go to the file `log`. The exit code is 128 + N after signal N, as in a shell."""
    begin_s = time.monotonic()
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=folder,
                                   env={**os.environ, **(environment or {})}, start_new_session=True)
    with _lock:
        _groups.add(process.pid)
    expired = threading.Event()

    def expire():
        expired.set()
        _kill_group(process.pid)

    timer = threading.Timer(timeout_s or 86400, expire)
    timer.daemon = True
    timer.start()
    _, status, usage = os.wait4(process.pid, 0)
    timer.cancel()
    _kill_group(process.pid)
    with _lock:
        _groups.discard(process.pid)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if expired.is_set():
        code = TIMED_OUT
    return Ended(128 - code if code < 0 else code, time.monotonic() - begin_s, usage.ru_utime + usage.ru_stime)


def end_all():
    with _lock:
        for group in _groups:
            _kill_group(group)
