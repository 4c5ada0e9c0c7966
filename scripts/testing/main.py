"""Builds one preset after the other and runs the tests of those that are built meanwhile. Called by scripts/test, whose
--help says the rest.
"""
import argparse
import os
import sys
import threading
import time

sys.dont_write_bytecode = True

import builds  # noqa: E402
import floor  # noqa: E402
import processes  # noqa: E402
import report  # noqa: E402
import suite  # noqa: E402
from builds import Preset  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PRESETS = {
    "dev": Preset("warnings are errors, AddressSanitizer, UndefinedBehaviorSanitizer",
                  environment={"ASAN_OPTIONS": "detect_leaks=1:malloc_context_size=10",
                               "LSAN_OPTIONS": f"suppressions='{ROOT}/tests/unit/leaks.supp':print_suppressions=0"}),
    "fast": Preset("as users build it, for what takes long or looks at clocks; CUDA kernels by nvcc"),
    "tsan": Preset("the runtime under ThreadSanitizer", targets=["hep-run"], needs=("fast", "hepc"),
                   environment={"HEP_WITHOUT_MPI": "1"}),
    "fuzz": Preset("libFuzzer targets, a short run each", targets=["fuzzers"]),
}
EPILOG = "presets:\n" + "\n".join(f"  {name:9}{preset.about}" for name, preset in PRESETS.items()) + """

Each test says in its first lines which presets run it, see docs/testing.md. Logs are in build/logs. The last line is
"N passed, N failed, N skipped".
"""


def read_options():
    parser = argparse.ArgumentParser(
        prog="scripts/test", description="Sets everything up, builds and runs all tests, or those of some presets.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"of {', '.join(PRESETS)} (all)")
    parser.add_argument("--quick", action="store_true",
                        help="the dev build and its short tests: under two minutes once it is built")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="cores to use (all)")
    parser.add_argument("--refresh-floor", action="store_true",
                        help=f"write what these tests assert to {floor.PATH}")
    options = parser.parse_args()
    unknown = [name for name in options.presets if name not in PRESETS]
    if unknown:
        parser.error(f"unknown preset '{unknown[0]}': one of {', '.join(PRESETS)}")
    if options.quick and options.presets not in ([], ["dev"]):
        parser.error("--quick is for the dev preset")
    chosen = options.presets or (["dev"] if options.quick else list(PRESETS))
    options.presets = [name for name in PRESETS if name in chosen]
    return options


def plan_builds(presets):
    """(name, targets; none: all), in order: what a preset needs of another one comes first."""
    planned = []
    for name in presets:
        needed, *targets = PRESETS[name].needs
        if needed and needed not in presets:
            planned.append((needed, targets))
        planned.append((name, PRESETS[name].targets))
    return planned


def build_one(name, targets, jobs):
    say(f"== build {name}: {PRESETS[name].about}")
    build = builds.build(ROOT, name, targets, jobs)
    if build.ok:
        say(f"built   {name:8} {build.wall_s:.0f} s wall, {build.cpu_s:.0f} s CPU")
    else:
        say(report.log_text(build.log, report.TAIL_LINES), f"FAIL: the {name} build ({build.log})")
    return build


def build_and_test(options):
    """The first build has all cores, the others half of them beside the tests. One test more than there are cores: many
    wait for processes of theirs, or for time to pass."""
    runner = suite.Runner(ROOT, announce)
    done = []
    for name, targets in plan_builds(options.presets):
        jobs = (options.jobs + 1) // 2 if done else options.jobs
        done.append(build_one(name, targets, jobs))
        if done[-1].ok and name in options.presets:
            tests = select(options, name)
            say(f"== {len(tests)} tests of {name}")
            runner.add(tests)
        runner.allow(options.jobs - (options.jobs + 1) // 2 + 1)
    runner.allow(options.jobs + 1)
    return done, runner.finish()


def select(options, preset):
    tests = suite.discover(ROOT, preset)
    for test in tests:
        test.environment = {**PRESETS[preset].environment, **test.environment}
    return [test for test in tests if preset in test.labels and (not options.quick or "quick" in test.labels)]


_output = threading.Lock()


def say(*texts):
    with _output:
        print(*texts, sep="\n", flush=True)


def announce(result):
    say(report.one_line(result), *([report.log_text(result.log)] if result.verdict == suite.FAILED else []))


def main():
    options = read_options()
    begin_s = time.monotonic()
    done, results = build_and_test(options)
    report.print_slowest(done, results)
    report.print_times(done, results, time.monotonic() - begin_s, options.jobs)
    fallen = floor.check(ROOT, results, refresh=options.refresh_floor)
    count = {verdict: sum(result.verdict == verdict for result in results)
             for verdict in (suite.PASSED, suite.FAILED, suite.SKIPPED)}
    failed = count[suite.FAILED] + sum(not build.ok for build in done) + fallen
    print(f"\n{count[suite.PASSED]} passed, {failed} failed, {count[suite.SKIPPED]} skipped")
    return int(failed > 0 or count[suite.PASSED] == 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        processes.end_all()
        os._exit(130) # threads would start the next test
