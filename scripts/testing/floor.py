"""Holds the number of assertions of every test: tests/assertions.floor has a line for each, and none may fall below."""
import os

import suite

PATH = "tests/assertions.floor"
HEAD = """# What every test asserts at least: assertions that Criterion ran in unit tests; in end-to-end scripts, places that check
# something. Held by scripts/test; `scripts/test --refresh-floor` writes it again, and whoever lowers a number says why.
"""


def _read(path):
    with open(path, encoding="utf-8") as file:
        lines = [line.split() for line in file if line.strip() and not line.startswith("#")]
    return {name: int(count) for name, count in lines}


def _write(path, floors):
    with open(path, "w", encoding="utf-8") as file:
        file.write(HEAD + "".join(f"{name} {count}\n" for name, count in sorted(floors.items())))


def counted(results):
    """By test; where several presets run it, the most that one of them counted."""
    most = {}
    for result in results:
        if result.verdict != suite.SKIPPED and result.assertions:
            most[result.test.name] = max(most.get(result.test.name, 0), result.assertions)
    return most


def _ran_wholly(results):
    """Tests that ran in all builds they name: one of these may run a part of the instances (tests/unit/effort.h)."""
    ran, named = {}, {}
    for result in results:
        if result.verdict != suite.SKIPPED:
            ran.setdefault(result.test.name, set()).add(result.test.preset)
            named[result.test.name] = set(result.test.labels) - {"quick"}
    return {name for name in ran if named[name] <= ran[name]}


def check(root, results, refresh=False):
    """Prints the number of assertions; how many tests assert less than they did."""
    found, path = counted(results), os.path.join(root, PATH)
    floors = _read(path)
    kinds = {kind: sum(count for name, count in found.items() if name.startswith(kind)) for kind in ("unit", "e2e")}
    print(f"\nassertions: {kinds['unit']} in unit tests, {kinds['e2e']} places in end-to-end tests")
    whole = _ran_wholly(results)
    found = {name: count for name, count in found.items() if name in whole}
    if refresh:
        _write(path, {**floors, **found})
        return 0
    failed = {result.test.name for result in results if result.verdict == suite.FAILED}
    fallen = [name for name in found if name not in failed and found[name] < floors.get(name, 0)]
    for name in fallen:
        print(f"FAIL: {name} asserts {found[name]} times, at least {floors[name]} were expected ({PATH})")
    return len(fallen)
