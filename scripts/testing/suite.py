"""The tests of built presets, as CTest knows them, run side by side, the longest first; those that judge clocks run
alone, afterwards. Counts what they assert.
"""
import heapq
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field

import processes

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
TIMEOUT_S = 1500 # CTest's own


@dataclass
class Test:
    preset: str
    name: str
    command: list
    folder: str = None
    environment: dict = field(default_factory=dict)
    labels: list = field(default_factory=list)
    timeout_s: float = TIMEOUT_S
    skip_code: int = None
    alone: bool = False
    cost: float = 0.0


@dataclass
class Result:
    test: Test
    verdict: str
    wall_s: float
    cpu_s: float
    log: str
    assertions: int


def discover(root, preset):
    folder = os.path.join(root, "build", preset)
    listing = json.loads(subprocess.run(["ctest", "--show-only=json-v1"], cwd=folder, check=True,
                                        capture_output=True).stdout)
    tests = []
    for entry in listing["tests"]:
        properties = {of["name"]: of["value"] for of in entry.get("properties", [])}
        tests.append(Test(
            preset, entry["name"], entry.get("command", []), properties.get("WORKING_DIRECTORY", folder),
            dict(pair.split("=", 1) for pair in properties.get("ENVIRONMENT", [])), properties.get("LABELS", []),
            properties.get("TIMEOUT", TIMEOUT_S), properties.get("SKIP_RETURN_CODE"),
            properties.get("RUN_SERIAL", False), properties.get("COST", 0.0)))
    return tests


# ---- what is asserted -----------------------------------------------------------------------------

SITES = re.compile(r"\b(?:expect|fail|assert)\b")


def _unit_assertions(report):
    """Of Criterion's report: those of all of its tests."""
    try:
        with open(report, encoding="utf-8") as file:
            suites = json.load(file)["test_suites"]
    except (OSError, ValueError, KeyError):
        return 0
    return sum(test.get("assertions", 0) for suite in suites for test in suite["tests"])


def _script_assertions(script):
    """Of an end-to-end script: the places that check something."""
    with open(script, encoding="utf-8") as file:
        return sum(len(SITES.findall(line)) for line in file if not line.lstrip().startswith("#"))


def count_assertions(test, report):
    script = test.command[-1]
    return _script_assertions(script) if script.endswith(".sh") else _unit_assertions(report)


# ---- running --------------------------------------------------------------------------------------


class Runner:
    """Tests may be added while others run: those of a preset once it is built."""

    def __init__(self, root, announce):
        self.logs = os.path.join(root, "build", "logs")
        self.announce = announce
        self.changed = threading.Condition()
        self.waiting, self.alone, self.results = [], [], []
        self.limit = self.running = 0
        self.is_complete = False
        self.threads = []
        os.makedirs(self.logs, exist_ok=True)

    def add(self, tests):
        with self.changed:
            for test in tests:
                if test.alone:
                    self.alone.append(test)
                else:
                    heapq.heappush(self.waiting, (-test.cost, test.preset, test.name, test))
            self.changed.notify_all()

    def allow(self, limit):
        """So many tests at once, from now on."""
        with self.changed:
            self.limit = limit
            while len(self.threads) < limit:
                self.threads.append(threading.Thread(target=self._work, daemon=True))
                self.threads[-1].start()
            self.changed.notify_all()

    def finish(self):
        """Once no test will be added: runs what is left and returns all results."""
        with self.changed:
            self.is_complete = True
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()
        for test in self.alone:
            self.results.append(self.run_one(test))
        return self.results

    def _work(self):
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.running < self.limit and self.waiting
                                      or self.is_complete and not self.waiting)
                if not self.waiting:
                    return
                test = heapq.heappop(self.waiting)[-1]
                self.running += 1
            result = self.run_one(test)
            with self.changed:
                self.results.append(result)
                self.running -= 1
                self.changed.notify_all()

    def run_one(self, test):
        log = os.path.join(self.logs, f"{test.preset}.{test.name}.log")
        report = os.path.join(self.logs, f"{test.preset}.{test.name}.json")
        if os.path.exists(report):
            os.remove(report)
        # This Python itself: where it is chosen by a script, that takes longer than most of what tests ask of it.
        environment = {"PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"], **test.environment}
        if test.name.startswith("unit."):
            environment["CRITERION_OUTPUTS"] = "json:" + report
        ended = processes.run(test.command, log, test.folder, environment, test.timeout_s)
        verdict = PASSED if ended.code == 0 else SKIPPED if ended.code == test.skip_code else FAILED
        count = count_assertions(test, report) if verdict != SKIPPED else 0
        result = Result(test, verdict, ended.wall_s, ended.cpu_s, log, count)
        self.announce(result)
        return result
