"""Functions of more than 60 lines or 6 parameters, unless the comment above them says why: "Long because ...",
"Many parameters because ...".

    python3 function_sizes.py [--any-parameters=FOLDER] FILE...

A scan of the text, not a parser: a function begins in the first column and ends with the brace that closes it. Exits
with 1 where there is one, and where it finds no function at all.
"""
import re
import sys

LINES_MAX, PARAMETERS_MAX = 60, 6
NO_FUNCTION = re.compile(r"(typedef|enum|struct|union|namespace|#|extern \"C\" \{)")
ATTRIBUTE = re.compile(r"\b(__attribute__|__launch_bounds__|PRINTF_LIKE)\s*\((?:[^()]|\([^()]*\))*\)")


def blank(match):
    """A comment or literal, without what might look like code; lines stay."""
    mark = "_" if match.group(0)[0] in "\"'" else " "
    return re.sub(r"[^\n]", mark, match.group(0))


def code_of(text):
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text, flags=re.S)


def count_parameters(head):
    inside = head[head.index("(") + 1:head.rindex(")")].strip()
    depth, count = 0, 1 if inside not in ("", "void") else 0
    for character in inside:
        depth += (character in "([<") - (character in ")]>")
        count += character == "," and depth == 0
    return count


def end_of(lines, first):
    """The line that closes the brace opened in line `first`."""
    depth = 0
    for at in range(first, len(lines)):
        depth += lines[at].count("{") - lines[at].count("}")
        if depth <= 0:
            return at
    return len(lines) - 1


def functions_of(text):
    """(name, index of the first line, lines, parameters) of every function that is defined."""
    lines = code_of(text).split("\n")
    at = 0
    while at < len(lines):
        first, at = at, at + 1
        if not re.match(r"[A-Za-z_]", lines[first]) or NO_FUNCTION.match(lines[first]):
            continue
        open_at = next((i for i in range(first, len(lines)) if not lines[i] or re.search(r"^#|[{;]", lines[i])), first)
        if "{" not in lines[open_at]:
            continue
        head = ATTRIBUTE.sub("", " ".join(lines[first:open_at] + [lines[open_at].split("{")[0]]))
        name = re.search(r"(\w+)\s*\(", head)
        if not name or ")" not in head or "=" in head:
            continue
        last = end_of(lines, open_at)
        yield name.group(1), first, last - first + 1, count_parameters(head)
        at = last + 1


def comment_above(lines, first):
    at = first
    while at > 0 and (lines[at - 1].startswith("//") or lines[at - 1].startswith("template")):
        at -= 1
    return "\n".join(lines[at:first])


def problems_of(path, any_parameters):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    lines, count, problems = text.split("\n"), 0, []
    for name, first, length, parameters in functions_of(text):
        count += 1
        reasons = comment_above(lines, first)
        if length > LINES_MAX and "Long because" not in reasons:
            problems.append(f"{path}:{first + 1}: '{name}' has {length} lines")
        if parameters > PARAMETERS_MAX and not any_parameters and "Many parameters because" not in reasons:
            problems.append(f"{path}:{first + 1}: '{name}' has {parameters} parameters")
    return count, problems


def main(arguments):
    folders = tuple(a.split("=")[1] + "/" for a in arguments if a.startswith("--any-parameters="))
    count, problems = 0, []
    for path in arguments:
        if not path.startswith("--"):
            more, found = problems_of(path, path.startswith(folders))
            count += more
            problems += found
    print("\n".join(problems + [f"{count} functions, {len(problems)} too large without a reason"]))
    return 1 if problems or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
