// Any bytes as the manifest of a checkpoint, whose checksum is mended first, or nothing would get past it. What is read
// is printed, and read again, alike.
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "runtime/checkpoint/checkpoint_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *mend(const char *text)
{
    cJSON *root = cJSON_Parse(text);
    const cJSON *checkpoint = cJSON_GetObjectItemCaseSensitive(root, "checkpoint");
    char *printed = checkpoint ? cJSON_PrintUnformatted(checkpoint) : NULL, *mended = NULL, crc[16];
    if (printed) {
        snprintf(crc, sizeof(crc), "%08" PRIx32, (uint32_t)crc32_z(0, (const Bytef *)printed, strlen(printed)));
        cJSON_DeleteItemFromObjectCaseSensitive(root, "crc32");
        cJSON_AddStringToObject(root, "crc32", crc);
        mended = cJSON_PrintUnformatted(root);
    }
    cJSON_free(printed);
    cJSON_Delete(root);
    return mended;
}

static void read_again(const Manifest *manifest)
{
    Manifest again;
    Fault fault = {0};
    Text first = {0}, second = {0};
    manifest_print(manifest, &first);
    if (!manifest_parse("again", first.data, &again, &fault))
        abort();
    manifest_print(&again, &second);
    if (strcmp(first.data, second.data) != 0)
        abort();
    manifest_free(&again);
    text_free(&first);
    text_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *mended;
    memcpy(text, data, size);
    text[size] = '\0';
    mended = mend(text);
    Manifest manifest;
    Fault fault = {0};
    if (manifest_parse("fuzz", mended ? mended : text, &manifest, &fault)) {
        read_again(&manifest);
        manifest_free(&manifest);
    } else if (fault.kind == FAULT_NONE) {
        abort();
    }
    cJSON_free(mended);
    free(text);
    return 0;
}
