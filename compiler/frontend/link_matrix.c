// Lines into cells, cells into numbers, everything with the place it came from; see link_matrix.h.
#include "compiler/frontend/link_matrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "compiler/frontend/read.h"

enum { MATRIX_BYTES_MAX = 256 << 20, CELL_SHOWN_MAX = 40 };
static const double bandwidth_min = 0.125, bandwidth_max = 1e16; // as a port's

typedef struct {
    const char *text; // NUL-terminated, without blanks and quotes around it
    Span span;
} Cell;

typedef struct {
    Cell *cells;
    uint32_t count;
} Row;

typedef struct {
    Arena *arena;
    Diag *diag;
    const char *level, *text;
    const char *const *names;
    uint32_t count, source;
    size_t length;
    Row *rows; // the header first
    uint32_t row_count;
    const Unit *unit;
    uint32_t *worker; // [count]: whose row and column the i-th is
} Reader;

// ---- cells -----------------------------------------------------------------------------------

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static Cell make_cell(Reader *reader, size_t begin, size_t end)
{
    while (begin < end && is_blank(reader->text[begin]))
        begin++;
    while (end > begin && is_blank(reader->text[end - 1]))
        end--;
    if (end - begin >= 2 && reader->text[begin] == '"' && reader->text[end - 1] == '"') {
        begin++;
        end--;
    }
    return (Cell){arena_copy_string(reader->arena, reader->text + begin, end - begin),
                  {reader->source, (uint32_t)begin, (uint32_t)end}};
}

static void add_row(Reader *reader, size_t begin, size_t end)
{
    size_t cells = 1;
    for (size_t at = begin; at < end; at++)
        cells += reader->text[at] == ',';
    Row *row = &reader->rows[reader->row_count++];
    row->cells = arena_alloc_array(reader->arena, cells, sizeof(*row->cells));
    for (size_t at = begin, from = begin; at <= end; at++) {
        if (at < end && reader->text[at] != ',')
            continue;
        row->cells[row->count++] = make_cell(reader, from, at);
        from = at + 1;
    }
}

// Rows but for empty lines and comments, at most `count` and the header and one too many.
static void split(Reader *reader)
{
    uint32_t rows_max = reader->count + 2;
    reader->rows = arena_alloc_array(reader->arena, rows_max, sizeof(*reader->rows));
    for (size_t at = 0; at < reader->length && reader->row_count < rows_max;) {
        const char *newline = memchr(reader->text + at, '\n', reader->length - at);
        size_t end = newline ? (size_t)(newline - reader->text) : reader->length, begin = at;
        while (begin < end && is_blank(reader->text[begin]))
            begin++;
        if (begin < end && reader->text[begin] != '#')
            add_row(reader, begin, end);
        at = end + 1;
    }
}

static const char *load(Reader *reader, const AstEntry *entry)
{
    Span place = entry->value->span;
    const char *path = read_join_path(reader->arena, diag_source_name(reader->diag, place.source), entry->value->text);
    Fault fault = {0};
    struct stat status;
    char *content = NULL;
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        fault_set(&fault, FAULT_IO, "not a regular file");
    else
        content = file_read(path, MATRIX_BYTES_MAX, &reader->length, &fault);
    if (!content) {
        diag_error(reader->diag, place, "cannot read '%s': %s", path, fault.message);
        return NULL;
    }
    const char *text = arena_copy_string(reader->arena, content, reader->length);
    free(content);
    reader->source = diag_add_source(reader->diag, path, text, reader->length, &place);
    return text;
}

// ---- header and names ------------------------------------------------------------------------

static bool check_unit(Reader *reader, const Cell *cell)
{
    reader->unit = unit_find(cell->text, strlen(cell->text));
    if (reader->unit && reader->unit->kind == KIND_BANDWIDTH)
        return true;
    diag_error(reader->diag, cell->span,
               "the first cell must be the unit of the bandwidths, such as 'Gbit/s', got '%.*s'", CELL_SHOWN_MAX,
               cell->text);
    const char *suggestion = reader->unit ? NULL : unit_suggest(cell->text, strlen(cell->text));
    if (suggestion)
        diag_help(reader->diag, "did you mean '%s'?", suggestion);
    return false;
}

