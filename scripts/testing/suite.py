"""The tests of built presets, as CTest knows them, run side by side on all cores, the longest first; those that judge
clocks run alone, afterwards. Counts what they assert.
"""
import json
import os
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
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
    def __init__(self, root, jobs, announce):
        self.logs = os.path.join(root, "build", "logs")
        self.jobs, self.announce = jobs, announce
        self.lock = threading.Lock()
        os.makedirs(self.logs, exist_ok=True)

    def run_one(self, test):
        log = os.path.join(self.logs, f"{test.preset}.{test.name}.log")
        report = os.path.join(self.logs, f"{test.preset}.{test.name}.json")
        if os.path.exists(report):
            os.remove(report)
        environment = dict(test.environment)
        if test.name.startswith("unit."):
            environment["CRITERION_OUTPUTS"] = "json:" + report
        ended = processes.run(test.command, log, test.folder, environment, test.timeout_s)
        verdict = PASSED if ended.code == 0 else SKIPPED if ended.code == test.skip_code else FAILED
        count = count_assertions(test, report) if verdict != SKIPPED else 0
        result = Result(test, verdict, ended.wall_s, ended.cpu_s, log, count)
        with self.lock:
            self.announce(result)
        return result

    def run(self, tests):
        together = sorted((test for test in tests if not test.alone), key=lambda test: -test.cost)
        with ThreadPoolExecutor(self.jobs) as pool:
            results = list(pool.map(self.run_one, together))
        return results + [self.run_one(test) for test in tests if test.alone]
