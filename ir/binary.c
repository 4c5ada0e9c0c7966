// Writer and reader of `.hepb` files; the layout is described in docs/plan-format.md and follows
// from the tables of schema.h. All reading goes through one bounded cursor.
#include "ir/binary.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "ir/base/text.h"
#include "ir/schema.h"

// The first byte is no text, the next three name us, the rest breaks when line ends are converted
// or a transfer stops at the end-of-file character.
static const uint8_t magic[8] = {0x89, 'H', 'E', 'P', '\r', '\n', 0x1a, '\n'};

// Sections: one per record kind, in file order, then these.
enum { SECTION_OPERANDS = RECORD_COUNT, SECTION_AFTER, SECTION_STRINGS, SECTION_COUNT };
enum {
    HEADER_BYTES = 32,
    CHECKSUM_OFFSET = 24,
    SECTION_ENTRY_BYTES = 24,
    SECTIONS_BEGIN = HEADER_BYTES + SECTION_COUNT * SECTION_ENTRY_BYTES,
    SECTION_ALIGNMENT = 8,
    STEP_LIST_BYTES = 8, // operand count and edge count after a step's fields
};

static uint32_t section_record_bytes(int section)
{
    switch (section) {
    case SECTION_OPERANDS:
    case SECTION_AFTER:
        return 4;
    case SECTION_STRINGS:
        return 1;
    case RECORD_STEP:
        return record_bytes(RECORD_STEP) + STEP_LIST_BYTES;
    default: // the record kinds
        return record_bytes((RecordKind)section);
    }
}

static uint32_t file_checksum(const uint8_t *bytes, size_t length)
{
    static const uint8_t zero[4] = {0};
    uLong crc = crc32(0, bytes, CHECKSUM_OFFSET);
    crc = crc32(crc, zero, sizeof(zero));
    return (uint32_t)crc32_z(crc, bytes + CHECKSUM_OFFSET + sizeof(zero), length - CHECKSUM_OFFSET - sizeof(zero));
}

// ---- writing -----------------------------------------------------------------------------------

static void store_u32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> 8 * i);
}

static void put_u32(Text *out, uint32_t value)
{
    uint8_t bytes[4];
    store_u32(bytes, value);
    text_append_bytes(out, bytes, sizeof(bytes));
}

static void put_u64(Text *out, uint64_t value)
{
    put_u32(out, (uint32_t)value);
    put_u32(out, (uint32_t)(value >> 32));
}

static void put_number(Text *out, double value)
{
    uint64_t bits;
    value += 0.0; // -0 becomes 0
    memcpy(&bits, &value, sizeof(bits));
    put_u64(out, bits);
}

typedef struct {
    const Plan *plan;
    Text out, strings;
} Writer;

static void put_name(Writer *writer, const char *name)
{
    put_u32(&writer->out, (uint32_t)writer->strings.length);
    text_append_bytes(&writer->strings, name, strlen(name) + 1);
}

static void put_field(Writer *writer, FieldType type, const void *value)
{
    switch (type) {
    case FIELD_NAME:
        put_name(writer, *(const char *const *)value);
        break;
    case FIELD_BOOL:
        put_u32(&writer->out, *(const bool *)value ? 1 : 0);
        break;
    case FIELD_U64:
        put_u64(&writer->out, *(const uint64_t *)value);
        break;
    case FIELD_NUMBER:
        put_number(&writer->out, *(const double *)value);
        break;
    case FIELD_DOMAIN:
        for (uint32_t l = 0; l < LEVELS_MAX; l++)
            put_u32(&writer->out, l < writer->plan->cluster.level_count ? ((const uint32_t *)value)[l] : 0);
        break;
    case FIELD_U32:
    case FIELD_LAYER:
    case FIELD_LEVEL:
    case FIELD_GROUP:
    case FIELD_ONE_OF:
        put_u32(&writer->out, *(const uint32_t *)value);
        break;
    case FIELD_TYPE_COUNT:
        break;
    }
}

static uint64_t put_records(Writer *writer, RecordKind kind)
{
    uint32_t count = record_count(writer->plan, kind);
    for (uint32_t i = 0; i < count; i++) {
        const char *record = record_at(writer->plan, kind, i);
        for (const Field *field = record_info(kind)->fields; field->key; field++)
            put_field(writer, field->type, record + field->offset);
        if (kind == RECORD_STEP) {
            put_u32(&writer->out, op_info((int)writer->plan->steps[i].op)->operand_count);
            put_u32(&writer->out, writer->plan->steps[i].after_count);
        }
    }
    return count;
}