static bool check_shape(Reader *reader, Span place)
{
    const Row *header = &reader->rows[0];
    bool named = header->count > 1;
    uint32_t rows = reader->row_count - 1, expected = reader->count + named;
    if (named && header->count != expected) {
        diag_error(reader->diag, header->cells[0].span, "the header names %u workers, level '%s' has %u",
                   header->count - 1, reader->level, reader->count);
        return false;
    }
    if (rows != reader->count) {
        diag_error(reader->diag, place, "the matrix has %s%u rows, level '%s' has %u workers",
                   rows > reader->count ? "more than " : "", rows > reader->count ? reader->count : rows, reader->level,
                   reader->count);
        return false;
    }
    bool square = true;
    for (uint32_t i = 1; i < reader->row_count; i++) {
        if (reader->rows[i].count == expected)
            continue;
        diag_error(reader->diag, reader->rows[i].cells[0].span,
                   "the matrix is not square: row %u has %u bandwidths, expected %u", i,
                   reader->rows[i].count - (named && reader->rows[i].count > 0), reader->count);
        square = false;
    }
    return square;
}

static uint32_t find_name(const char *const *names, uint32_t count, const char *name)
{
    uint32_t i = 0;
    while (i < count && strcmp(names[i], name) != 0)
        i++;
    return i;
}

// The names of the header, where the level has none.
static bool adopt_names(Reader *reader, LinkMatrix *out)
{
    out->names = arena_alloc_array(reader->arena, reader->count, sizeof(*out->names));
    const Cell *cells = reader->rows[0].cells + 1;
    for (uint32_t i = 0; i < reader->count; i++) {
        uint32_t first = find_name(out->names, i, cells[i].text);
        size_t length = strlen(cells[i].text);
        if (length == 0 || length > NAME_LENGTH_MAX) {
            diag_error(reader->diag, cells[i].span, "the name of a worker has 1 to %d bytes", NAME_LENGTH_MAX);
            return false;
        }
        if (first < i) {
            diag_error(reader->diag, cells[i].span, "there are two workers '%s'", cells[i].text);
            diag_note(reader->diag, cells[first].span, "the first one is here");
            return false;
        }
        out->names[i] = cells[i].text;
        reader->worker[i] = i;
    }
    reader->names = out->names;
    return true;
}

// Finds the workers of the header's names, in whatever order they come.
static bool match_names(Reader *reader)
{
    const Cell *cells = reader->rows[0].cells + 1;
    const Cell **seen = arena_alloc_array(reader->arena, reader->count, sizeof(*seen));
    bool good = true;
    for (uint32_t i = 0; i < reader->count; i++) {
        uint32_t worker = find_name(reader->names, reader->count, cells[i].text);
        if (worker == reader->count) {
            diag_error(reader->diag, cells[i].span, "level '%s' has no worker '%.*s'", reader->level, CELL_SHOWN_MAX,
                       cells[i].text);
            const char *suggestion = nearest_word(cells[i].text, reader->names, reader->count);
            if (suggestion)
                diag_help(reader->diag, "did you mean '%s'?", suggestion);
            good = false;
            continue;
        }
        if (seen[worker]) {
            diag_error(reader->diag, cells[i].span, "worker '%s' has two columns", cells[i].text);
            diag_note(reader->diag, seen[worker]->span, "the first one is here");
            good = false;
        }
        seen[worker] = &cells[i];
        reader->worker[i] = worker;
    }
    return good;
}

static bool check_row_names(Reader *reader)
{
    const Cell *header = reader->rows[0].cells + 1;
    for (uint32_t i = 0; i < reader->count; i++) {
        const Cell *cell = &reader->rows[1 + i].cells[0];
        if (strcmp(cell->text, header[i].text) != 0) {
            diag_error(reader->diag, cell->span,
                       "row %u is of '%.*s', expected '%s': rows come in the order of columns", i + 1, CELL_SHOWN_MAX,
                       cell->text, header[i].text);
            diag_note(reader->diag, header[i].span, "the order of the columns is given here");
            return false;
        }
    }
    return true;
}

