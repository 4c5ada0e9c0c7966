# What hepc writes to look at: trace, graph, report. Where a browser or Graphviz is installed the
# report is rendered and the graph laid out; without them the structure alone is checked.
# builds: dev  seconds: 25
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
samples=$HEP_SOURCE/samples

cat >check.py <<'PYTHON'
import html.parser, json, os, re, sys

sample, steps, buffers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
trace = json.load(open("out.trace"))["traceEvents"]
tracks, seen = {}, {}
for event in trace:
    if event["ph"] == "X":
        seen.setdefault(event["pid"], []).append(event["args"]["step"])
        tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"], event["args"]["step"]))
# One process for every class of workers.
assert len(seen) == (6 if sample.startswith("six_sites") else 1), seen.keys()
for process in seen.values():
    assert sorted(process) == list(range(steps)), "%s: trace has steps %d, plan %d" % (sample, len(process), steps)
for track in tracks.values():
    track.sort()
    for one, other in zip(track, track[1:]):
        assert other[0] >= one[1] - 1e-4, "%s: steps %d and %d overlap" % (sample, one[2], other[2])
for event in trace:
    assert event["ph"] in "XMCsf", event
names = {event["args"]["name"] for event in trace if event["ph"] == "M" and event["name"] == "thread_name"}
assert names == {"compute", "exchange", "migrate", "sync"}, names

class Balance(html.parser.HTMLParser):
    void = {"meta", "br"}
    def __init__(self):
        super().__init__()
        self.open, self.titles, self.buffers, self.headings = [], 0, 0, []
    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            assert name not in ("src", "href") and not name.startswith("on"), (tag, name, value)
        self.buffers += tag == "rect" and "data-b" in dict(attributes)
        if tag not in self.void:
            self.open.append(tag)
    def handle_endtag(self, tag):
        top = self.open.pop() if self.open else None
        assert top == tag, "%s: </%s> closes <%s> at line %d" % (sample, tag, top, self.getpos()[0])
    def handle_data(self, data):
        if self.open and self.open[-1] == "title" and "\nstep s" in data:
            self.titles += 1
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

page = open("out.html", encoding="utf-8").read()
assert len(page) < 2 << 20, "%s: report of %d bytes" % (sample, len(page))
balance = Balance()
balance.feed(page)
assert not balance.open, balance.open
assert balance.titles == steps, "%s: report shows %d steps, plan has %d" % (sample, balance.titles, steps)
assert balance.buffers == buffers, "%s: arena shows %d buffers, plan has %d" % (sample, balance.buffers, buffers)
assert balance.headings == ["Comparison", "Choice per layer", "Reasons", "Where the time goes", "Timeline",
                            "Cluster and traffic", "Memory of a GPU"], balance.headings
assert not re.search(r"\b(nan|inf)\b", page.split("<script>")[0]), sample

graph = open("out.dot").read()
assert graph.count(" [fillcolor=") == steps, sample
PYTHON

browser=
for candidate in chromium chromium-browser google-chrome; do
  command -v "$candidate" >/dev/null && browser=$candidate && break
done

# render FILE: the page as it is after its script, in dom; the console in console.
render() {
  timeout 60 "$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$work/profile" --enable-logging=stderr \
    --virtual-time-budget=3000 --dump-dom "file://$work/$1" >dom 2>console
}

# Where the reasons would take long the report is that of the plan file, which has none.
for sample in laptop three_level skewed heterogeneous_layers paper/mix1 two_dc:plan six_sites:plan deepseek_v3:plan; do
  input=$samples/${sample%:plan}.hep name=$(basename "${sample%:plan}")
  [ "$sample" = "${sample%:plan}" ] || { "$HEPC" "$input" -o "$name.hepb" >/dev/null && input=$name.hepb; }
  for kind in trace html dot; do
    expect 0 '' "$HEPC" --emit=$kind -o out.$kind "$input" || continue 2
  done
  "$HEPC" --dump=ir "$input" >out.ir
  python3 check.py "$sample" "$(grep -c '^step ' out.ir)" "$(grep -c '^buffer ' out.ir)" || fail "$sample"
  cp out.html "$name.html" && cp out.ir "$name.ir"
done
grep -q 'Bound by <b>' laptop.html || fail "the report of a model lacks its reasons"
grep -q 'A plan does not hold the reasons' six_sites.html || fail "the report of a plan does not say where reasons are"
grep -q 'Workers that differ' six_sites.html || fail "what heterogeneous workers spend is not shown"
grep -q 'to frankfurt</th>' six_sites.html || fail "links are not shown by name"
[ "$(grep -c '<figure>' heterogeneous_layers.html)" = 2 ] || fail "the two choices of heterogeneous layers are not both drawn"

