"""What a run of the tests prints at its end: where the time went, what was asserted, what failed."""
import os

SLOWEST, TAIL_LINES = 10, 40


def one_line(result):
    return (f"{result.verdict:7} {result.test.preset:8} {result.test.name:34} {result.wall_s:7.1f} s wall "
            f"{result.cpu_s:7.1f} s CPU")


def log_text(path, lines=None):
    with open(path, encoding="utf-8", errors="replace") as file:
        return "".join("  | " + line for line in file.readlines()[-(lines or 0):])


def _table(title, rows):
    print(f"\n{title}")
    for row in rows:
        print("  " + row)


def print_slowest(builds, results):
    tests = sorted(results, key=lambda result: -result.cpu_s)[:SLOWEST]
    _table("slowest tests    CPU s   wall s", [
        f"{result.cpu_s:20.1f} {result.wall_s:8.1f}  {result.test.preset} {result.test.name}" for result in tests])
    steps = sorted(((seconds, build.preset, output) for build in builds for seconds, output in build.steps),
                   reverse=True)[:SLOWEST]
    if steps:
        _table("slowest builds            wall s",
               [f"{seconds:29.1f}  {preset} {os.path.basename(output)}" for seconds, preset, output in steps])


def print_times(builds, results, wall_s, jobs):
    _table("where the time went     CPU s   wall s", [
        *(f"{'build ' + build.preset:18} {build.cpu_s:8.0f} {build.wall_s:8.0f}" for build in builds),
        *(f"{'tests ' + preset:18} {sum(r.cpu_s for r in results if r.test.preset == preset):8.0f} "
          f"{sum(r.wall_s for r in results if r.test.preset == preset):8.0f}"
          for preset in dict.fromkeys(result.test.preset for result in results)),
        f"{'alone':18} {sum(r.cpu_s for r in results if r.test.alone):8.0f} "
        f"{sum(r.wall_s for r in results if r.test.alone):8.0f}  (of those: judge clocks)",
        f"{'all':18} {sum(b.cpu_s for b in builds) + sum(r.cpu_s for r in results):8.0f} {wall_s:8.0f}  "
        f"on {jobs} cores"])
