// Reading and include resolution. A file is known by device and inode, so that links and different
// spellings of one path are one file.
#include "compiler/frontend/read.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "grammar/parse.h"

typedef struct {
    dev_t device;
    ino_t inode;
    const char *path;
    bool active; // being read: including it again is a cycle
} FileSeen;

typedef struct {
    Arena *arena;
    Diag *diag;
    FileSeen files[INCLUDE_FILES_MAX];
    size_t file_count;
} Reader;

static bool resolve_includes(Reader *reader, const char *path, AstEntries entries, int depth);

static void report_unreadable(Reader *reader, const char *path, const Span *place, const char *reason)
{
    if (place)
        diag_error(reader->diag, *place, "cannot read '%s': %s", path, reason);
    else
        diag_error_plain(reader->diag, "cannot read '%s': %s", path, reason);
}

static Ast *parse_source(Reader *reader, const char *path, const char *text, size_t length, const Span *place,
                         int depth)
{
    uint32_t source = diag_add_source(reader->diag, path, text, length, place);
    Ast *ast = grammar_parse(reader->arena, reader->diag, source, text, length);
    return ast && resolve_includes(reader, path, ast->entries, depth) ? ast : NULL;
}

static Ast *read_at_depth(Reader *reader, const char *path, const Span *place, int depth)
{
    const char *error = NULL;
    size_t length = 0;
    char *content = file_read(path, SOURCE_BYTES_MAX, &length, &error);
    if (!content) {
        report_unreadable(reader, path, place, error);
        return NULL;
    }
    const char *text = arena_copy_string(reader->arena, content, length);
    free(content);
    return parse_source(reader, strcmp(path, "-") ? path : "<standard input>", text, length, place, depth);
}

const char *read_join_path(Arena *arena, const char *including, const char *path)
{
    const char *slash = strrchr(including, '/');
    if (path[0] == '/' || !slash)
        return path;
    return arena_format(arena, "%.*s/%s", (int)(slash - including), including, path);
}

static FileSeen *find_file(Reader *reader, const struct stat *status)
{
    for (size_t i = 0; i < reader->file_count; i++)
        if (reader->files[i].device == status->st_dev && reader->files[i].inode == status->st_ino)
            return &reader->files[i];
    return NULL;
}

static FileSeen *add_file(Reader *reader, const char *path)
{
    struct stat status;
    if (reader->file_count == INCLUDE_FILES_MAX || stat(path, &status) != 0)
        return NULL;
    FileSeen *file = &reader->files[reader->file_count++];
    *file = (FileSeen){.device = status.st_dev, .inode = status.st_ino, .path = path, .active = true};
    return file;
}

static bool resolve_include(Reader *reader, const char *including, AstEntry *entry, int depth)
{
    const char *path = read_join_path(reader->arena, including, entry->value->text);
    Span place = entry->value->span;
    struct stat status;
    if (stat(path, &status) == 0) {
        if (!S_ISREG(status.st_mode)) {
            report_unreadable(reader, path, &place, "not a regular file");
            return false;
        }
        const FileSeen *seen = find_file(reader, &status);
        if (seen && seen->active) {
            diag_error(reader->diag, place, "'%s' includes itself", seen->path); // the sink shows the chain
            return false;
        }
        if (seen) {
            entry->included = arena_alloc(reader->arena, sizeof(Ast));
            return true;
        }
    }
    if (depth == INCLUDE_DEPTH_MAX) {
        diag_error(reader->diag, place, "includes are nested too deeply: at most %d", INCLUDE_DEPTH_MAX);
        return false;
    }
    if (reader->file_count == INCLUDE_FILES_MAX) {
        diag_error(reader->diag, place, "too many files are included: at most %d", INCLUDE_FILES_MAX);
        return false;
    }
    FileSeen *file = add_file(reader, path);
    entry->included = read_at_depth(reader, path, &place, depth + 1);
    if (file)
        file->active = false;
    return entry->included != NULL;
}

static bool resolve_includes(Reader *reader, const char *path, AstEntries entries, int depth)
{
    bool good = true;
    for (AstEntry *entry = entries.first; entry; entry = entry->next)
        if (entry->kind == ENTRY_INCLUDE && !resolve_include(reader, path, entry, depth))
            good = false;
    return good;
}

Ast *read_file(const char *path, Arena *arena, Diag *diag)
{
    Reader *reader = arena_alloc(arena, sizeof(*reader));
    *reader = (Reader){.arena = arena, .diag = diag};
    add_file(reader, path);
    return read_at_depth(reader, path, NULL, 0);
}

Ast *read_text(const char *name, const char *text, size_t length, Arena *arena, Diag *diag)
{
    Reader *reader = arena_alloc(arena, sizeof(*reader));
    *reader = (Reader){.arena = arena, .diag = diag};
    return parse_source(reader, name, text, length, NULL, 0);
}
