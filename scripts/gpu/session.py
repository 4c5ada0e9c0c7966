"""What one call of scripts/test-gpu has found so far: runs programs within the time left, keeps verdicts and
measurements, and writes them to a file after each, so that a run that is killed leaves what it has.
"""
import json
import os
import random
import signal
import subprocess
import time

import criteria

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
SKIP_CODE = 77
TAIL_LINES = 12


class OutOfTime(Exception):
    pass


class PartOver(Exception):
    """The part has had its share of the time."""


class Session:
    def __init__(self, out, work, budget_s, facts):
        self.out, self.work = out, work
        self.began_s, self.budget_s = time.monotonic(), budget_s
        self.facts = facts
        self.results, self.measured = [], {}
        self.criteria = criteria.judge({})
        self.part_until_s = None
        # What NCCL's threads may not do is an error, whatever its version takes for granted.
        self.environment = {**os.environ, "NCCL_LAUNCH_RACE_FATAL": "1"}

    # ---- what is kept -----------------------------------------------------------------------

    def elapsed_s(self):
        return time.monotonic() - self.began_s

    def left_s(self):
        return self.budget_s - self.elapsed_s()

    def begin_tests(self):
        """From here on the budget counts: building is not in it."""
        self.began_s = time.monotonic()

    def begin_part(self, share):
        """`share` of the whole time is the part's; the last ones have what is left."""
        self.part_until_s = time.monotonic() + share * self.budget_s

    def write(self):
        found = {**self.facts, "elapsed_s": round(self.elapsed_s(), 1), "criteria": self.criteria,
                 "results": self.results, "measured": self.measured}
        os.makedirs(os.path.dirname(os.path.abspath(self.out)), exist_ok=True)
        with open(self.out + ".new", "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
        os.replace(self.out + ".new", self.out)

    def record(self, part, name, verdict, figure="", log=""):
        self.results.append({"part": part, "name": name, "verdict": verdict, "figure": figure})
        print(f"[{self.elapsed_s():5.0f} s] {part:9} {name:34} {verdict} {figure}", flush=True)
        if verdict == FAILED:
            for line in log.splitlines()[-TAIL_LINES:]:
                print("  | " + line, flush=True)
        self.write()

    def measure(self, name, path):
        """Keeps the JSON that a program wrote, and judges by it."""
        try:
            with open(path, encoding="utf-8") as file:
                self.measured[name] = json.load(file)
        except (OSError, ValueError):
            return
        self.criteria = criteria.judge(self.measured)
        self.write()

    def failed(self):
        return any(result["verdict"] == FAILED for result in self.results)

    def path(self, name):
        return os.path.join(self.work, name)

    # ---- programs ---------------------------------------------------------------------------

    def start(self, command, environment=None):
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                env={**self.environment, **(environment or {})}, start_new_session=True)

    def finish(self, process, until_s):
        """(exit code, output); 124 where it was ended for taking too long."""
        try:
            output, _ = process.communicate(timeout=max(0.1, until_s - time.monotonic()))
            return process.returncode, output.decode(errors="replace")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return 124, output.decode(errors="replace") + "ended for taking too long\n"

    def limit(self, seconds):
        """When what may take so long has to be done. Raises where nothing is left, of all or of the part's share."""
        if self.left_s() <= 0:
            raise OutOfTime
        left_s = self.left_s()
        if self.part_until_s is not None:
            left_s = min(left_s, self.part_until_s - time.monotonic())
        if left_s <= 0:
            raise PartOver
        return time.monotonic() + min(seconds, left_s)

    def run(self, command, seconds, environment=None):
        return self.finish(self.start(command, environment), self.limit(seconds))

    def start_ranks(self, count, command):
        """A process per rank, as torchrun would start them, each with its own NCCL_HOSTID, so that NCCL takes them for
        hosts and lets them share a GPU: they talk through sockets."""
        port = str(random.randrange(21000, 29000))
        return [self.start(command, {
            "RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port, "NCCL_HOSTID": f"host{rank}", "NCCL_SOCKET_IFNAME": "lo"}) for rank in range(count)]

    def run_ranks(self, count, command, seconds):
        until_s = self.limit(seconds)
        ended = [self.finish(process, until_s) for process in self.start_ranks(count, command)]
        codes = [code for code, _ in ended if code]
        return (codes[0] if codes else 0), "".join(output for _, output in ended)

    def kill_a_rank(self, count, command, victim, is_time, seconds):
        """Kills a rank once is_time() says so; (exit code, output) of every other one. 124: it hung."""
        until_s = self.limit(seconds)
        processes = self.start_ranks(count, command)
        while not is_time() and time.monotonic() < until_s and all(process.poll() is None for process in processes):
            time.sleep(0.05)
        os.killpg(processes[victim].pid, signal.SIGKILL)
        ended = [self.finish(process, until_s) for process in processes]
        return [found for rank, found in enumerate(ended) if rank != victim]

    def attempt(self, part, name, command, seconds, environment=None):
        """Runs and records; true where it passed."""
        before_s = self.elapsed_s()
        code, output = self.run(command, seconds, environment)
        figure = f"{self.elapsed_s() - before_s:.1f} s"
        if code == 0:
            self.record(part, name, PASSED, figure)
        elif code == SKIP_CODE:
            self.record(part, name, SKIPPED, output.strip().splitlines()[-1] if output.strip() else "")
        else:
            self.record(part, name, FAILED, f"exit code {code}", output)
        return code == 0
