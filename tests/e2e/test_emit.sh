# What hepc writes to look at: trace, graph, report. Where a browser or Graphviz is installed the
# report is rendered and the graph laid out; without them the structure alone is checked.
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
samples=$HEP_SOURCE/samples

cat >check.py <<'PYTHON'
import html.parser, json, os, re, sys

sample, steps = sys.argv[1], int(sys.argv[2])
trace = json.load(open("out.trace"))["traceEvents"]
tracks, seen = {}, []
for event in trace:
    if event["ph"] == "X":
        seen.append(event["args"]["step"])
        tracks.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"], event["args"]["step"]))
assert sorted(seen) == list(range(steps)), "%s: trace has steps %d, plan %d" % (sample, len(seen), steps)
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
        self.open, self.titles, self.bad = [], 0, None
    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            assert name not in ("src", "href") and not name.startswith("on"), (tag, name, value)
        if tag not in self.void:
            self.open.append(tag)
    def handle_endtag(self, tag):
        top = self.open.pop() if self.open else None
        assert top == tag, "%s: </%s> closes <%s> at line %d" % (sample, tag, top, self.getpos()[0])
    def handle_data(self, data):
        if self.open and self.open[-1] == "title" and "\nstep s" in data:
            self.titles += 1

page = open("out.html", encoding="utf-8").read()
assert len(page) < 2 << 20, "%s: report of %d bytes" % (sample, len(page))
balance = Balance()
balance.feed(page)
assert not balance.open, balance.open
assert balance.titles == steps, "%s: report shows %d steps, plan has %d" % (sample, balance.titles, steps)
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

for sample in laptop two_dc three_level deepseek_v3 paper/mix1; do
  for kind in trace html dot; do
    expect 0 '' "$HEPC" --emit=$kind -o out.$kind "$samples/$sample.hep" || continue 2
  done
  steps=$("$HEPC" --dump=ir "$samples/$sample.hep" | grep -c '^step ')
  python3 check.py "$sample" "$steps" || fail "$sample"
done

# Standard output, and plans as input.
expect 0 '' "$HEPC" "$samples/laptop.hep" -o laptop.hepb
for kind in trace html dot; do
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
"$HEPC" --emit=html -o report.html laptop.hepb
if [ -n "$browser" ] && render report.html && [ -s dom ]; then
  grep -E 'CONSOLE.*(Uncaught|Error)' console && fail "the report's script fails"
  grep -q '<body class="live">' dom || fail "the report's script did not run"
  grep -q 'class="label"[^>]*>expert<' dom || fail "steps are not labelled"
  # Zoom in at the middle: the view box narrows around it.
  sed 's|</body>|<script>var p = document.querySelector(".plot"), b = p.getBoundingClientRect();\
p.dispatchEvent(new WheelEvent("wheel", {deltaY: -462, clientX: b.left + b.width / 2, cancelable: true}));\
</script></body>|' \
    report.html >zoomed.html
  zoomed=no
  for _ in 1 2 3; do # a busy machine may take its picture before the first frame
    render zoomed.html
    grep -E 'CONSOLE.*(Uncaught|Error)' console && fail "zooming fails"
    python3 - <<'PYTHON' && zoomed=yes && break
import re, sys
found = re.search(r'class="steps" viewBox="([\d.]+) 0 ([\d.]+) ', open("dom").read())
left, width = map(float, found.groups()) if found else (0, 0)
sys.exit(not (abs(width - 50000) < 100 and abs(left + width / 2 - 50000) < 100))
PYTHON
  done
  [ $zoomed = yes ] || fail "zooming does not narrow the view"
else
  echo "no working browser: the report is not rendered"
fi
finish
