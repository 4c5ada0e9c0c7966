"""Whether the syntax files of editors know every block, key, choice and unit that `hepc --help-language` lists.

    syntax_files.py textmate GRAMMAR LANGUAGE     tries the rules of the grammar on each
    syntax_files.py vim FOLDER LANGUAGE           has vim colour a text that has each
"""
import json
import os
import re
import subprocess
import sys
import tempfile

SAMPLES = [("let", "keyword"), ("include", "keyword"), ("from", "keyword"), ("# a note = 1", "comment"),
           ('"a file.csv"', "string"), ("187.1e6", "number")]


def words_of(reference):
    """What must be coloured, as (text, what it is, which part of the text)."""
    tables, units = reference.split("## Units")
    found = [(f"{block} {{", "block", block) for block in re.findall(r"^### `(\w+)", tables, re.M)]
    for key, takes in re.findall(r"^\| `(\w+)` \| ([^|]*) \|", tables, re.M):
        found.append((f"{key} = 1", "key", key))
        found += [(f"x = {choice}", "choice", choice) for choice in re.findall(r"`(\w+)`", takes)]
    listed = [unit for line in units.strip().splitlines() if line for unit in re.findall(r"`([^`]+)`", line)[1:]]
    found += [(f"x = 10 {unit}", "unit", unit) for unit in listed]
    found += [(text, what, text) for text, what in SAMPLES]
    # 'training' is a block and a pass: a word alone is coloured as a block.
    blocks = {part for _, what, part in found if what == "block"}
    found = [entry for entry in found if entry[1] != "choice" or entry[2] not in blocks]
    counts = {what: sum(entry[1] == what for entry in found) for what in ("block", "key", "choice", "unit")}
    assert counts["block"] >= 11 and counts["key"] >= 60 and counts["choice"] >= 15 and counts["unit"] >= 40, counts
    return found


def check_textmate(path, found):
    scopes = {"keyword": "keyword.control", "comment": "comment", "string": "string", "number": "constant.numeric",
              "block": "storage.type", "key": "variable.parameter", "choice": "constant.language",
              "unit": "keyword.other.unit"}
    rules = json.load(open(path))["patterns"]
    wrong = 0
    for text, what, part in found:
        at, scope = text.rindex(part), None
        # The rule that matches first in the text wins, of those the first in the list.
        matches = [(match.start(), index, match) for index, rule in enumerate(rules)
                   for match in re.finditer(rule["match"], text) if match.start() <= at < match.end()]
        if matches:
            _, index, match = min(matches)
            rule = rules[index]
            scope = rule.get("name")
            for group, capture in rule.get("captures", {}).items():
                if match.span(int(group)) == (at, at + len(part)):
                    scope = capture["name"]
        if not scope or not scope.startswith(scopes[what]):
            print(f"'{part}' of '{text}', a {what}, is {scope}")
            wrong += 1
    return wrong


def check_vim(folder, found):
    groups = {"keyword": "hepStatement", "comment": "hepComment", "string": "hepString", "number": "hepNumber",
              "block": "hepBlock", "key": "hepKey", "choice": "hepChoice", "unit": "hepUnit"}
    with tempfile.TemporaryDirectory() as work:
        text, script, out = (os.path.join(work, name) for name in ("all.hep", "ask.vim", "groups"))
        with open(text, "w") as file:
            file.writelines(line + "\n" for line, _, _ in found)
        with open(script, "w") as file:
            file.write("let names = [&filetype]\n")
            for number, (line, _, part) in enumerate(found, 1):
                for column in (line.rindex(part) + 1, line.rindex(part) + len(part)):
                    file.write(f"call add(names, synIDattr(synID({number}, {column}, 1), 'name'))\n")
            file.write(f"call writefile(names, '{out}')\nqall!\n")
        subprocess.run(["vim", "-N", "-u", "NONE", "-i", "NONE", "-n", "-es", "--cmd", f"set rtp^={folder}",
                        "-c", "filetype on", "-c", "syntax on", "-c", f"edit {text}", "-c", f"source {script}"],
                       timeout=100, check=False, stdin=subprocess.DEVNULL)
        names = open(out).read().splitlines()
    wrong = 0
    if names[0] != "hep":
        print(f"vim takes a .hep file for '{names[0]}'")
        wrong += 1
    for index, (line, what, part) in enumerate(found):
        first, last = names[1 + 2 * index:3 + 2 * index]
        if first != groups[what] or last != groups[what]:
            print(f"'{part}' of '{line}', a {what}, is '{first}' to '{last}'")
            wrong += 1
    return wrong


def main(kind, path, language):
    found = words_of(open(language).read())
    wrong = {"textmate": check_textmate, "vim": check_vim}[kind](path, found)
    print(f"{kind}: {len(found)} words, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
