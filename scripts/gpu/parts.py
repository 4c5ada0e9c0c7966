"""What scripts/test-gpu does, part by part. A part is a function of a Tester; it records what it finds."""
import glob
import os
import shutil

import compare
import machine
import plans
from session import FAILED, PASSED, SKIPPED

ROUNDS = ["--warmup", "0", "--timeout", "20"]


class Tester:
    """Programs and plans, and runs of them."""

    def __init__(self, session, programs, folder, names, fault_count):
        self.session, self.programs, self.folder, self.names = session, programs, folder, names
        self.faults = fault_count

    def program(self, name):
        for folder in self.programs:
            path = os.path.join(folder, name)
            if os.access(path, os.X_OK):
                return path
        return None

    def hep_run(self, *arguments):
        return [self.program("hep-run"), *arguments]

    def plan(self, name):
        return os.path.join(self.folder, name + ".hepb")

    def matrix(self):
        return [plan for plan in plans.matrix() if not self.names or plan.name in self.names]

    # ---- one plan on both engines ---------------------------------------------------------------

    def options(self, plan):
        """Choices of experts in 16 bits differ between engines: there losses are compared with fixed ones."""
        if plan.training:
            return ["-n", "4"] + ([] if plan.dtype == "f32" else ["--routing", "balanced"])
        return ["-n", "2", "--check"]

    def on_host(self, plan, name, more):
        """The profile of the host engine, or None."""
        path = self.session.path(f"host.{plan.name}.json")
        if os.path.exists(path):
            return compare.load(path)
        code, output = self.session.run(self.hep_run(self.plan(plan.name), *ROUNDS, *more, "--profile", path), 60)
        if code:
            self.session.record("plans", name, FAILED, f"host engine: exit code {code}", output)
            return None
        return compare.load(path)

    def unlike(self, plan, name, more):
        """Of a plan whose packets have no bound: the same training without them, on the host."""
        if plan.codec == "dense" or not plan.training:
            return []
        found = self.on_host(plan._replace(name=f"train_{plan.strategy}_{plan.dtype}"), name, more)
        return [found] if found else []

    def judge(self, part, plan, name, code, output, path, more):
        if code:
            self.session.record(part, name, FAILED, f"exit code {code}", output)
            return
        host, device = self.on_host(plan, name, more), compare.load(path)
        if host is None:
            return
        if device["engine"] != "cuda":
            self.session.record(part, name, FAILED, "not the CUDA engine")
            return
        if part == "graph" and device.get("replays", False) == name.endswith("--no-graph"):
            self.session.record(part, name, FAILED, device.get("replay_refusal") or "replayed")
            return
        verdict, said = compare.compare(host, device, self.unlike(plan, name, more))
        self.session.record(part, name, FAILED if verdict else PASSED, said)

    def in_one_process(self, plan):
        path, more = self.session.path("device.json"), self.options(plan)
        command = self.hep_run("--engine", "cuda", self.plan(plan.name), *ROUNDS, *more, "--profile", path)
        code, output = self.session.run(command, 90)
        self.judge("plans", plan, plan.name, code, output, path, more)

    def in_processes(self, part, plan, *options):
        path, more = self.session.path("device.json"), self.options(plan)
        command = self.hep_run("--engine", "cuda", self.plan(plan.name), *ROUNDS, *more, *options, "--profile", path)
        host = self.on_host(plan, plan.name, more)
        if host is None:
            return
        code, output = self.session.run_ranks(host["ranks"], command, 120)
        self.judge(part, plan, " ".join([plan.name, *options]), code, output, path, more)


# ---- correctness ----------------------------------------------------------------------------------------------------

def kernels(tester):
    """Each kernel against its twin on the host."""
    found = {os.path.basename(path): path for folder in reversed(tester.programs)
             for path in glob.glob(os.path.join(folder, "test_*_device"))}
    for name in sorted(found):
        tester.session.attempt("kernels", name, [found[name]], 180)
    if not found:
        tester.session.record("kernels", "device tests", SKIPPED, "not built: no Criterion")


