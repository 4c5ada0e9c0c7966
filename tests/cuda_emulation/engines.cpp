// What works behind the threads' backs: asynchronous copies to shared memory and the products of warp groups. Neither
// says when it happens between being begun and being awaited, so it happens as late as it may or, where blocks run
// backwards, the other way round, and what was not waited for shows:
//
//                                 forwards                    backwards
//     a copy lands                when it is awaited          at once
//     a product reads             at once                     when it is awaited
//
// Products read shared memory by a path of their own: what copies wrote is there once the thread that copied publishes
// it (backwards: at once). Nothing else gets there: ordinary stores do not feed products here.
//
// With HEP_EMULATION_WRONG_PRODUCTS=1 in the environment one sum of a product is wrong, for whoever compares.
//
// A warp multiplies its 16 rows by itself. Layouts of operands and sums follow the PTX ISA's sections on wgmma: matrix
// descriptors, core matrices in shared memory, accumulator fragments.
#include "emulate.h"

#include <array>
#include <cstdlib>
#include <deque>
#include <memory>
#include <vector>

namespace emulation
{

namespace
{

constexpr unsigned LANES = 32, WARPS = 4, ROWS = 16, COLS = 256, DEPTH = 16, UNIT = 16, UNIT_ELEMENTS = 8;
constexpr uint32_t WINDOW = 0x410; // where dynamic shared memory begins: no more aligned than it must be

struct Copy {
    void *to;
    const void *from; // NULL: zeros
};

// One instruction of a warp.
struct Product {
    GroupProduct given;
    unsigned warp;  // of its group
    unsigned lanes; // that took it up
    bool done;
    float sums[ROWS][COLS];
};

// What a thread has under way. Products add up in order, in a copy of the thread's sums.
struct Thread {
    std::vector<std::vector<Copy>> copies; // by group, oldest first; the last one is open
    std::vector<void *> unpublished;       // where copies landed
    std::vector<std::vector<std::shared_ptr<Product>>> products;
    float *sums; // those in use by products; NULL: none
    std::array<float, GROUP_PRODUCT_SUMS> kept;
    bool begun; // since it last waited
    size_t issued;
};

struct Engines {
    std::vector<Thread> threads;
    std::vector<std::deque<std::shared_ptr<Product>>> of_warps; // which some lanes have not taken up yet
    std::vector<size_t> dropped;                                // in front of those
    std::vector<unsigned char> published;
    size_t shared_bytes;
    bool backwards;
};

thread_local Engines engines;

[[noreturn]] void fail(const char *what)
{
    fprintf(stderr, "emulation: thread %u: %s\n", here.thread.x, what);
    abort();
}

Thread &current()
{
    return engines.threads[here.thread.x];
}

void land(const Copy &copy, unsigned char *to)
{
    if (copy.from)
        memcpy(to, copy.from, UNIT);
    else
        memset(to, 0, UNIT);
}

// NULL if it is not in dynamic shared memory.
unsigned char *published_at(const void *pointer)
{
    uintptr_t place = reinterpret_cast<uintptr_t>(pointer) - reinterpret_cast<uintptr_t>(dynamic_shared);
    return place < engines.shared_bytes ? engines.published.data() + place : nullptr;
}

// ---- products ------------------------------------------------------------------------------------

struct Descriptor {
    uint32_t start, leading, stride; // bytes
};

Descriptor descriptor_of(uint64_t bits)
{
    if (bits >> 62 != 1 || (bits >> 49 & 7) != 0)
        fail("a descriptor of another layout than 128 exchanged bytes from a multiple of 1024 on");
    auto field = [bits](unsigned first) { return static_cast<uint32_t>(bits >> first & 0x3FFF) * UNIT; };
    return {field(0), field(16), field(32)};
}

// The unit of 16 bytes whose first element is at `across` (rows of a, columns of b) and `depth`: before the exchange
// of address bits 4 to 6 with 7 to 9, 8 lines of 128 bytes repeat at multiples of `stride` in the direction of the
// lines, and of `leading` along them.
const unsigned char *unit_at(const Descriptor &d, bool along, unsigned across, unsigned depth)
{
    constexpr unsigned LINE = 8 * UNIT_ELEMENTS;
    unsigned in_line = along ? across : depth, line = along ? depth : across;
    uint32_t address = d.start + in_line % LINE / UNIT_ELEMENTS * UNIT + in_line / LINE * d.leading +
                       line % 8 * 8 * UNIT + line / 8 * d.stride;
    address ^= (address >> 7 & 7) << 4;
    if (address < WINDOW || address + UNIT > WINDOW + engines.shared_bytes)
        fail("a product reads outside its shared memory");
    return engines.published.data() + (address - WINDOW);
}

void decode_operand(const GroupProduct &given, const Descriptor &d, bool along, unsigned first, unsigned count,
                    float *values, size_t across_stride, size_t depth_stride)
{
    for (unsigned across = 0; across < count; across += along ? UNIT_ELEMENTS : 1) {
        for (unsigned depth = 0; depth < DEPTH; depth += along ? 1 : UNIT_ELEMENTS) {
            float unit[UNIT_ELEMENTS];
            given.decode(unit_at(d, along, first + across, depth), unit);
            for (unsigned e = 0; e < UNIT_ELEMENTS; e++)
                values[(across + (along ? e : 0)) * across_stride + (depth + (along ? 0 : e)) * depth_stride] = unit[e];
        }
    }
}

// Most of the emulation's time: plain arrays, so sanitizers stay out.
__attribute__((no_sanitize("address", "undefined"))) void multiply_add(float *__restrict sums, float factor,
                                                                       const float *__restrict row)
{
    for (unsigned col = 0; col < COLS; col++)
        sums[col] += factor * row[col];
}

void multiply(Product *product)
{
    static thread_local float a[ROWS * DEPTH], b[DEPTH * COLS];
    const GroupProduct &given = product->given;
    if (product->done)
        return;
    product->done = true;
    decode_operand(given, descriptor_of(given.a), given.a_along_rows, product->warp * ROWS, ROWS, a, DEPTH, 1);
    decode_operand(given, descriptor_of(given.b), given.b_along_cols, 0, COLS, b, 1, COLS);
    for (unsigned row = 0; row < ROWS; row++) {
        float *sums = product->sums[row];
        std::fill_n(sums, COLS, 0.0f);
        for (unsigned k = 0; k < DEPTH; k++)
            multiply_add(sums, a[row * DEPTH + k], b + k * COLS);
    }
    const char *wrong = getenv("HEP_EMULATION_WRONG_PRODUCTS");
    if (wrong && *wrong == '1')
        product->sums[3][4] += 1;
}

// The lane's next product, the same for all lanes of the warp.
std::shared_ptr<Product> take_up(const GroupProduct &given)
{
    unsigned warp = here.thread.x / LANES;
    auto &queue = engines.of_warps[warp];
    size_t at = current().issued++ - engines.dropped[warp];
    if (at == queue.size())
        queue.push_back(std::make_shared<Product>(Product{given, warp % WARPS, 0, false, {}}));
    std::shared_ptr<Product> product = queue[at];
    const GroupProduct &first = product->given;
    if (first.a != given.a || first.b != given.b)
        fail("lanes of a warp multiply different matrices");
    product->lanes++;
    while (!queue.empty() && queue.front()->lanes == LANES) {
        queue.pop_front();
        engines.dropped[warp]++;
    }
    return product;
}

void add(Product *product, std::array<float, GROUP_PRODUCT_SUMS> *sums)
{
    unsigned lane = here.thread.x % LANES;
    multiply(product);
    for (unsigned i = 0; i < GROUP_PRODUCT_SUMS; i++)
        (*sums)[i] += product->sums[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2];
}

} // namespace

// ---- a block -------------------------------------------------------------------------------------

void engines_begin(unsigned threads, size_t shared_bytes, bool backwards)
{
    engines.threads.resize(std::max<size_t>(engines.threads.size(), threads));
    for (unsigned t = 0; t < threads; t++) {
        Thread &thread = engines.threads[t];
        thread.copies.resize(1);
        thread.copies[0].clear();
        thread.unpublished.clear();
        thread.products.resize(1);
        thread.products[0].clear();
        thread.sums = nullptr;
        thread.begun = false;
        thread.issued = 0;
    }
    engines.of_warps.assign((threads + LANES - 1) / LANES, {});
    engines.dropped.assign(engines.of_warps.size(), 0);
    engines.published.assign(shared_bytes, 0xFF);
    engines.shared_bytes = shared_bytes;
    engines.backwards = backwards;
}

void engines_end(unsigned threads)
{
    for (unsigned t = 0; t < threads; t++)
        if (engines.threads[t].sums)
            fail("a block ended before its products");
}

// ---- copies --------------------------------------------------------------------------------------

void copy_later(void *to, const void *from)
{
    if (engines.backwards) {
        land({to, from}, static_cast<unsigned char *>(to));
        if (unsigned char *published = published_at(to))
            memcpy(published, to, UNIT);
        return;
    }
    current().copies.back().push_back({to, from});
}

void copy_group()
{
    current().copies.push_back({});
}

void copy_until(unsigned pending_groups)
{
    Thread &thread = current();
    while (thread.copies.size() > pending_groups + 1) {
        for (const Copy &copy : thread.copies.front()) {
            land(copy, static_cast<unsigned char *>(copy.to));
            thread.unpublished.push_back(copy.to);
        }
        thread.copies.erase(thread.copies.begin());
    }
}

void copy_publish()
{
    for (void *place : current().unpublished)
        if (unsigned char *published = published_at(place))
            memcpy(published, place, UNIT);
    current().unpublished.clear();
}

uint32_t shared_address(const void *pointer)
{
    return WINDOW + static_cast<uint32_t>(static_cast<const unsigned char *>(pointer) - dynamic_shared);
}

void *shared_pointer(uint32_t address)
{
    if (address % UNIT != 0 || address < WINDOW || address + UNIT > WINDOW + engines.shared_bytes)
        fail("a copy goes outside its shared memory");
    return dynamic_shared + (address - WINDOW);
}

// ---- products ------------------------------------------------------------------------------------

void product_begin()
{
    current().begun = true;
}

void product_later(float *sums, const GroupProduct &given)
{
    Thread &thread = current();
    if (!thread.begun)
        fail("products begin without group_begin since sums were waited for");
    if (thread.sums && thread.sums != sums)
        fail("products add to other sums before earlier ones were waited for");
    if (!thread.sums) {
        thread.sums = sums;
        std::copy_n(sums, GROUP_PRODUCT_SUMS, thread.kept.begin());
        std::fill_n(sums, GROUP_PRODUCT_SUMS, NAN);
    }
    warp_meet(0); // all lanes multiply together
    thread.products.back().push_back(take_up(given));
    if (!engines.backwards)
        multiply(thread.products.back().back().get());
}

void product_group()
{
    current().products.push_back({});
}

void product_until(unsigned pending_groups)
{
    Thread &thread = current();
    auto &groups = thread.products;
    while (groups.size() > pending_groups + 1) {
        for (const std::shared_ptr<Product> &product : groups.front())
            add(product.get(), &thread.kept);
        groups.erase(groups.begin());
    }
    thread.begun = false;
    bool busy = false;
    for (const auto &group : groups)
        busy |= !group.empty();
    if (busy || !thread.sums)
        return;
    std::copy(thread.kept.begin(), thread.kept.end(), thread.sums);
    thread.sums = nullptr;
}

} // namespace emulation
