# The number of assertions that scripts/test holds tests to: one that asserts less is named, but not where only some of the
# builds that it names ran it, or where it failed anyway.
# builds: dev  seconds: 1
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
mkdir tests
printf 'unit.a 100\nunit.b 10\n' >tests/assertions.floor
cat >check.py <<'PYTHON'
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import floor
import suite
def ran(preset, name, labels, count, verdict=suite.PASSED):
    return suite.Result(suite.Test(preset, name, [], labels=labels), verdict, 1, 1, "", count)
both = ["dev", "fast", "quick"]
results = [eval(text) for text in sys.argv[3:]]
sys.exit(floor.check(".", results, refresh=sys.argv[2] == "refresh"))
PYTHON
check() { python3 check.py "$HEP_SOURCE/scripts/testing" "$@"; }
expect 0 '' check hold 'ran("dev", "unit.a", both, 25)' 'ran("fast", "unit.a", both, 100)'
expect 1 '' check hold 'ran("dev", "unit.a", both, 25)' 'ran("fast", "unit.a", both, 99)'
grep -q '^FAIL: unit.a asserts 99 times, at least 100' out || fail "not named: $(cat out)"
expect 0 '' check hold 'ran("dev", "unit.a", both, 25)'
expect 0 '' check hold 'ran("dev", "unit.b", ["dev"], 9, suite.FAILED)'
expect 1 '' check hold 'ran("dev", "unit.b", ["dev"], 9)'
expect 0 '' check refresh 'ran("dev", "unit.a", both, 25)' 'ran("dev", "unit.b", ["dev"], 12)'
grep -qx 'unit.a 100' tests/assertions.floor && grep -qx 'unit.b 12' tests/assertions.floor ||
  fail "written: $(cat tests/assertions.floor)"
finish
