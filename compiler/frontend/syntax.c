// See syntax.h. A word is listed once, whatever the number of blocks that have a key of its name.
#include "compiler/frontend/syntax.h"

#include <stdlib.h>
#include <string.h>

#include "compiler/frontend/check_keys.h"

enum { WORDS_MAX = 256 };

typedef struct {
    const char *items[WORDS_MAX];
    size_t count;
} Words;

static void add_word(Words *words, const char *word)
{
    for (size_t w = 0; w < words->count; w++)
        if (strcmp(words->items[w], word) == 0)
            return;
    if (words->count < WORDS_MAX)
        words->items[words->count++] = word;
}

static Words block_words(void)
{
    Words words = {0};
    for (int block = BLOCK_FILE + 1; block < BLOCK_COUNT; block++)
        add_word(&words, block_info((BlockId)block)->name);
    return words;
}

static Words key_words(void)
{
    Words words = {0};
    for (int key = 0; key < KEY_COUNT; key++)
        add_word(&words, key_info((KeyId)key)->name);
    return words;
}

static Words choice_words(void)
{
    Words words = {0};
    for (int key = 0; key < KEY_COUNT; key++) {
        const char *choices[KEY_WORDS_MAX];
        size_t count = key_value_words(key_info((KeyId)key), choices);
        for (size_t c = 0; c < count; c++)
            add_word(&words, choices[c]);
    }
    return words;
}

static int longest_first(const void *a, const void *b)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    size_t length_x = strlen(x), length_y = strlen(y);
    return length_x == length_y ? strcmp(x, y) : (length_x < length_y) - (length_x > length_y);
}

// The longest first: alternatives are tried in this order.
static Words unit_words(void)
{
    Words words = {0};
    for (size_t u = 0; unit_at(u); u++)
        add_word(&words, unit_at(u)->text);
    qsort(words.items, words.count, sizeof(*words.items), longest_first);
    return words;
}

static void append_joined(const Words *words, const char *separator, const char *slash, Text *out)
{
    for (size_t w = 0; w < words->count; w++) {
        text_append(out, w ? separator : "");
        for (const char *c = words->items[w]; *c; c++)
            text_format(out, *c == '/' ? "%s" : "%.1s", *c == '/' ? slash : c);
    }
}

static void print_vim(Text *out)
{
    Words blocks = block_words(), keys = key_words(), choices = choice_words(), units = unit_words();
    text_append(out, "\" Syntax of .hep files; made from the tables of blocks, keys and units.\n"
                     "if exists(\"b:current_syntax\")\n  finish\nendif\n\n"
                     "syn keyword hepStatement let include from\nsyn match hepChoice /\\<\\%(");
    append_joined(&choices, "\\|", "\\/", out);
    text_append(out, "\\)\\>/\nsyn match hepBlock /\\<\\%("); // of matches the later one wins: 'dense' is a codec, too
    append_joined(&blocks, "\\|", "\\/", out);
    text_append(out, "\\)\\>/\n\" A key is one before '=' alone: names of levels may be the same words.\n"
                     "syn match hepKey /\\<\\%(");
    append_joined(&keys, "\\|", "\\/", out);
    text_append(out, "\\)\\>\\ze\\s*=/\nsyn match hepNumber "
                     "/\\%(\\w\\)\\@<!\\%(\\d\\+\\%(\\.\\d*\\)\\?\\|\\.\\d\\+\\)\\%([eE][+-]\\?\\d\\+\\)\\?/ "
                     "nextgroup=hepUnit skipwhite\nsyn match hepUnit /\\C\\%(");
    append_joined(&units, "\\|", "\\/", out);
    text_append(out, "\\)\\%(\\>\\|%\\@1<=\\)/ contained\nsyn region hepString start=/\"/ end=/\"/ oneline\n"
                     "syn match hepComment /#.*$/ contains=@Spell\n\n"
                     "hi def link hepStatement Statement\nhi def link hepBlock Structure\n"
                     "hi def link hepKey Identifier\n"
                     "hi def link hepChoice Constant\nhi def link hepNumber Number\nhi def link hepUnit Type\n"
                     "hi def link hepString String\nhi def link hepComment Comment\n\n"
                     "let b:current_syntax = \"hep\"\n");
}

static void append_rule(const char *scope, const char *before, const Words *words, const char *after, Text *out)
{
    text_format(out, "    { \"name\": \"%s.hep\", \"match\": \"%s(?:", scope, before);
    append_joined(words, "|", "/", out);
    text_format(out, ")%s\" }", after);
}

static void print_textmate(Text *out)
{
    Words blocks = block_words(), keys = key_words(), choices = choice_words(), units = unit_words();
    text_append(out, "{\n  \"name\": \"hep\",\n  \"scopeName\": \"source.hep\",\n  \"fileTypes\": [\"hep\"],\n"
                     "  \"patterns\": [\n"
                     "    { \"name\": \"comment.line.number-sign.hep\", \"match\": \"#.*$\" },\n"
                     "    { \"name\": \"string.quoted.double.hep\", \"match\": \"\\\"[^\\\"]*\\\"\" },\n"
                     "    { \"name\": \"keyword.control.hep\", \"match\": \"\\\\b(?:let|include|from)\\\\b\" },\n");
    append_rule("variable.parameter", "\\\\b", &keys, "\\\\b(?=\\\\s*=)", out);
    text_append(out, ",\n");
    append_rule("storage.type", "\\\\b", &blocks, "\\\\b", out);
    text_append(out, ",\n");
    append_rule("constant.language", "\\\\b", &choices, "\\\\b", out);
    text_append(out, ",\n    { \"match\": \"(?<![\\\\w.])((?:\\\\d+(?:\\\\.\\\\d*)?|\\\\.\\\\d+)(?:[eE][+-]?\\\\d+)?)"
                     "(?:[ \\\\t]*(");
    append_joined(&units, "|", "/", out);
    text_append(out, ")(?:\\\\b|(?<=%)))?\",\n      \"captures\": { \"1\": { \"name\": \"constant.numeric.hep\" }, "
                     "\"2\": { \"name\": \"keyword.other.unit.hep\" } } }\n  ]\n}\n");
}

bool syntax_print(const char *kind, Text *out)
{
    bool vim = strcmp(kind, "vim") == 0, textmate = strcmp(kind, "textmate") == 0;
    if (vim)
        print_vim(out);
    else if (textmate)
        print_textmate(out);
    return vim || textmate;
}
