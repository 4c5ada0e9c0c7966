// The geometry of packets, which compiler, verifier, runtime and kernels share: how many elements of a vector travel
// where values are compressed, and how many bytes that takes. What is chosen, and what values mean, is for the kernels
// (kernels/host/codec.c).
//
// A vector of `elements` is cut into blocks of CODEC_BLOCK, the last one shorter. Of each block the k largest elements
// by magnitude are kept. A packet holds, block by block, k values (bf16) and then their k indices in the block (u16,
// ascending): a block's part begins at a multiple of 4 bytes, and both streams of a block are contiguous. All blocks
// but the last take the same, so that the place of a block is a product.
#ifndef HEP_CODEC_H
#define HEP_CODEC_H

#include "ir/names.h"

enum {
    CODEC_BLOCK = 4096,      // elements
    CODEC_ELEMENT_BYTES = 4, // of one that is kept: value and index
};

// What sets a codec apart: compiler, verifier, engines and the reference ask these, and none by name.
typedef struct {
    bool encodes;   // packets travel, encoded before a gather and decoded after it; else experts as they are
    bool has_mean;  // they hold what differs from the mean of all experts, which is summed now and then
    bool remembers; // they hold what differs from what was `sent`, which receivers keep as `replicas`
} CodecInfo;

const CodecInfo *codec_info(Codec codec); // or CODEC_COUNT, of a request that leaves it open

// k of a block of `elements` (at most CODEC_BLOCK) at `ratio`, dense bytes / bytes sent, everything counted: rounded
// down, at least 1 and at most `elements`. 0 for an empty block.
uint32_t codec_kept(uint64_t elements, Dtype dtype, double ratio);

uint64_t codec_blocks(uint64_t elements);
// Bytes of one vector's packet, a multiple of 4. Never overflows: at most 4 x elements, UINT64_MAX where that is more.
uint64_t codec_packet_bytes(uint64_t elements, Dtype dtype, double ratio);

#endif
