# libhep as its users have it: installed, found by pkg-config and by CMake, shared and static; which symbols it shows,
# how large its structs are; the samples are built, warnings are errors, and run.
# builds: fast  seconds: 12
. "$(dirname "$0")/lib.sh"
cd "$work" || exit 1
build=$(dirname "$(dirname "$HEPC")")
prefix="$work/prefix"
expect 0 '' cmake -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_COMPONENT=library -P "$build/cmake_install.cmake" || finish
expect 0 '' cmake -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_COMPONENT=development -P "$build/cmake_install.cmake" ||
  finish
pkg=$(find "$prefix" -name pkgconfig)
library=$(dirname "$pkg")
export PKG_CONFIG_PATH=$pkg LD_LIBRARY_PATH=$library
cc=("${CC:-cc}" -Wall -Wextra -Werror -pedantic -O1)

# ---- what is seen of it
grep -oE 'HEP_API [^;(]*\bhep_[a-z_]+' "$prefix/include/hep.h" | grep -oE 'hep_[a-z_]+$' | sort -u >declared
nm -D --defined-only "$library/libhep.so" | awk '{print $3}' | sort -u >exported
diff declared exported >differ || fail "libhep.so does not export what hep.h declares: $(cat differ)"
nm --defined-only --extern-only "$library/libhep.a" | awk 'NF == 3 {print $3}' | sort -u | diff declared - >differ ||
  fail "libhep.a does not define what hep.h declares: $(cat differ)"
diff "$HEP_SOURCE/tests/golden/library/symbols" exported >differ ||
  fail "exported functions changed: HEP_ABI, the soname and tests/golden/library/symbols go with that: $(cat differ)"
# It needs no library that a wheel could not bring along.
ldd "$library/libhep.so" | grep -E 'openblas|cjson|glpk|cuda' && fail "libhep.so needs more than it should"
for language in c c++; do
  echo | "${CC:-cc}" -x $language -fsyntax-only - 2>/dev/null || { echo "no compiler for $language"; continue; }
  standard=$([ $language = c ] && echo c99 || echo c++11)
  echo '#include <hep.h>' | "${CC:-cc}" -x $language "-std=$standard" -Wall -Wextra -Werror -pedantic \
    -I "$prefix/include" -fsyntax-only - || fail "hep.h is not $language"
done
# Sizes of structs: what wrappers copy.
{
  printf '#include <hep.h>\n#include <stdio.h>\nint main(void) {\n'
  grep -oE '^} hep_[a-z_]+;' "$prefix/include/hep.h" | grep -oE 'hep_[a-z_]+' | sort |
    sed 's/.*/printf("%s %zu\\n", "&", sizeof(&));/'
  printf 'return 0; }\n'
} >sizes.c
# shellcheck disable=SC2046 # options are words
expect 0 '' "${cc[@]}" sizes.c $(pkg-config --cflags hep) -o sizes && ./sizes | diff "$HEP_SOURCE/tests/golden/library/sizes" - >differ ||
  fail "structs changed size (the end may grow, and tests/golden/library/sizes with it): $(cat differ)"

# ---- samples, by pkg-config and by CMake
expect 0 '' "$HEPC" "$HEP_SOURCE/samples/laptop_training.hep" --domain "site=1,gpu=2" -o plan.hepb
# shellcheck disable=SC2046
expect 0 '' "${cc[@]}" "$HEP_SOURCE/samples/library/layout.c" $(pkg-config --cflags --libs hep) -o layout || finish
expect 0 '' ./layout plan.hepb
grep -q '^8 ranks, 8 experts in each of 3 layers' out || fail "layout: $(cat out)"
grep -q '^  rank 3: owns 1 experts from 3 on, holds 2 to 3$' out || fail "layout: $(cat out)"
expect 1 'layout: file cannot be read: none.hepb: No such file or directory' ./layout none.hepb
head -c 100 plan.hepb >cut.hepb
expect 1 'layout: bad plan: cut.hepb: not a usable plan: ' ./layout cut.hepb
# shellcheck disable=SC2046
expect 0 '' "${cc[@]}" "$HEP_SOURCE/samples/library/moe.c" $(pkg-config --cflags --libs hep) -lpthread -o moe || finish
for domain in "site=1,gpu=1" "site=2,gpu=1" "site=1,gpu=4" "site=2,gpu=2"; do
  expect 0 '' "$HEPC" "$HEP_SOURCE/samples/laptop_training.hep" --domain "$domain" -o moe.hepb
  expect 0 '' ./moe moe.hepb
  grep -qx '8 ranks, 3 layers: largest error 0' out || fail "moe under $domain: $(cat out)"
done
sed 's/^plan {/&  capacity = 8  exchange = padded  /' "$HEP_SOURCE/samples/laptop_training.hep" >padded.hep
expect 0 '' "$HEPC" padded.hep --domain "site=1,gpu=1" -o padded.hepb
expect 0 '' ./moe padded.hepb
grep -qx '8 ranks, 3 layers: largest error 0' out || fail "moe, padded: $(cat out)"
expect 0 '' "$HEPC" "$HEP_SOURCE/samples/padded.hep" -o half.hepb
expect 1 'moe: expected a training plan in f32' ./moe half.hepb
# On GPUs, a process each: emulated ones, found by what a launcher would have set.
if [ -x "$build/bin/sample-gpu-emulated" ]; then
  for domain in "site=1,gpu=1" "site=2,gpu=1" "site=2,gpu=2"; do
    expect 0 '' "$HEPC" "$HEP_SOURCE/samples/laptop_training.hep" --domain "$domain" -o gpu.hepb
    port=$((20000 + RANDOM % 10000))
    for rank in 7 6 5 4 3 2 1 0; do
      HEP_EMULATION_DEVICES=8 RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=8 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
        HEP_JOB_SECRET=of-this-test-alone "$build/bin/sample-gpu-emulated" gpu.hepb >"gpu.$rank" 2>&1 &
    done
    wait
    grep -qx '8 ranks, 3 layers: largest error 0' gpu.0 || fail "gpu under $domain: $(cat gpu.?)"
  done
fi
mkdir app
cp "$HEP_SOURCE"/samples/library/layout.c app
cat >app/CMakeLists.txt <<'CMAKE'
cmake_minimum_required(VERSION 3.20)
project(app C)
find_package(hep 0.1 REQUIRED)
add_executable(shared layout.c)
target_link_libraries(shared hep::hep)
add_executable(static layout.c)
target_link_libraries(static hep::hep_static)
CMAKE
unset LD_LIBRARY_PATH
expect 0 '' cmake -S app -B app/build -DCMAKE_PREFIX_PATH="$prefix" && expect 0 '' cmake --build app/build || finish
for program in shared static; do
  expect 0 '' "app/build/$program" plan.hepb
  grep -q 'rank 7: .* holds 6 to 7$' out || fail "$program: $(cat out)"
done
ldd app/build/static | grep -q libhep && fail "the static program loads libhep"
finish