static bool read_names(Reader *reader, LinkMatrix *out)
{
    reader->worker = arena_alloc_array(reader->arena, reader->count, sizeof(*reader->worker));
    if (reader->rows[0].count == 1) {
        for (uint32_t i = 0; i < reader->count; i++)
            reader->worker[i] = i;
        return true;
    }
    return (reader->names ? match_names(reader) : adopt_names(reader, out)) && check_row_names(reader);
}

// ---- bandwidths ------------------------------------------------------------------------------

static bool read_bandwidth(Reader *reader, const Cell *cell, double *out)
{
    char *end;
    double value = strtod(cell->text, &end);
    if (!cell->text[0] || *end || !isfinite(value)) {
        diag_error(reader->diag, cell->span, "expected a bandwidth in %s, got %s%.*s%s", reader->unit->text,
                   cell->text[0] ? "'" : "nothing", CELL_SHOWN_MAX, cell->text, cell->text[0] ? "'" : "");
        return false;
    }
    *out = value * reader->unit->factor / reader->unit->divisor;
    if (*out >= bandwidth_min && *out <= bandwidth_max)
        return true;
    char low[FORMAT_MAX], high[FORMAT_MAX];
    diag_error(reader->diag, cell->span, "a bandwidth must be %s to %s, got %s %s",
               format_bandwidth(low, bandwidth_min), format_bandwidth(high, bandwidth_max), cell->text,
               reader->unit->text);
    return false;
}

static void warn_asymmetric(Reader *reader, const Cell *there, const Cell *back, size_t pairs)
{
    diag_warning(reader->diag, there->span,
                 "a pair has one bandwidth both ways: of '%s' and '%s' %s the smaller counts", there->text, back->text,
                 reader->unit->text);
    diag_note(reader->diag, back->span, "the way back is given here");
    if (pairs > 1)
        diag_help(reader->diag, "so it is with %zu more pairs", pairs - 1);
}

static bool read_cells(Reader *reader, double *matrix)
{
    uint32_t count = reader->count, skip = reader->rows[0].count > 1;
    bool good = true;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < count; j++)
            if (i != j && !read_bandwidth(reader, &reader->rows[1 + i].cells[skip + j],
                                          &matrix[(size_t)reader->worker[i] * count + reader->worker[j]]))
                good = false;
    return good;
}

static void make_symmetric(Reader *reader, double *matrix)
{
    uint32_t count = reader->count, skip = reader->rows[0].count > 1;
    const Cell *there = NULL, *back = NULL;
    size_t pairs = 0;
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t j = i + 1; j < count; j++) {
            size_t a = (size_t)reader->worker[i] * count + reader->worker[j],
                   b = (size_t)reader->worker[j] * count + reader->worker[i];
            if (matrix[a] != matrix[b] && pairs++ == 0) {
                there = &reader->rows[1 + i].cells[skip + j];
                back = &reader->rows[1 + j].cells[skip + i];
            }
            matrix[a] = matrix[b] = fmin(matrix[a], matrix[b]);
        }
    }
    if (pairs)
        warn_asymmetric(reader, there, back, pairs);
}

bool link_matrix_read(const AstEntry *entry, const LinkWorkers *workers, Arena *arena, Diag *diag, LinkMatrix *out)
{
    *out = (LinkMatrix){0};
    if (entry->value->kind != EXPR_STRING) {
        diag_error(diag, entry->value->span, "'%s' needs the name of a file, such as '\"links.csv\"'", entry->name);
        return false;
    }
    Reader reader = {
        .arena = arena, .diag = diag, .level = workers->level, .names = workers->names, .count = workers->count};
    reader.text = load(&reader, entry);
    if (!reader.text)
        return false;
    split(&reader);
    if (!reader.row_count) {
        diag_error(diag, entry->value->span, "'%s' holds no matrix", diag_source_name(diag, reader.source));
        return false;
    }
    if (!check_unit(&reader, &reader.rows[0].cells[0]) || !check_shape(&reader, entry->value->span) ||
        !read_names(&reader, out))
        return false;
    out->bytes_per_s = arena_alloc_array(arena, (size_t)reader.count * reader.count, sizeof(*out->bytes_per_s));
    if (!read_cells(&reader, out->bytes_per_s))
        return false;
    make_symmetric(&reader, out->bytes_per_s);
    return true;
}
