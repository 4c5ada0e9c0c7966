// Every way in which a plan file is refused: tests/golden/plans/NAME.ir or NAME.hepb must print exactly NAME.err.
// HEP_REFRESH=1 in the environment rewrites the .err files.
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ir/base/text.h"
#include "ir/load/plan_file.h"

enum { PLAN_BYTES_MAX = 1 << 20 };

static char *diagnostics_of(const char *path)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    size_t length;
    Fault fault = {0};
    char *content = file_read(path, PLAN_BYTES_MAX, &length, &fault), *printed = NULL;
    cr_assert_not_null(content, "%s: %s", path, fault.message);
    Plan *plan = plan_load(path, content, length, diag);
    cr_expect_null(plan, "%s is accepted", path);
    FILE *out = open_memstream(&printed, &length);
    diag_print(diag, out, false);
    fclose(out);
    plan_destroy(plan);
    free(content);
    arena_destroy(arena);
    return printed;
}

static void compare(const char *path, const char *ending)
{
    char golden[300];
    snprintf(golden, sizeof(golden), "%.*s.err", (int)(ending - path), path);
    char *printed = diagnostics_of(path);
    if (getenv("HEP_REFRESH")) {
        cr_expect(file_write(golden, printed, strlen(printed), &(Fault){0}));
    } else {
        size_t length;
        Fault fault = {0};
        char *expected = file_read(golden, PLAN_BYTES_MAX, &length, &fault);
        cr_expect_not_null(expected, "%s: %s", golden, fault.message);
        if (expected)
            cr_expect_str_eq(printed, expected, "%s prints:\n%s", path, printed);
        free(expected);
    }
    free(printed);
}

Test(golden, plans)
{
    cr_assert_eq(chdir(HEP_SOURCE_DIR "/tests/golden/plans"), 0);
    struct dirent **names;
    int count = scandir(".", &names, NULL, alphasort), compared = 0;
    for (int i = 0; i < count; i++) {
        const char *ending = strrchr(names[i]->d_name, '.');
        if (ending && (strcmp(ending, ".ir") == 0 || strcmp(ending, ".hepb") == 0)) {
            compare(names[i]->d_name, ending);
            compared++;
        }
        free(names[i]);
    }
    free(names);
    cr_assert_geq(compared, 8);
}