def laptop(tester):
    """The sample that README begins with, forward and training, against the host engine: all ranks on one GPU."""
    session = tester.session
    for name in plans.LAPTOP:
        if not os.path.exists(tester.plan(name)):
            session.record("laptop", name, SKIPPED, "no such plan")
            continue
        more = ["-n", "2"] if name == "laptop" else ["-n", "4"]
        paths = {engine: session.path(f"{name}.{engine}.json") for engine in ("host", "cuda")}
        for engine, path in paths.items():
            command = tester.hep_run("--engine", engine, tester.plan(name), *ROUNDS, *more, "--profile", path)
            code, output = session.run(command, 60)
            if code:
                session.record("laptop", name, FAILED, f"engine {engine}: exit code {code}", output)
                break
        else:
            verdict, said = compare.compare(compare.load(paths["host"]), compare.load(paths["cuda"]), [])
            session.record("laptop", name, FAILED if verdict else PASSED, said)


def rows_in(path):
    """Of the file that --losses writes: iterations that are done."""
    try:
        with open(path, encoding="utf-8") as file:
            return max(0, len(file.read().splitlines()) - 1)
    except OSError:
        return 0


def fault(tester, plan, number, options):
    """A rank is killed in the middle of a training: all others must end, soon and for that reason."""
    session, losses = tester.session, tester.session.path(f"losses.{number}.csv")
    host = tester.on_host(plan, plan.name, tester.options(plan))
    if host is None:
        return
    ranks, victim = host["ranks"], 1 + number % (host["ranks"] - 1)
    command = tester.hep_run("--engine", "cuda", tester.plan(plan.name), "--warmup", "0", "-n", "1000000", "--timeout",
                             "20", "--quiet", "--losses", losses, *options)
    ended = session.kill_a_rank(ranks, command, victim, lambda: rows_in(losses) >= 5, 90)
    name = " ".join([plan.name, *options, f"rank {victim} dies"])
    done, output = rows_in(losses), "".join(said for _, said in ended)
    if any(code == 124 for code, _ in ended):
        session.record("faults", name, FAILED, "a rank hung", output)
    elif done < 5:
        session.record("faults", name, FAILED, "it did not get to train", output)
    elif any(code == 0 for code, _ in ended) or "is gone" not in output:
        session.record("faults", name, FAILED, "the others did not say why they ended", output)
    else:
        session.record("faults", name, PASSED, f"after iteration {done}")


def faults(tester):
    """Failures after a graph with NCCL's calls was captured, without graphs, and where the host waits for counts."""
    cases = [("train_ep_f32_padded", []), ("train_all_f32", []), ("train_ep_f32_padded", ["--no-graph"]),
             ("train_dc_bf16", [])]
    cases = [(plan, options) for name, options in cases for plan in tester.matrix() if plan.name == name]
    for number in range(tester.faults if cases else 0):
        fault(tester, cases[number % len(cases)][0], number, cases[number % len(cases)][1])


def one_process(tester):
    """Strategies, dtypes, passes and codecs against the host engine, all ranks on one GPU in one process."""
    for plan in tester.matrix():
        tester.in_one_process(plan)


def nccl(tester):
    """The same as a process per rank on one GPU, over NCCL, in the cases that move different things."""
    chosen = ["train_ep_f32", "train_all_f32", "train_dc_bf16", "train_gpu_f16", "forward_dc_f16",
              "train_gpu_f32_naive", "train_dc_f32_delta", "train_all_bf16_sr", "train_dc_f16_topk",
              "train_ep_bf16_padded"]
    for plan in tester.matrix():
        if plan.name in chosen:
            tester.in_processes("nccl", plan)


def graph(tester):
    """Replayed as a graph, and enqueued step by step."""
    for plan in tester.matrix():
        if plan.name in ("train_all_f32", "train_all_bf16", "train_ep_f32_padded"):
            tester.in_processes("graph", plan)
            tester.in_processes("graph", plan, "--no-graph")
        if plan.name == "train_ep_f16":
            tester.in_processes("graph", plan)


