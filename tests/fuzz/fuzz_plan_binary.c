// Fuzz target: any bytes as a binary plan. What is decoded is encoded to the same bytes, can be
// verified and printed. The checksum is mended first, or nothing would get past it.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "ir/base/text.h"
#include "ir/binary.h"
#include "ir/text/plan_text.h"
#include "ir/verify/verify.h"

enum { CHECKSUM_OFFSET = 24, LENGTH_OFFSET = 16 };

static void store(uint8_t *to, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> 8 * i);
}

static void check(const Plan *plan, const uint8_t *bytes, size_t length)
{
    static VerifyReport report;
    uint8_t *again;
    size_t again_length;
    Fault fault = {0};
    if (!plan_encode(plan, &again, &again_length, &fault) || again_length != length ||
        memcmp(again, bytes, length) != 0) {
        abort();
    }
    free(again);
    Text text = {0};
    plan_print(plan, &text);
    text_free(&text);
    if (plan_verify(plan, &report) != (report.total == 0))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size ? size : 1);
    Fault fault = {0};
    memcpy(bytes, data, size);
    if (size >= CHECKSUM_OFFSET + 4) {
        store(bytes + LENGTH_OFFSET, size, 8);
        store(bytes + CHECKSUM_OFFSET, 0, 4);
        store(bytes + CHECKSUM_OFFSET, crc32(0, bytes, (uInt)size), 4);
    }
    Plan *plan = plan_decode(bytes, size, &fault);
    if (plan)
        check(plan, bytes, size);
    plan_destroy(plan);
    free(bytes);
    return 0;
}
