// See token_rows.h.
#include "ir/token_rows.h"

static uint64_t element_bytes(TokenFormat format, uint64_t hidden)
{
    if (format != TOKENS_INT4)
        return hidden;
    uint64_t rest = hidden % TOKEN_SHORT_BLOCK;
    return hidden / TOKEN_SHORT_BLOCK * (TOKEN_SHORT_BLOCK / 2) + (rest + 1) / 2;
}

uint32_t token_block(TokenFormat format)
{
    if (format == TOKENS_FULL)
        return 0;
    return format == TOKENS_INT4 ? TOKEN_SHORT_BLOCK : TOKEN_BLOCK;
}

uint64_t token_scales_offset(TokenFormat format, uint64_t hidden)
{
    return (element_bytes(format, hidden) + 1) / 2 * 2;
}

uint64_t token_row_bytes(TokenFormat format, uint64_t hidden, Dtype dtype)
{
    if (format == TOKENS_FULL)
        return hidden * dtype_bytes(dtype);
    uint64_t block = token_block(format), blocks = (hidden + block - 1) / block;
    return (token_scales_offset(format, hidden) + blocks * TOKEN_SCALE_BYTES + 3) / 4 * 4;
}

TokenWay exchange_way(Op op, bool with_records)
{
    if (op == OP_DISPATCH)
        return with_records ? WAY_DISPATCH : WAY_COMBINE_GRADIENT;
    return op == OP_COMBINE ? WAY_COMBINE : WAY_DISPATCH_GRADIENT;
}

bool way_goes_out(TokenWay way)
{
    return way == WAY_DISPATCH || way == WAY_COMBINE_GRADIENT;
}