def sanitizer(tester):
    """compute-sanitizer on the smallest things."""
    checker = shutil.which("compute-sanitizer")
    if not checker:
        tester.session.record("sanitizer", "compute-sanitizer", SKIPPED, "not installed")
        return
    cases = [(name, tester.hep_run("--engine", "cuda", "--warmup", "0", "-n", "1", tester.plan(name)))
             for name in ("train_all_f32", "train_gpu_bf16", "train_dc_f32_delta")
             if not tester.names or name in tester.names]
    tests = [f"test_kernels_cuda_{kernels}_device" for kernels in ("route", "expert")]
    rest = [(name, [tester.program(name)]) for name in tests if tester.program(name)]
    runs = [(tool, *case) for tool in ("memcheck", "racecheck") for case in cases[:1]]  # the smallest plan first
    runs += [(tool, *case) for tool in ("memcheck", "racecheck") for case in cases[1:] + rest]
    for tool, name, command in runs:
        tester.session.attempt("sanitizer", f"{tool} {name}", [checker, "--tool", tool, "--error-exitcode", "9",
                                                              "--target-processes", "all", *command], 240)


def calibrate(tester):
    """The GPU's own cluster block, alone and as two processes."""
    session, out = tester.session, tester.session.path("measured.hep")
    for name, ranks in (("one process", 0), ("2 processes", 2)):
        command = tester.hep_run("--engine", "cuda", "--calibrate", out, tester.plan(plans.PAIR))
        code, output = session.run_ranks(ranks, command, 120) if ranks else session.run(command, 120)
        if code == 0 and os.path.exists(out):
            with open(out, encoding="utf-8") as file:
                session.measured[f"calibration, {name}"] = file.read()
            os.remove(out)
        session.record("calibrate", name, FAILED if code else PASSED, f"exit code {code}" if code else "", output)


# ---- speed ----------------------------------------------------------------------------------------------------------

def benchmark(tester, name, *arguments):
    program = tester.program(f"bench_cuda_{name}")
    if not program:
        tester.session.record("bench", name, SKIPPED, "not built")
        return
    path = tester.session.path(name + ".json")
    if tester.session.attempt("bench", name, [program, *arguments, "--json", path], 180):
        tester.session.measure(name, path)


def bench(tester):
    """What the machine's limits are, and how close kernels, a layer and the host come to them."""
    session, layer = tester.session, tester.plan(plans.LAYER)
    benchmark(tester, "kernels")
    benchmark(tester, "products", layer)
    benchmark(tester, "enqueue", layer)
    trace = ["--trace", session.path("trace.json")]
    runs = {"layer": [], "layer_steps": ["--no-graph"], "layer_traced": ["--no-graph", *trace],
            "layer_replayed_traced": trace}
    for name, options in runs.items():
        path = session.path(name + ".json")
        command = tester.hep_run("--engine", "cuda", "--warmup", "5", "-n", "20", *options, "--json=" + path, layer)
        if session.attempt("bench", name, command, 120):
            session.measure(name, path)
    refusal = session.measured.get("layer", {}).get("expert_refusal")
    if refusal:
        session.record("bench", "experts by wgmma", FAILED, refusal)


# In the order of what they tell. A part has its share of the time, the later ones what is left.
PARTS = {"kernels": kernels, "laptop": laptop, "nccl": nccl, "faults": faults, "bench": bench, "sanitizer": sanitizer,
         "graph": graph, "plans": one_process, "calibrate": calibrate}
SHARES = {"kernels": 0.15, "laptop": 0.1, "nccl": 0.15, "faults": 0.15, "bench": 0.2, "sanitizer": 0.15, "graph": 0.15,
          "plans": 0.7, "calibrate": 1}


def build(session, source, folder, deps):
    """Builds; the folder with the programs."""
    options = [f"-DHEP_CUDA_ARCHITECTURES={machine.architecture()}", *machine.library_options()]
    targets = machine.targets()
    if deps:
        options.append(f"-DHEP_DEPS={deps}")
    if not deps and shutil.which("flex") and shutil.which("bison"):
        targets.append("hepc")
    else:
        options.append("-DHEP_BUILD_COMPILER=OFF")
    name = f"release, {machine.architecture()}"
    code, output = session.run(machine.configure_command(source, folder, options), 120)
    if code == 0:
        code, output = session.run(machine.build_command(folder, targets), 420)
    session.record("build", name, FAILED if code else PASSED, f"exit code {code}" if code else "", output)
    return os.path.join(folder, "bin")
