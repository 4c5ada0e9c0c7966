// Heterogeneous workers of the outermost level: what names, ports, links and matrices mean in the checked cluster. What
// wrong ones print is tested by the golden files.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compiler/frontend/check.h"

#define INNER "  level gpu { count = 2  bandwidth = 128 Gbit/s }\n"
#define MODEL "model m { layers = 1  moe { data = 1 MB  expert = 1 MB } }\n"

static Arena *arena;
static Diag *diag;
static char folder[] = "/tmp/hep_unlike_XXXXXX";

static void set_up(void)
{
    arena = arena_create();
    diag = diag_create(arena);
    cr_assert_not_null(mkdtemp(folder));
}

static void tear_down(void)
{
    unlink(arena_format(arena, "%s/links.csv", folder));
    rmdir(folder);
    arena_destroy(arena);
}

TestSuite(heterogeneous, .init = set_up, .fini = tear_down);

// The cluster of `cluster { <text> }`, as if it stood in a file of the folder, whose links.csv is `matrix`.
static const Cluster *checked(const char *text, const char *matrix)
{
    if (matrix)
        cr_assert(file_write(arena_format(arena, "%s/links.csv", folder), matrix, strlen(matrix), &(Fault){0}));
    const char *whole = arena_format(arena, "let second = 1\ncluster c {\n%s" INNER "}\n" MODEL, text);
    Ast *ast = read_text(arena_format(arena, "%s/test.hep", folder), whole, strlen(whole), arena, diag);
    const Spec *spec = ast ? check_ast(ast, NULL, arena, diag) : NULL;
    if (!spec)
        diag_print(diag, stderr, false);
    cr_assert_not_null(spec);
    return &spec->cluster;
}

static const WorkerLink *link_of(const Cluster *cluster, uint32_t a, uint32_t b)
{
    for (uint32_t i = 0; i < cluster->link_count; i++)
        if (cluster->links[i].a == a && cluster->links[i].b == b)
            return &cluster->links[i];
    return NULL;
}

Test(heterogeneous, nothing_said_means_alike)
{
    const Cluster *cluster = checked("level dc { count = 3  bandwidth = 8 Gbit/s }\n", NULL);
    cr_assert(cluster->port_count == 0 && cluster->link_count == 0 && !cluster->ports);
}

Test(heterogeneous, ports_have_names_and_what_is_not_given_is_the_levels)
{
    const Cluster *cluster = checked("level dc { count = 3  bandwidth = 8 Gbit/s  latency = 2 ms }\n"
                                     "port dc[1], dc[1 + second] { bandwidth = 4 Gbit/s }\n"
                                     "port dc[0] { latency = 7 ms }\n",
                                     NULL);
    cr_assert_eq(cluster->port_count, 3);
    cr_assert_str_eq(cluster->ports[2].name, "dc[2]");
    for (uint32_t w = 0; w < 3; w++) {
        cr_assert_eq(cluster->ports[w].worker, w);
        cr_assert_eq(cluster->ports[w].bandwidth_bytes_per_s, w ? 5e8 : 1e9);
        cr_assert_eq(cluster->ports[w].latency_s, w ? 2e-3 : 7e-3);
    }
}

Test(heterogeneous, links_join_every_two_workers_of_a_block)
{
    const Cluster *cluster = checked("level dc { count = 4  bandwidth = 8 Gbit/s  latency = 2 ms\n"
                                     "  names = [paris, oslo, \"new york\", second] }\n"
                                     "port oslo { bandwidth = 4 Gbit/s  latency = 3 ms }\n"
                                     "link dc[\"new york\"], oslo, dc[0] { latency = 9 ms }\n"
                                     "link oslo, paris { bandwidth = 80 Mbit/s }\n"
                                     "link dc[second], paris { bandwidth = 1 GB/s }\n",
                                     NULL);
    cr_assert_str_eq(cluster->ports[2].name, "new york");
    cr_assert_eq(cluster->link_count, 4);
    for (uint32_t i = 1; i < cluster->link_count; i++)
        cr_assert(cluster->links[i - 1].a < cluster->links[i].a || cluster->links[i - 1].b < cluster->links[i].b);
    cr_assert_eq(link_of(cluster, 0, 1)->bandwidth_bytes_per_s, 1e7, "two blocks are joined");
    cr_assert_eq(link_of(cluster, 0, 1)->latency_s, 9e-3);
    cr_assert_eq(link_of(cluster, 1, 2)->bandwidth_bytes_per_s, 5e8, "as the slower port allows");
    cr_assert_eq(link_of(cluster, 0, 2)->latency_s, 9e-3);
    cr_assert_eq(link_of(cluster, 0, 3)->latency_s, 2e-3, "a name wins over a let");
    cr_assert_null(link_of(cluster, 1, 3));
}

Test(heterogeneous, a_matrix_gives_all_links_and_blocks_override_it)
{
    const Cluster *cluster = checked("level dc { count = 3  bandwidth = 8 Gbit/s  latency = 2 ms\n"
                                     "  names = [paris, oslo, rome]  links = \"links.csv\" }\n"
                                     "port rome { latency = 5 ms }\n"
                                     "link rome, paris { bandwidth = 16 Mbit/s }\n",
                                     "# measured\n\n Mbit/s , rome , \"paris\", oslo\r\n"
                                     "rome, , 80, 160\n# and\n\"paris\", 80, x, 240\noslo,160,200, -\n");
    cr_assert_eq(cluster->link_count, 3);
    cr_assert_eq(link_of(cluster, 0, 2)->bandwidth_bytes_per_s, 2e6);
    cr_assert_eq(link_of(cluster, 0, 2)->latency_s, 5e-3);
    cr_assert_eq(link_of(cluster, 1, 2)->bandwidth_bytes_per_s, 2e7);
    cr_assert_eq(link_of(cluster, 0, 1)->bandwidth_bytes_per_s, 2.5e7, "the smaller of both directions");
    cr_assert_eq(diag_warning_count(diag), 1);
}

Test(heterogeneous, a_matrix_may_name_the_workers_or_nobody)
{
    const char *text = "level dc { count = 2  bandwidth = 8 Gbit/s  links = \"links.csv\" }\n";
    const Cluster *named = checked(text, "GB/s,a,b\na,0,0.5\nb,0.5,0");
    cr_assert_str_eq(named->ports[1].name, "b");
    cr_assert_eq(named->links[0].bandwidth_bytes_per_s, 5e8);
    const Cluster *plain = checked(text, "MiB/s\n0,1\n1,0\n");
    cr_assert_str_eq(plain->ports[1].name, "dc[1]");
    cr_assert_eq(plain->links[0].bandwidth_bytes_per_s, 1048576);
    cr_assert_eq(diag_warning_count(diag), 0);
}
