# The mutation tool on a file of one function, whose mutants are counted by hand: four, of which the checks below leave
# one alive.
# builds: dev
. "$(dirname "$0")/lib.sh"
command -v python3 >/dev/null || { echo "SKIP: no python3"; exit 77; }
mutate=$HEP_SOURCE/tests/mutation/mutate
mkdir "$work/toy"
cat >"$work/toy/limit.c" <<'C'
#include <assert.h> // 1 < 2
int limit(int a, int most)
{
    assert(most > 0); /* a + 1 */
    if (a > most)
        return most;
    return a + 1;
}
C
cat >"$work/toy/main.c" <<'C'
int limit(int a, int most);
int main(void) { return limit(3, 5) != 4 || limit(9, 5) != 5; }
C
cat >"$work/tests.conf" <<'CONF'
build cc -o ../toy limit.c main.c
limit.c ../toy
CONF
run_toy() { "$mutate" --tree "$work/toy" --tests "$work/tests.conf" --work "$work/copy" --equivalent "$work/same" "$@"; }

run_toy --list limit.c >"$work/list" || fail "--list failed"
cat >"$work/expected" <<'LIST'
limit.c:5: if (a > most) -> if (a >= most)
limit.c:7: return a + 1; -> return a - 1;
limit.c:7: return a + 1; -> return a ;
limit.c:7: return a + 1; -> return a + 2;
4 mutants
LIST
diff <(sort "$work/expected") <(sort "$work/list") || fail "other mutants than by hand"

expect 1 'survived: limit.c:5: if \(a > most\)' run_toy limit.c
grep -q '^limit.c  *3  *1  *0  *0$' "$work/out" || fail "not 3 killed and 1 survived"
cmp -s "$work/toy/limit.c" "$work/copy/source/limit.c" || fail "the copy was left changed"
expect 1 '' run_toy limit.c # nothing is run again
grep -q survived: "$work/err" && fail "a known mutant was run again"
grep -q '75.0 % of 4 killed' "$work/out" || fail "a second call forgot the results of the first"

echo 'limit.c:limit: if (a > most) -> if (a >= most) | the limit itself does not occur' >"$work/same"
expect 0 '' run_toy limit.c
grep -q '100.0 % of 3 killed' "$work/out" || fail "an equivalent mutant counts"
echo 'limit.c:limit: if (a > most) -> if (a >= most)' >"$work/same"
expect 1 "expected 'file:function: original -> mutated . reason'" run_toy limit.c
rm "$work/same"

sed -i 's/!= 5;/!= 5 || limit(5, 5) != 6;/' "$work/toy/main.c"
expect 0 '' run_toy --survivors limit.c
grep -q '^.1/1. killed' "$work/err" || fail "not the survivor alone was run again: $(cat "$work/err")"
grep -q '100.0 % of 4 killed' "$work/out" || fail "the check of the limit itself kills the last one"
echo 'int main(void) { return 1; }' >"$work/toy/main.c"
expect 1 'fails without a change' run_toy --again limit.c
expect 1 "there is no 'other.c'" run_toy other.c
finish
