// Reading and include resolution. A file is known by device and inode, so that links and different
// spellings of one path are one file.
#include "compiler/frontend/read.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "grammar/parse.h"
#include "ir/base/program.h"

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
    bool in_block; // what is read stands inside of a block
} Reader;

static bool resolve_includes(Reader *reader, const char *path, AstEntries *entries, int depth);

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
    return ast && resolve_includes(reader, path, &ast->entries, depth) ? ast : NULL;
}

static Ast *read_at_depth(Reader *reader, const char *path, const Span *place, int depth)
{
    Fault fault = {0};
    size_t length = 0;
    char *content = file_read(path, SOURCE_BYTES_MAX, &length, &fault);
    if (!content) {
        report_unreadable(reader, path, place, fault.message);
        return NULL;
    }
    const char *text = arena_copy_string(reader->arena, content, length);
    free(content);
    return parse_source(reader, strcmp(path, "-") != 0 ? path : "<standard input>", text, length, place, depth);
}

const char *read_join_path(Arena *arena, const char *including, const char *path)
{
    const char *slash = strrchr(including, '/');
    if (path[0] == '/' || !slash)
        return path;
    return arena_format(arena, "%.*s/%s", (int)(slash - including), including, path);
}

// One that is being read, if there is one: in blocks a file may be read more than once.
static FileSeen *find_file(Reader *reader, const struct stat *status)
{
    FileSeen *found = NULL;
    for (size_t i = 0; i < reader->file_count; i++) {
        FileSeen *file = &reader->files[i];
        if (file->device == status->st_dev && file->inode == status->st_ino && (!found || file->active))
            found = file;
    }
    return found;
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

// ---- presets ---------------------------------------------------------------------------------

enum { PRESETS_MAX = 64 };

// A file of this name that comes with hepc, or NULL. Names with a folder in them are never presets.
static const char *find_preset(Arena *arena, const char *name)
{
    struct stat status;
    if (strchr(name, '/'))
        return NULL;
    const char *path = program_relative(arena, arena_format(arena, "%s/%s", HEP_PRESETS_FROM_PROGRAM, name));
    return path && stat(path, &status) == 0 ? path : NULL;
}

static int is_description(const struct dirent *file)
{
    return text_ends_with(file->d_name, ".hep");
}

static void suggest_preset(Reader *reader, const char *name)
{
    const char *names[PRESETS_MAX], *folder = program_relative(reader->arena, HEP_PRESETS_FROM_PROGRAM);
    struct dirent **files = NULL;
    int count = folder && !strchr(name, '/') ? scandir(folder, &files, is_description, alphasort) : 0;
    size_t kept = 0;
    for (int i = 0; i < count; i++) {
        if (kept < PRESETS_MAX)
            names[kept++] = arena_copy_string(reader->arena, files[i]->d_name, strlen(files[i]->d_name));
        free(files[i]);
    }
    free(files);
    const char *near = nearest_word(name, names, kept);
    if (near)
        diag_help(reader->diag, "did you mean the preset '%s'?", near);
}

// Beside the file that includes it, else among the presets.
static const char *locate_include(Reader *reader, const char *including, const char *name)
{
    struct stat status;
    const char *path = read_join_path(reader->arena, including, name);
    const char *preset = stat(path, &status) != 0 ? find_preset(reader->arena, name) : NULL;
    return preset ? preset : path;
}

// ---- includes --------------------------------------------------------------------------------

// Whether there is nothing to read: the file was read before, or must not be read, which *good says.
static bool is_settled(Reader *reader, const char *path, const struct stat *status, AstEntry *entry, bool *good)
{
    const FileSeen *seen = find_file(reader, status);
    *good = false;
    if (!S_ISREG(status->st_mode)) {
        report_unreadable(reader, path, &entry->value->span, "not a regular file");
        return true;
    }
    if (seen && seen->active) {
        diag_error(reader->diag, entry->value->span, "'%s' includes itself", seen->path); // the sink shows the chain
        return true;
    }
    if (!seen || reader->in_block)
        return false;
    entry->included = arena_alloc(reader->arena, sizeof(Ast));
    *good = true;
    return true;
}

static bool resolve_include(Reader *reader, const char *including, AstEntry *entry, int depth)
{
    const char *path = locate_include(reader, including, entry->value->text);
    Span place = entry->value->span;
    struct stat status;
    bool good;
    if (stat(path, &status) == 0 && is_settled(reader, path, &status, entry, &good))
        return good;
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
    else
        suggest_preset(reader, entry->value->text);
    return entry->included != NULL;
}

// In a block the entries of the file take the place of the include: later stages see one list. A file in which
// nothing is written leaves nothing.
static AstEntry *splice(AstEntries *entries, AstEntry *before, const AstEntry *include)
{
    AstEntries content = include->included->entries;
    AstEntry *first = content.first ? content.first : include->next;
    if (before)
        before->next = first;
    else
        entries->first = first;
    if (content.last)
        content.last->next = include->next;
    if (entries->last == include)
        entries->last = content.last ? content.last : before;
    return content.last ? content.last : before;
}

static bool resolve_in_block(Reader *reader, const char *path, AstEntry *block, int depth)
{
    bool outside = !reader->in_block;
    reader->in_block = true;
    bool good = resolve_includes(reader, path, &block->entries, depth);
    reader->in_block = !outside;
    return good;
}

static bool resolve_includes(Reader *reader, const char *path, AstEntries *entries, int depth)
{
    bool good = true;
    AstEntry *before = NULL;
    for (AstEntry *entry = entries->first, *next; entry; entry = next) {
        next = entry->next;
        bool includes = entry->kind == ENTRY_INCLUDE;
        bool resolved = includes                     ? resolve_include(reader, path, entry, depth)
                        : entry->kind == ENTRY_BLOCK ? resolve_in_block(reader, path, entry, depth)
                                                     : true;
        before = includes && resolved && reader->in_block ? splice(entries, before, entry) : entry;
        good = good && resolved;
    }
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