// The lists of all steps one after another. Returns the number of entries.
static uint64_t put_lists(Writer *writer, bool edges)
{
    const Plan *plan = writer->plan;
    uint64_t total = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        uint32_t count = edges ? step->after_count : op_info((int)step->op)->operand_count;
        for (uint32_t k = 0; k < count; k++)
            put_u32(&writer->out, edges ? plan->after[step->after_first + k] : (uint32_t)step_operands(plan, step)[k]);
        total += count;
    }
    return total;
}

static uint64_t put_section(Writer *writer, int section)
{
    if (section == SECTION_OPERANDS || section == SECTION_AFTER)
        return put_lists(writer, section == SECTION_AFTER);
    if (section == SECTION_STRINGS) {
        text_append_bytes(&writer->out, writer->strings.data, writer->strings.length);
        return writer->strings.length;
    }
    return put_records(writer, (RecordKind)section);
}

static void put_padding(Text *out)
{
    static const uint8_t zeros[SECTION_ALIGNMENT] = {0};
    text_append_bytes(out, zeros, (SECTION_ALIGNMENT - out->length % SECTION_ALIGNMENT) % SECTION_ALIGNMENT);
}

static void put_file(Writer *writer)
{
    Text table = {0};
    static const uint8_t zeros[SECTIONS_BEGIN] = {0};
    text_append_bytes(&writer->out, zeros, sizeof(zeros));
    for (int section = 0; section < SECTION_COUNT; section++) {
        uint64_t offset = writer->out.length, count = put_section(writer, section);
        put_padding(&writer->out);
        put_u32(&table, (uint32_t)section);
        put_u32(&table, section_record_bytes(section));
        put_u64(&table, count);
        put_u64(&table, offset);
    }
    Text header = {0};
    text_append_bytes(&header, magic, sizeof(magic));
    put_u32(&header, PLAN_FORMAT_VERSION);
    put_u32(&header, SECTION_COUNT);
    put_u64(&header, writer->out.length);
    put_u64(&header, 0); // checksum and reserved word
    memcpy(writer->out.data, header.data, header.length);
    memcpy(writer->out.data + HEADER_BYTES, table.data, table.length);
    store_u32((uint8_t *)writer->out.data + CHECKSUM_OFFSET,
              file_checksum((const uint8_t *)writer->out.data, writer->out.length));
    text_free(&header);
    text_free(&table);
}

bool plan_encode(const Plan *plan, uint8_t **bytes, size_t *length, Fault *fault)
{
    if (!plan_within_limits(plan, NULL, fault))
        return false;
    Writer writer = {.plan = plan};
    put_file(&writer);
    text_free(&writer.strings);
    *bytes = (uint8_t *)writer.out.data;
    *length = writer.out.length;
    return true;
}

// ---- reading -----------------------------------------------------------------------------------

typedef struct {
    const uint8_t *bytes;   // the file
    size_t length, at, end; // the cursor reads [at, end)
    Fault *fault;           // the first failure
    Plan *plan;
    uint64_t counts[SECTION_COUNT];
    uint64_t offsets[SECTION_COUNT];
    uint64_t string_at; // where the next name must begin, in the strings section
} Reader;

