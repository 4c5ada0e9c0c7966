// The geometry of packets, which compiler, verifier, runtime and kernels share: how many elements of a vector travel
// where values are compressed, and how many bytes that takes. What is chosen, and what values mean, is for the kernels
// (kernels/host/codec.c, packet.c); docs/packets.md has every form bit by bit.
//
// A vector of `elements` is cut into blocks of CODEC_BLOCK, the last one shorter. A packet holds one part per block,
// one after another; all parts but the last are equally long, so that the place of a block is a product. Parts begin at
// multiples of 2 bytes; a packet ends with zeros up to a multiple of 4 bytes.
#ifndef HEP_CODEC_H
#define HEP_CODEC_H

#include "ir/names.h"

enum {
    CODEC_BLOCK = 4096,      // elements
    CODEC_ELEMENT_BYTES = 4, // of one that is kept among others that are not: value and index
    CODEC_SHORT_BYTES = 2,   // the same, of packets for large ratios
    CODEC_SHORT_ABOVE = 50,  // ratios that get these
    CODEC_SCALE_BYTES = 2,   // bf16
    CODEC_GROUP = 128,       // elements with a scale of their own, where a block has more than one
};

// What a block's part is: the largest elements, with their indices; or few bits of every element, times a scale.
typedef enum {
    PACKET_LARGEST, // k values (bf16), then their k indices in the block (u16, ascending)
    PACKET_SHORT,   // a scale, the largest magnitude over 7; k x 12 bits of index and 4 of a multiple of the scale
    PACKET_SIGN,    // the scale, the mean magnitude; a bit per element, set where it is negative, in 32-bit words
    PACKET_Q4,      // of each group a scale, the largest magnitude over 7, and 4 bits of every element
    PACKET_TERNARY, // of each group a scale and, five to a byte, minus 1, 0 or 1 of every element
    PACKET_WHOLE,   // the elements as they are, in their dtype
} PacketForm;

// How a vector becomes a packet.
typedef struct {
    PacketForm form;
    double ratio; // dense bytes / bytes sent, as requested; 1 of forms that have a size of their own
} Packing;

// What sets a codec apart: compiler, verifier, engines and the reference ask these, and none by name.
typedef struct {
    bool encodes;    // packets travel, encoded before a gather and decoded after it; else experts as they are
    bool has_mean;   // they hold what differs from the mean of all experts, which is summed now and then
    bool remembers;  // they hold what differs from what was `sent`, which receivers keep as `replicas`
    PacketForm form; // of its packets
} CodecInfo;

const CodecInfo *codec_info(Codec codec); // or CODEC_COUNT, of a request that leaves it open

// How weights of a kind of bundle travel, and their gradients.
typedef struct {
    Codec codec;
    double ratio;            // dense bytes / bytes sent, as requested; 1 where there is none
    GradientReturn gradient; // the same for gradients that go home
    double gradient_ratio;
    uint32_t whole_levels; // innermost levels where both travel as they are, whatever codecs say
} Coding;

// How weights, and gradients on their way home, become packets, where they do.
Packing coding_packing(const Coding *coding);
Packing coding_gradient_packing(const Coding *coding);
// Outermost levels that packets cross, where there are any.
uint32_t coding_levels(const Coding *coding, uint32_t level_count);
bool coding_encodes(const Coding *coding); // weights or gradients

Packing codec_packing(Codec codec, double ratio);
Packing gradient_packing(GradientReturn gradient, double ratio);

// Whether packets of a form are as large as a ratio says. Others hold some bits of every element.
bool packet_has_ratio(PacketForm form);
// Dense bytes / bytes sent of a whole block: what was requested, or what comes of the form.
double packing_ratio(Packing packing, Dtype dtype);

// k of a block of `elements` (at most CODEC_BLOCK): how many elements its part of the packet holds. What a ratio buys
// with everything counted, rounded down, at least 1 and at most `elements`; all of them where there is no ratio. 0 for
// an empty block.
uint32_t packing_kept(Packing packing, uint64_t elements, Dtype dtype);
// Bytes of the part of a block of `elements`, at most CODEC_BLOCK.
uint32_t packing_block_bytes(Packing packing, uint64_t elements, Dtype dtype);

uint64_t codec_blocks(uint64_t elements);
uint32_t packing_sign_words(uint32_t elements); // of a block
// Bytes of one vector's packet, a multiple of 4. Never overflows: UINT64_MAX where 4 x elements are more.
uint64_t packing_bytes(Packing packing, uint64_t elements, Dtype dtype);

#endif
