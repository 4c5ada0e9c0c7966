# hep.adapters.megatron in Megatron-Core: a token dispatcher under a plan, on four processes. Skipped where there is none.
# builds: fast  seconds: 15
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/adapters_lib.sh"
run_adapter megatron
finish