# Standard output, and plans as input.
expect 0 '' "$HEPC" "$samples/laptop.hep" -o laptop.hepb
for kind in trace dot; do # the report of a model has reasons besides
  "$HEPC" --emit=$kind -o one "$samples/laptop.hep" && "$HEPC" --dump=$kind laptop.hepb >other || fail "$kind of a plan"
  cmp -s one other || fail "$kind differs between a model and its plan"
done
expect 6 'cannot|No such' "$HEPC" --emit=html -o missing/report.html laptop.hepb
expect 2 "unknown output 'htm'.*dot, trace, html or chakra.*did you mean 'html'" "$HEPC" --emit=htm laptop.hepb
expect 0 '' "$HEPC" --help
grep -q '^ *trace: ' out || fail "--help does not list trace"

if command -v dot >/dev/null; then
  "$HEPC" --dump=dot laptop.hepb | dot -Tsvg >graph.svg 2>err || fail "Graphviz refuses the graph: $(cat err)"
else
  echo "no Graphviz: the graph is not laid out"
fi
# drawn NAME: the rendered report has no script error and every step and buffer of its plan.
drawn() {
  grep -E 'CONSOLE.*(Uncaught|Error)' console && fail "the script of $1's report fails"
  grep -q '<body class="live">' dom || fail "the script of $1's report did not run"
  python3 - "$1" <<'PYTHON' || fail "the rendered report of $1 lacks something"
import re, sys
dom, plan = open("dom", encoding="utf-8").read(), open(sys.argv[1] + ".ir").read()
for group, record in ("schedule", "step "), ("buffers", "buffer "):
    found = re.search(r'<g class="%s">(.*?)</g>' % group, dom, re.S)
    drawn, there = found.group(1).count("<rect ") if found else 0, plan.count("\n" + record)
    assert drawn == there, "%d of %d %s" % (drawn, there, group)
PYTHON
}

# with FILE SCRIPT: the report followed by a script that acts as its reader would.
with() { # a busy machine may take its picture before the first frame: what waits for one is done at once
  sed -e 's|<head>|<head><script>window.requestAnimationFrame = function (draw) { draw(0); };</script>|' \
    -e "s|</body>|<script>$2</script></body>|" "$1"
}

cp laptop.html report.html
if [ -n "$browser" ] && render report.html && [ -s dom ]; then
  drawn laptop
  with report.html '' >labelled.html
  render labelled.html
  grep -q 'class="label"[^>]*>expert<' dom || fail "steps are not labelled"
  for name in six_sites heterogeneous_layers skewed deepseek_v3; do
    render $name.html
    drawn $name
  done
  # Point at the memory: what is live there, the largest first.
  with report.html 'var o = document.querySelector(".over"), b = o.getBoundingClientRect();\
o.dispatchEvent(new PointerEvent("pointermove", {clientX: b.left + b.width / 4, clientY: b.top + 9, bubbles: true}));' \
    >pointed.html
  render pointed.html
  grep -E 'CONSOLE.*(Uncaught|Error)' console && fail "pointing fails"
  grep -A1 -E 'id="tip"[^>]*>[0-9.]+ [kMG]?B live at [0-9.]+ ms' dom | grep -qE '[0-9.]+ [kMG]?B +L[0-9]+\.' ||
    fail "pointing at the memory does not tell what is live"
  # Zoom in at the middle: the view box narrows around it.
  with report.html 'var p = document.querySelector(".plot"), b = p.getBoundingClientRect();\
p.dispatchEvent(new WheelEvent("wheel", {deltaY: -462, clientX: b.left + b.width / 2, cancelable: true}));' >zoomed.html
  render zoomed.html
  grep -E 'CONSOLE.*(Uncaught|Error)' console && fail "zooming fails"
  python3 - <<'PYTHON' || fail "zooming does not narrow the view"
import re, sys
found = re.search(r'class="steps" viewBox="([\d.]+) 0 ([\d.]+) ', open("dom").read())
left, width = map(float, found.groups()) if found else (0, 0)
sys.exit(not (abs(width - 50000) < 100 and abs(left + width / 2 - 50000) < 100))
PYTHON
else
  echo "no working browser: the report is not rendered"
fi
finish
