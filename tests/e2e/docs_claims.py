"""Compares what README.md and docs/*.md claim with the sources and with what programs printed; see test_docs.sh."""
import glob
import json
import os
import re
import sys

source = sys.argv[1]
pages = {os.path.relpath(path, source): open(path).read()
         for path in sorted(glob.glob(source + "/docs/*.md")) + [source + "/README.md"]}
problems = []


def spans(text):
    """Inline code, outside of blocks."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    text = re.sub(r"^    .*$", "", text, flags=re.M)
    return re.findall(r"(?<!`)`([^`]+)`(?!`)", text.replace("\n", " "))


# ---- messages ----------------------------------------------------------------------------------

def literals():
    """String literals of all C sources, neighbours joined, conversions as \\0; file by file."""
    found = {}
    for path in glob.glob(source + "/**/*.[chly]", recursive=True):
        relative = os.path.relpath(path, source)
        if relative.startswith(("build", "tests")):
            continue
        text = open(path, errors="replace").read()
        text = re.sub(r"\bPRI[a-zA-Z]+\d*\b", '"X"', text)
        string = r'"(?:[^"\\\n]|\\.)*"'
        conversion = r"%[-+ #0]*(?:\*|\d+)?(?:\.(?:\*|\d+))?(?:hh|ll|[hlzjt])?[a-zA-Z]X?"
        joined = [re.sub(r'"\s*"', "", match) for match in re.findall(r"%s(?:\s*%s)*" % (string, string), text)]
        found[relative] = [re.sub(conversion, "\0", literal[1:-1].replace('\\"', '"').replace("%%", "%"))
                           for literal in joined]
    return found


# Words in capitals that stand for something; the others are names.
NAMES = {"MPI", "NCCL", "CUDA", "GPU", "PMI", "RANK"}


def fragments(message):
    parts = re.split(r"\.\.\.|\b(?!(?:%s)\b)[A-Z]+\b" % "|".join(NAMES), message)
    return [part.strip(" ':,;") for part in parts if len(part.strip(" ':,;")) > 3 and "/" not in part]


def check_messages():
    sources = literals()
    rows = re.findall(r"^\| `([^`]+)` \|", pages["docs/running.md"].split("## What messages mean")[1], re.M)
    if len(rows) < 30:
        problems.append("docs/running.md: only %d messages were found" % len(rows))
    everything = [literal for texts in sources.values() for literal in texts]
    parts = {part.strip() for literal in everything for part in literal.split("\0")}

    def is_said(words, first=True):
        """Within one literal, or across places where one is put into another: the end of a part, whole parts, the
        beginning of a part."""
        text = " ".join(words)
        if first and any(text in part for part in parts):
            return True
        if not first and any(part.startswith(text) for part in parts):
            return True
        for i in range(len(words) - 1, 0, -1):
            head = " ".join(words[:i])
            known = any(part.endswith(head) for part in parts) if first else head in parts
            if known and is_said(words[i:], False):
                return True
        return False

    for message in rows:
        wanted = fragments(message)
        missing = [part for part in wanted if not is_said(part.split(" "))]
        if missing or not wanted:
            problems.append("docs/running.md: no program says '%s', of '%s'" % (", ".join(missing), message))


# ---- options, dumps, exit codes ----------------------------------------------------------------

def options_of(path):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"\n {2,}(?=[^- ])", " ", open(path).read())))


def check_options():
    programs = {"hepc": options_of("hepc.help"), "hep-run": options_of("hep-run.help")}
    helps = {name: open(name + ".help").read() for name in programs}
    own = {name: set(re.findall(r"^ +(?:-\w, )?(--[a-z][a-z-]+)", helps[name], re.M)) for name in programs}
    text = "\n".join(pages.values())
    for name, options in own.items():
        for option in sorted(options - {"--help", "--usage", "--version"}):
            short = re.search(r"^ +(-\w), %s\b" % option, helps[name], re.M)
            written = [option + r"(?![\w-])"] + ([short[1] + r"(?![a-zA-Z])"] if short else [])
            if not any(re.search(form, text) for form in written):
                problems.append("%s takes %s, which no page names" % (name, option))
    # What other programs take, of those that pages speak of.
    others = set()
    for path in [path for of in ("scripts", "tests", "samples")
                 for path in glob.glob("%s/%s/**/*" % (source, of), recursive=True)]:
        if os.path.isfile(path) and not path.endswith((".hepb", ".svg")):
            others |= set(re.findall(r"--[a-z][a-z-]+", open(path, errors="replace").read()))
    foreign = set("""--mca --hostfile --map-by --bind-to --ntasks-per-node --mpi --distribution --oversubscribe
        --kill-on-bad-exit --nodes --time --requeue --open-mode --signal --nproc-per-node --no-python --preset --build
        --install --component --prefix --target --no-install-recommends --test-dir --depth""".split())
    for page, content in pages.items():
        for command, option in re.findall(r"\b(hepc|hep-run)\b[^\n|`]*?\s(--[a-z][a-z-]+)", content):
            if option not in programs[command] | foreign:
                problems.append("%s: %s does not take %s" % (page, command, option))
        for option in sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", content))):
            if option not in own["hepc"] | own["hep-run"] | others | foreign:
                problems.append("%s: nothing takes %s" % (page, option))


def check_dumps():
    helped = open("hepc.help").read().split("Dumps:")[1].split("Exit codes:")[0]
    dumps = set(re.findall(r"^  ([a-z]+): ", helped, re.M))
    text = "\n".join(pages.values())
    named = set(re.findall(r"--(?:dump|emit)=([a-z]+)", text))
    for dump in sorted(named - dumps):
        problems.append("no dump is called '%s'" % dump)
    for dump in sorted(dumps - named - {"summary"}):
        problems.append("the dump '%s' is on no page" % dump)


def check_exit_codes():
    for name in ("hepc", "hep-run"):
        codes = set(re.findall(r"^  (\d+)\t", open(name + ".help").read().split("Exit codes:")[1], re.M))
        if len(codes) < 6:
            problems.append("%s lists %d exit codes" % (name, len(codes)))
        for page, content in pages.items():
            for code in re.findall(r"\bexit(?:s with|s| codes?) (\d+)\b", content, re.I):
                if code not in codes:
                    problems.append("%s: no program exits with %s" % (page, code))


# ---- keys of the language ----------------------------------------------------------------------

def check_keys():
    reference = open("language.help").read()
    keys = set(re.findall(r"^\| `(\w+)` \|", reference, re.M))
    blocks = set(re.findall(r"^### `(\w+)", reference, re.M))
    takes = " ".join(line.split("|")[2] for line in reference.split("\n") if line.startswith("| `"))
    choices = set(re.findall(r"`(\w+)`", takes)) | {"off", "auto", "expression", "value", "link", "how", "dc"}
    language = pages["docs/language.md"].split("## Blocks and keys")[0]
    for cell in re.findall(r"^\| (`[^|]*) \|", language, re.M):
        for key in re.findall(r"`(\w+)`", cell):
            if key not in keys:
                problems.append("docs/language.md: there is no key '%s'" % key)
    for span in spans(language):
        for block in re.findall(r"^(\w+)(?: \w+)? \{", span):
            if block not in blocks | {"kind"}:
                problems.append("docs/language.md: `%s`: there is no block '%s'" % (span, block))
        inside = re.findall(r"[{ ](\w+) = ", span) + re.findall(r"^(\w+) = ", span)
        for key in inside:
            if key not in keys | {"name", "key", "dc", "gpu"} and not span.startswith("let"):
                problems.append("docs/language.md: `%s`: there is no key '%s'" % (span, key))
        value = re.match(r"^(\w+) = (\w+)$", span)
        if value and value[1] in keys and not value[2].isdigit() and value[2] not in choices:
            problems.append("docs/language.md: `%s`: '%s' takes no '%s'" % (span, value[1], value[2]))


# ---- fields of JSON ----------------------------------------------------------------------------

def check_fields():
    names = set()

    def collect(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                names.add(key)
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    run = json.load(open("run.json"))
    documented = set(spans(pages["docs/report.md"]))
    for key in run:
        if key not in documented:
            problems.append("docs/report.md: nothing says what '%s' of the report is" % key)
    explanation = json.load(open("explain.json"))
    planner = set(re.findall(r"\w+", " ".join(spans(pages["docs/planner.md"]))))
    for key in explanation:
        if key not in planner:
            problems.append("docs/planner.md: nothing says what '%s' of an explanation is" % key)
    for file in ("run.json", "explain.json", "plan.json", "sweep.json"):
        collect(json.load(open(file)))
    paths = [path for path in glob.glob(source + "/**/*.c", recursive=True) if "/build/" not in path]
    code = "\n".join(open(path).read() for path in paths)
    for page in ("docs/report.md", "docs/planner.md", "docs/looking.md"):
        for span in spans(pages[page]):
            field = re.fullmatch(r"(?:solution\.)?([a-z]+(?:_[a-z]+)+)", span)
            if field and field[1] not in names and not re.search(r"\b%s\b" % field[1], code):
                problems.append("%s: nothing writes a field '%s'" % (page, span))


# ---- files -------------------------------------------------------------------------------------

def check_files():
    roots = {name for name in os.listdir(source) if os.path.isdir(os.path.join(source, name))} - {"build"}
    for page, content in pages.items():
        for path in re.findall(r"(?<![\w/.-])((?:%s)/[\w./*{},-]*[\w*}])" % "|".join(roots), content):
            plain = re.sub(r"\{[^}]*\}|\b[A-Z]+\b", "*", path) # kernels/host/OP.c is each op's
            if not glob.glob(os.path.join(source, plain)) and not glob.glob(os.path.join(source, plain + "*")):
                problems.append("%s: there is no %s" % (page, path))
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", content):
            if not os.path.exists(os.path.join(source, os.path.dirname(page), link)):
                problems.append("%s: leads to %s, which is not there" % (page, link))
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", content):
            path = os.path.join(os.path.dirname(page), target) if target else page
            headings = [re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                        for line in pages.get(os.path.normpath(path), "").split("\n") if line.startswith("#")]
            if anchor not in headings:
                problems.append("%s: %s has no heading '%s'" % (page, path, anchor))


check_messages()
check_options()
check_dumps()
check_exit_codes()
check_keys()
check_fields()
check_files()
for problem in problems:
    print(problem)
sys.exit(1 if problems else 0)
