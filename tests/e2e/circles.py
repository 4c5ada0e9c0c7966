"""Circles in which parts of the sources depend on each other: files by the functions they call, found in the objects
of a build, and folders by the headers they include. A file that drives its parts must not also hold what they call.

    python3 circles.py BUILD SOURCE FOLDER...

Prints every circle with what closes it; exits with 1 where there is one.
"""
import json
import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict


def objects_of(build, source, folders):
    """The object of every C source below the folders that this build is configured with and has built."""
    objects = {}
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as commands:
        for command in json.load(commands):
            name = os.path.relpath(command["file"], source)
            words = shlex.split(command["command"])
            path = os.path.join(command["directory"], words[words.index("-o") + 1])
            if name.split(os.sep)[0] in folders and name.endswith(".c") and os.path.exists(path):
                objects.setdefault(name, path)
    return objects


def symbols_of(path):
    """What an object defines for others, and what it takes from others."""
    listed = subprocess.run(["nm", "--extern-only", "--format=posix", path], stdout=subprocess.PIPE, check=True,
                            text=True)
    defined, used = set(), set()
    for line in listed.stdout.splitlines():
        name, kind = line.split()[:2]
        (used if kind == "U" else defined).add(name)
    return defined, used


def calls_between(objects):
    """calls[a][b]: the symbols of b that a uses."""
    symbols = {name: symbols_of(path) for name, path in objects.items()}
    owners = defaultdict(set)
    for name, (defined, _) in symbols.items():
        for symbol in defined:
            owners[symbol].add(name)
    calls = {name: defaultdict(list) for name in objects}
    for name, (defined, used) in symbols.items():
        for symbol in sorted(used):
            for owner in owners[symbol] - {name}:
                calls[name][owner].append(symbol)
    return calls


def includes_between(source, folders):
    """includes[a][b]: the headers of folder b that files of folder a include."""
    includes = defaultdict(lambda: defaultdict(set))
    for folder in folders:
        for path, _, names in os.walk(os.path.join(source, folder)):
            here = os.path.relpath(path, source)
            for name in names:
                if not re.search(r"\.(c|h|cu|y|l)$", name):
                    continue
                with open(os.path.join(path, name), encoding="utf-8") as text:
                    headers = re.findall(r'^#include "([^"]+/[^"]+)"', text.read(), re.M)
                for header in headers:
                    if os.path.dirname(header) != here:
                        includes[here][os.path.dirname(header)].add(header)
    return includes


def reached_from(edges, start):
    seen, waiting = set(), [start]
    while waiting:
        for name in edges.get(waiting.pop(), ()):
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    return seen


def circles_of(edges):
    """Sets of nodes that all reach each other."""
    reached = {name: reached_from(edges, name) for name in edges}
    left, circles = set(edges), []
    for name in sorted(edges):
        circle = {other for other in left if other in reached[name] and name in reached[other]}
        left -= circle
        if len(circle) > 1:
            circles.append(circle)
    return circles


def report(what, edges):
    circles = circles_of(edges)
    for circle in circles:
        print(f"{len(circle)} {what} in a circle:")
        for name in sorted(circle):
            for other in sorted(circle & set(edges[name])):
                print(f"  {name} -> {other}: {' '.join(sorted(edges[name][other]))}")
    return len(circles)


def main(build, source, *folders):
    source = os.path.realpath(source)
    objects = objects_of(build, source, folders)
    circles = report("files call each other", calls_between(objects))
    circles += report("folders include each other", includes_between(source, folders))
    print(f"{len(objects)} files, {circles} circles")
    return 1 if circles or not objects else 0


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