static PRINTF_LIKE(2, 3) bool refuse(Reader *reader, const char *format, ...)
{
    char message[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    return fault_set(reader->fault, FAULT_INPUT, "%s", message);
}

static bool failed(const Reader *reader)
{
    return reader->fault->kind != FAULT_NONE;
}

// Every read of the file but magic, checksum and strings. 0 beyond the bounds, and the reader fails.
static uint32_t get_u32(Reader *reader)
{
    if (reader->end - reader->at < 4) {
        refuse(reader, "the file ends inside a record");
        return 0;
    }
    uint32_t value = 0;
    for (int i = 0; i < 4; i++)
        value |= (uint32_t)reader->bytes[reader->at++] << 8 * i;
    return value;
}

static uint64_t get_u64(Reader *reader)
{
    uint64_t low = get_u32(reader);
    return low | (uint64_t)get_u32(reader) << 32;
}

static double get_number(Reader *reader)
{
    uint64_t bits = get_u64(reader);
    double value;
    memcpy(&value, &bits, sizeof(value));
    if (!isfinite(value) || signbit(value))
        refuse(reader, "a number is negative or not finite");
    return value;
}

// Names lie in the strings section in the order in which records name them, without gaps.
static const char *get_name(Reader *reader)
{
    uint64_t size = reader->counts[SECTION_STRINGS], at = get_u32(reader);
    if (at != reader->string_at || at >= size) {
        refuse(reader, "string offset %" PRIu64 " is out of order", at);
        return "";
    }
    const char *name = (const char *)reader->bytes + reader->offsets[SECTION_STRINGS] + at;
    const char *nul = memchr(name, 0, size - at);
    if (!nul) {
        refuse(reader, "the last string does not end");
        return "";
    }
    reader->string_at = at + (uint64_t)(nul - name) + 1;
    return arena_copy_string(reader->plan->arena, name, (size_t)(nul - name));
}

static void get_domain(Reader *reader, uint32_t *domain)
{
    for (uint32_t l = 0; l < LEVELS_MAX; l++) {
        domain[l] = get_u32(reader);
        if (l >= reader->plan->cluster.level_count && domain[l] != 0)
            refuse(reader, "a domain size is given for a level that does not exist");
    }
}

static void get_field(Reader *reader, const Field *field, void *value)
{
    uint32_t code;
    switch (field->type) {
    case FIELD_NAME:
        *(const char **)value = get_name(reader);
        break;
    case FIELD_BOOL:
        code = get_u32(reader);
        if (code > 1)
            refuse(reader, "'%s' is %" PRIu32 ": expected 0 or 1", field->key, code);
        *(bool *)value = code == 1;
        break;
    case FIELD_U64:
        *(uint64_t *)value = get_u64(reader);
        break;
    case FIELD_NUMBER:
        *(double *)value = get_number(reader);
        break;
    case FIELD_DOMAIN:
        get_domain(reader, value);
        break;
    case FIELD_U32:
    case FIELD_LAYER:
    case FIELD_LEVEL:
    case FIELD_GROUP:
        *(uint32_t *)value = get_u32(reader);
        break;
    case FIELD_ONE_OF:
        code = get_u32(reader);
        if (code > INT32_MAX || !name_text(field->names, (int)code))
            refuse(reader, "unknown code %" PRIu32 " for '%s'", code, field->key);
        *(uint32_t *)value = code;
        break;
    case FIELD_TYPE_COUNT:
        break;
    }
}

static bool read_header(Reader *reader)
{
    if (reader->length < sizeof(magic) || memcmp(reader->bytes, magic, sizeof(magic)) != 0) {
        if (plan_is_binary(reader->bytes, reader->length))
            return refuse(reader, "the file was damaged by a transfer in text mode, or is cut off");
        return refuse(reader, "not a plan: the magic number is missing");
    }
    reader->at = sizeof(magic);
    uint32_t version = get_u32(reader), sections = get_u32(reader);
    if (!failed(reader) && version > PLAN_FORMAT_VERSION)
        return refuse(reader, "written by a newer version: format %" PRIu32 ", and this program reads up to %d",
                      version, PLAN_FORMAT_VERSION);
    if (!failed(reader) && version > 0 && version < PLAN_FORMAT_VERSION)
        return refuse(reader,
                      "written by an older version: format %" PRIu32 ", and this program reads %d: compile again",
                      version, PLAN_FORMAT_VERSION);
    uint64_t length = get_u64(reader);
    uint32_t checksum = get_u32(reader), reserved = get_u32(reader);
    if (failed(reader) || length > reader->length) {
        *reader->fault = (Fault){0};
        return refuse(reader, "the file is cut off after %zu bytes", reader->length);
    }
    if (length != reader->length)
        return refuse(reader, "%zu bytes follow the end of the plan", reader->length - (size_t)length);
    if (checksum != file_checksum(reader->bytes, reader->length))
        return refuse(reader, "the checksum does not match: the file is damaged");
    if (version != PLAN_FORMAT_VERSION || sections != SECTION_COUNT || reserved != 0)
        return refuse(reader, "format %" PRIu32 " with %" PRIu32 " sections: expected format %d with %d", version,
                      sections, PLAN_FORMAT_VERSION, SECTION_COUNT);
    return true;
}

// Sections follow each other without gaps but padding of zeros; every count fits the file.
static bool read_sections(Reader *reader)
{
    uint64_t expected = SECTIONS_BEGIN;
    for (int section = 0; section < SECTION_COUNT; section++) {
        uint32_t id = get_u32(reader), bytes = get_u32(reader);
        uint64_t count = get_u64(reader), offset = get_u64(reader);
        uint32_t record = section_record_bytes(section);
        if (failed(reader) || id != (uint32_t)section || bytes != record || offset != expected)
            return refuse(reader, "section %d of the table is not as the format says", section);
        if (offset > reader->length || count > (reader->length - offset) / record)
            return refuse(reader, "section %d does not fit the file", section);
        reader->counts[section] = count;
        reader->offsets[section] = offset;
        expected = offset + count * record;
        for (; expected % SECTION_ALIGNMENT; expected++)
            if (expected >= reader->length || reader->bytes[expected] != 0)
                return refuse(reader, "section %d is not padded with zeros", section);
    }
    return expected == reader->length || refuse(reader, "bytes follow the last section");
}

// Counts that are bounded by more than the file's length, and memory for the records.
static bool allocate(Reader *reader)
{
    Plan *plan = reader->plan;
    const uint64_t *counts = reader->counts;
    static const RecordKind single[] = {RECORD_CLUSTER, RECORD_DEVICE, RECORD_MODEL, RECORD_PLAN};
    for (size_t i = 0; i < COUNT_OF(single); i++)
        if (counts[single[i]] != 1)
            return refuse(reader, "%" PRIu64 " '%s' records: expected 1", counts[single[i]],
                          record_info(single[i])->keyword);
    if (counts[RECORD_LEVEL] < 1 || counts[RECORD_LEVEL] > LEVELS_MAX || counts[RECORD_PORT] > PLAN_PORTS_MAX ||
        counts[RECORD_LINK] > PLAN_LINKS_MAX || counts[RECORD_STRATEGY] > PLAN_STRATEGIES_MAX ||
        counts[RECORD_GROUP] > PLAN_GROUPS_MAX || counts[RECORD_BUFFER] > PLAN_BUFFERS_MAX ||
        counts[RECORD_STEP] > PLAN_STEPS_MAX || counts[RECORD_CHOICE] > PLAN_STEPS_MAX ||
        counts[RECORD_LAYER] > PLAN_LAYERS_MAX || counts[SECTION_OPERANDS] > INT32_MAX ||
        counts[SECTION_AFTER] > INT32_MAX || counts[SECTION_STRINGS] > INT32_MAX) {
        return refuse(reader, "more records than a plan may have");
    }
    if (counts[RECORD_TRAFFIC] != counts[RECORD_STRATEGY] * counts[RECORD_LEVEL])
        return refuse(reader, "%" PRIu64 " 'traffic' records: expected one per strategy and level",
                      counts[RECORD_TRAFFIC]);
    plan->cluster.level_count = (uint32_t)counts[RECORD_LEVEL];
    plan->cluster.port_count = (uint32_t)counts[RECORD_PORT];
    plan->cluster.link_count = (uint32_t)counts[RECORD_LINK];
    plan->layer_count = (uint32_t)counts[RECORD_LAYER];
    plan->choice_count = (uint32_t)counts[RECORD_CHOICE];
    plan->strategy_count = (uint32_t)counts[RECORD_STRATEGY];
    plan->group_count = (uint32_t)counts[RECORD_GROUP];
    plan->buffer_count = (uint32_t)counts[RECORD_BUFFER];
    plan->step_count = (uint32_t)counts[RECORD_STEP];
    plan->operand_count = (uint32_t)counts[SECTION_OPERANDS];
    plan->after_count = (uint32_t)counts[SECTION_AFTER];
    plan->cluster.ports = arena_alloc_array(plan->arena, plan->cluster.port_count, sizeof(*plan->cluster.ports));
    plan->cluster.links = arena_alloc_array(plan->arena, plan->cluster.link_count, sizeof(*plan->cluster.links));
    plan->layers = arena_alloc_array(plan->arena, plan->layer_count, sizeof(*plan->layers));
    plan->choices = arena_alloc_array(plan->arena, plan->choice_count, sizeof(*plan->choices));
    plan->strategies = arena_alloc_array(plan->arena, plan->strategy_count, sizeof(*plan->strategies));
    plan->groups = arena_alloc_array(plan->arena, plan->group_count, sizeof(*plan->groups));
    plan->buffers = arena_alloc_array(plan->arena, plan->buffer_count, sizeof(*plan->buffers));
    plan->steps = arena_alloc_array(plan->arena, plan->step_count, sizeof(*plan->steps));
    plan->operands = arena_alloc_array(plan->arena, plan->operand_count, sizeof(*plan->operands));
    plan->after = arena_alloc_array(plan->arena, plan->after_count, sizeof(*plan->after));
    return true;
}

static void seek(Reader *reader, int section)
{
    reader->at = (size_t)reader->offsets[section];
    reader->end = reader->at + (size_t)reader->counts[section] * section_record_bytes(section);
}

// Operands and edges belong to the steps in order: each step takes the next ones.
static bool read_step_lists(Reader *reader, Step *step, uint64_t *operands, uint64_t *edges)
{
    uint32_t operand_count = get_u32(reader), after_count = get_u32(reader);
    if (failed(reader))
        return false;
    if (operand_count != op_info((int)step->op)->operand_count)
        return refuse(reader, "op '%s' has %" PRIu32 " operands: expected %" PRIu32, op_info((int)step->op)->name,
                      operand_count, op_info((int)step->op)->operand_count);
    if (operand_count > reader->counts[SECTION_OPERANDS] - *operands ||
        after_count > reader->counts[SECTION_AFTER] - *edges) {
        return refuse(reader, "steps name more operands or edges than the file holds");
    }
    step->operand_first = (uint32_t)*operands;
    step->after_first = (uint32_t)*edges;
    step->after_count = after_count;
    *operands += operand_count;
    *edges += after_count;
    return true;
}

static bool read_records(Reader *reader)
{
    uint64_t operands = 0, edges = 0;
    for (int kind = 0; kind < RECORD_COUNT; kind++) {
        seek(reader, kind);
        if (kind == RECORD_TRAINING && reader->counts[kind] != record_count(reader->plan, RECORD_TRAINING))
            return refuse(reader, "a training plan has one 'training' record, any other none");
        for (uint32_t i = 0; i < record_count(reader->plan, (RecordKind)kind); i++) {
            char *record = record_at(reader->plan, (RecordKind)kind, i);
            for (const Field *field = record_info((RecordKind)kind)->fields; field->key; field++)
                get_field(reader, field, record + field->offset);
            if (failed(reader))
                return false;
            if (kind == RECORD_STEP && !read_step_lists(reader, &reader->plan->steps[i], &operands, &edges))
                return false;
        }
    }
    if (operands != reader->counts[SECTION_OPERANDS] || edges != reader->counts[SECTION_AFTER] ||
        reader->string_at != reader->counts[SECTION_STRINGS]) {
        return refuse(reader, "operands, edges or strings are left over that no record names");
    }
    return true;
}

static bool read_lists(Reader *reader)
{
    Plan *plan = reader->plan;
    seek(reader, SECTION_OPERANDS);
    for (uint32_t i = 0; i < plan->operand_count; i++)
        plan->operands[i] = (int32_t)get_u32(reader);
    seek(reader, SECTION_AFTER);
    for (uint32_t i = 0; i < plan->after_count; i++)
        plan->after[i] = get_u32(reader);
    return !failed(reader);
}

bool plan_is_binary(const uint8_t *bytes, size_t length)
{
    return length >= 4 && memcmp(bytes, magic, 4) == 0;
}

Plan *plan_decode(const uint8_t *bytes, size_t length, Fault *fault)
{
    Reader reader = {.bytes = bytes, .length = length, .end = length, .fault = fault};
    if (!read_header(&reader) || !read_sections(&reader))
        return NULL;
    reader.plan = plan_create();
    if (allocate(&reader) && read_records(&reader) && read_lists(&reader) &&
        plan_within_limits(reader.plan, NULL, fault))
        return reader.plan;
    plan_destroy(reader.plan);
    return NULL;
}
