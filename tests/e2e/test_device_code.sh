# What ptxas makes of the kernels that nothing here can time: products of warp groups are worth their trouble only if
# sums stay in registers and products run behind the threads' backs.
# builds: fast  seconds: 10
. "$(dirname "$0")/lib.sh"
[ -n "${HEP_NVCC:-}" ] || { echo "SKIP: no CUDA toolkit"; exit 77; }
cd "$work" || exit 1
expect 0 '' "$HEP_NVCC" -std=c++17 -I "$HEP_SOURCE" -arch=compute_90a --ptx -o kernels.ptx \
  "$HEP_SOURCE/kernels/cuda/grouped_warp_group_bf16.cu" || finish
kernels=$(grep -c '\.entry ' kernels.ptx)
[ "$kernels" = 4 ] || fail "$kernels kernels, one each of 4 forms was expected"
products=$(grep -c 'wgmma.mma_async.sync.aligned.m64n256k16' kernels.ptx)
[ "$products" = $((4 * kernels)) ] || fail "$products products, 4 in each kernel were expected"
expect 0 '' "$(dirname "$HEP_NVCC")/ptxas" -arch=sm_90a -v -o kernels.cubin kernels.ptx || finish
clean=$(grep -c ' 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads' out err | awk -F: '{ n += $2 } END { print n }')
[ "$clean" = "$kernels" ] || fail "registers are spilled: $(cat out err)"
grep -h 'Performance Loss' out err && fail "ptxas makes products wait for each other"
# Of warps: 12 loads of four matrices for 32 products in each of 4 forms, and nothing element by element.
expect 0 '' "$HEP_NVCC" -std=c++17 -I "$HEP_SOURCE" -arch=compute_80 --ptx -o warps.ptx \
  "$HEP_SOURCE/kernels/cuda/grouped_bf16.cu" || finish
loads=$(grep -c 'ldmatrix.sync.aligned.m8n8.x4' warps.ptx) products=$(grep -c 'mma.sync.aligned.m16n8k16' warps.ptx)
[ "$loads $products" = "48 128" ] || fail "$loads loads and $products products, 48 and 128 were expected"
finish
