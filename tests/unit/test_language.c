// The language: what accepted texts mean. What refused ones print is tested by the golden files.
#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/frontend/check.h"
#include "grammar/parse.h"

#define CLUSTER                                                                                                        \
    "cluster c { level dc { count = 2 bandwidth = 10 Gbit/s } level gpu { count = 4 bandwidth = 128 Gbit/s } }\n"
#define DIMENSIONS "layers = 4 hidden = 64 heads = 4 vocabulary = 256 sequence = 32 "
#define MODEL      "model m { " DIMENSIONS "moe { experts = 8 } }\n"

static Arena *arena;
static Diag *diag;

static void set_up(void)
{
    arena = arena_create();
    diag = diag_create(arena);
}

static void tear_down(void)
{
    arena_destroy(arena);
}

TestSuite(language, .init = set_up, .fini = tear_down);

static const char *diagnostics(void)
{
    char *printed = NULL;
    size_t length;
    FILE *out = open_memstream(&printed, &length);
    diag_print(diag, out, false);
    fclose(out);
    const char *copy = arena_copy_string(arena, printed, length);
    free(printed);
    return copy;
}

static const Spec *check_with(const char *text, const CheckOptions *options)
{
    Ast *ast = read_text("test.hep", text, strlen(text), arena, diag);
    return ast ? check_ast(ast, options, arena, diag) : NULL;
}

static const Spec *check(const char *text)
{
    const Spec *spec = check_with(text, NULL);
    if (!spec)
        cr_log_error("%s", diagnostics());
    cr_assert_not_null(spec);
    return spec;
}

static bool is_refused(const char *text, const char *message)
{
    diag = diag_create(arena);
    bool refused = !check_with(text, NULL), said = strstr(diagnostics(), message) != NULL;
    if (!refused || !said)
        cr_log_error("%s\n%s", text, diagnostics());
    return refused && said;
}

// Every group waits for its slowest member: a level is as slow as the slowest of its workers, in either respect.
Test(language, inner_levels_are_as_slow_as_their_slowest_worker)
{
    const Spec *spec =
        check("cluster c {\n"
              "  level dc   { count = 2  bandwidth = 10 Gbit/s }\n"
              "  level node { count = 2  bandwidth = 8 Gbit/s  latency = 10 us  names = [a, b] }\n"
              "  level gpu  { count = 2  bandwidth = 80 Gbit/s  latency = 3 us }\n"
              "  port node[1] { bandwidth = 2 Gbit/s }\n"
              "  port node[a] { bandwidth = 4 Gbit/s  latency = 30 us }\n"
              "  port gpu[0], gpu[1] { bandwidth = 800 Gbit/s }\n" // no slower than the level
              "}\n"
              "model m { layers = 1  hidden = 64  heads = 4  vocabulary = 256  sequence = 32 moe { experts = 8 } }\n");
    const Cluster *cluster = &spec->cluster;
    cr_assert_eq(cluster->levels[1].bandwidth_bytes_per_s, 0.25e9);
    cr_assert_eq(cluster->levels[1].latency_s, 30e-6);
    cr_assert_eq(cluster->levels[2].bandwidth_bytes_per_s, 10e9);
    cr_assert_eq(cluster->levels[2].latency_s, 3e-6);
    cr_assert_eq(cluster->levels[0].bandwidth_bytes_per_s, 1.25e9);
    cr_assert_eq(cluster->port_count, 0);
}

Test(language, every_value_of_a_full_file)
{
    const Spec *spec =
        check("let sequences = 8\n"
              "cluster two_dc {\n"
              "  level dc  { count = 2  bandwidth = 10 Gbit/s   latency = 500 us  overhead = 2 ns }\n"
              "  level gpu { count = 8  bandwidth = 128 Gbit/s  latency = 5 us }\n"
              "  device { compute = 1.5 PFLOP/s  memory = 40 GiB  memory_bandwidth = 1 TB/s  half_rate_rows = 0.5 }\n"
              "}\n"
              "model gpt {\n"
              "  layers = 12  hidden = 1024  heads = 16  kv_heads = 4  head_dim = 128  vocabulary = 256\n"
              "  sequence = 256  batch = sequences  dtype = f16  inner = 3000  first_dense = 1\n"
              "  moe { experts = 32  top_k = 4  inner = 4096  activation = swiglu  every = 2  shared_experts = 1 }\n"
              "}\n"
              "plan {\n"
              "  pass = forward  dispatch = naive  domain = { dc = 2  gpu = 4 }  capacity = 1.25\n"
              "  migration { codec = delta  ratio = 20 }\n"
              "}\n");
    const Cluster *cluster = &spec->cluster;
    cr_assert_str_eq(cluster->name, "two_dc");
    cr_assert_eq(cluster->level_count, 2);
    cr_assert_str_eq(cluster->levels[1].name, "gpu");
    cr_assert_eq(cluster->levels[0].count, 2);
    cr_assert_eq(cluster->levels[0].bandwidth_bytes_per_s, 1.25e9);
    cr_assert_eq(cluster->levels[0].latency_s, 500e-6);
    cr_assert_eq(cluster->levels[0].overhead_s, 2e-9);
    cr_assert_eq(cluster->levels[1].latency_s, 5e-6);
    cr_assert_eq(cluster->levels[1].overhead_s, 0);
    cr_assert_eq(cluster->device.compute_flops, 1.5e15);
    cr_assert_eq(cluster->device.memory_bytes, 40.0 * (1 << 30));
    cr_assert_eq(cluster->device.memory_bandwidth, 1e12);
    cr_assert_eq(cluster->device.half_rate_rows, 0.5);
    const SpecModel *model = &spec->model;
    cr_assert_str_eq(model->name, "gpt");
    cr_assert_not(model->abstract);
    const uint32_t got[] = {model->layers,      model->hidden,     model->heads,         model->kv_heads,
                            model->head_dim,    model->sequence,   model->batch,         model->ffn_inner,
                            model->first_dense, model->vocabulary, model->experts,       model->top_k,
                            model->inner,       model->every,      model->shared_experts},
                   expected[] = {12, 1024, 16, 4, 128, 256, 8, 3000, 1, 256, 32, 4, 4096, 2, 1};
    cr_assert_arr_eq(got, expected, sizeof(expected));
    cr_assert_eq(model->dtype, DTYPE_F16);
    cr_assert_eq(model->activation, ACTIVATION_SWIGLU);
    const SpecPlan *plan = &spec->plan;
    cr_assert_eq(plan->pass, PASS_FORWARD);
    cr_assert_eq(plan->dispatch, DISPATCH_NAIVE);
    cr_assert_eq(plan->domain_request, DOMAIN_FORCED);
    cr_assert_eq(plan->domain[0], 2);
    cr_assert_eq(plan->domain[1], 4);
    cr_assert_eq(plan->capacity, 1.25);
    cr_assert_eq(plan->experts.codec, CODEC_DELTA);
    cr_assert_eq(plan->experts.ratio, 20);
    cr_assert_eq(spec->replica_levels, 0);
}

Test(language, defaults)
{
    const Spec *spec = check(CLUSTER MODEL);
    cr_assert_eq(spec->cluster.levels[0].latency_s, 0);
    cr_assert_eq(spec->cluster.device.compute_flops, 60e12);
    cr_assert_eq(spec->cluster.device.memory_bytes, 80e9);
    cr_assert_eq(spec->cluster.device.memory_bandwidth, 2e12);
    cr_assert_eq(spec->cluster.device.half_rate_rows, 32);
    const SpecModel *model = &spec->model;
    cr_assert_eq(model->kv_heads, 4);
    cr_assert_eq(model->head_dim, 16);
    cr_assert_eq(model->batch, 1);
    cr_assert_eq(model->dtype, DTYPE_BF16);
    cr_assert_eq(model->ffn_inner, 0);
    cr_assert_eq(model->top_k, 2);
    cr_assert_eq(model->inner, 256);
    cr_assert_eq(model->activation, ACTIVATION_GELU);
    cr_assert_eq(model->every, 1);
    const SpecPlan *plan = &spec->plan;
    cr_assert_eq(plan->pass, PASS_TRAINING);
    cr_assert_eq(plan->dispatch, DISPATCH_DEDUP);
    cr_assert_eq(plan->domain_request, DOMAIN_AUTO);
    cr_assert_eq(plan->capacity, 0);
    cr_assert_eq(plan->exchange, EXCHANGE_COUNTED);
    cr_assert_eq(check(CLUSTER MODEL "plan { exchange = padded capacity = 2 }")->plan.exchange, EXCHANGE_PADDED);
    cr_assert_eq(plan->experts.codec, CODEC_DENSE);
    cr_assert_eq(plan->experts.ratio, 1);
    cr_assert_eq(check(CLUSTER MODEL "plan { migration { codec = sr } }")->plan.experts.ratio, 50);
    cr_assert_eq(check(CLUSTER MODEL "plan { capacity = off }")->plan.capacity, 0);
    const char *dense = CLUSTER "model m { " DIMENSIONS "first_dense = 1 moe { experts = 8 } }";
    cr_assert_eq(check(dense)->model.ffn_inner, 256);
}

Test(language, volumes_instead_of_dimensions)
{
    const Spec *spec = check("cluster one { level gpu { count = 8 bandwidth = 128 Gbit/s latency = 0 us } }\n"
                             "model mix1 { layers = 1\n"
                             "  moe { data = 8 MB expert = 4.7 MB pre_expert = 0.49 ms expert_compute = 0 ms } }\n"
                             "plan { pass = forward dispatch = naive }\n");
    cr_assert(spec->model.abstract);
    cr_assert_eq(spec->model.data_bytes, 8e6);
    cr_assert_eq(spec->model.expert_bytes, 4.7e6);
    cr_assert_eq(spec->model.pre_expert_s, 0.49e-3);
    cr_assert_eq(spec->model.expert_compute_s, 0);
    cr_assert_eq(spec->model.experts, 0);
    cr_assert_eq(spec->model.top_k, 1);
    cr_assert_eq(spec->model.hidden, 0);
    cr_assert_eq(spec->replica_levels, 0);
}

// The value of `expression` as a half_rate_rows.
static double number_of(const char *expression)
{
    return check(arena_format(
                     arena,
                     "let half = 0.5 let gb = 1 GB let speed = 1 GB/s\n"
                     "cluster c { level g { count = 8 bandwidth = 1 GB/s } device { half_rate_rows = %s } }" MODEL,
                     expression))
        ->cluster.device.half_rate_rows;
}

Test(language, arithmetic)
{
    cr_assert_eq(number_of("2 + 3 * 4"), 14);
    cr_assert_eq(number_of("(2 + 3) * 4"), 20);
    cr_assert_eq(number_of("20 - 8 - 2"), 10);
    cr_assert_eq(number_of("16 / 4 / 2"), 2);
    cr_assert_eq(number_of("--3"), 3);
    cr_assert_eq(number_of("5 - -3"), 8);
    cr_assert_eq(number_of("2 * -half + 2"), 1);
    cr_assert_eq(number_of("187.1e6"), 187.1e6);
    cr_assert_eq(number_of(".5 + 1. + 1E+2"), 101.5);
    cr_assert_eq(number_of("8 GB / gb"), 8);
    cr_assert_eq(number_of("8 GB/gb"), 8);
    cr_assert_eq(number_of("3 s * speed / gb"), 3);
    cr_assert_eq(number_of("1 ms * 1 GFLOP/s / (1 us * 1 GFLOP/s)"), 1000);
}

Test(language, units)
{
    const struct {
        const char *key, *text;
        double value;
    } cases[] = {
        {"bandwidth", "10 Gbit/s", 1.25e9}, {"bandwidth", "10Gbit/s", 1.25e9},
        {"bandwidth", "8 Kibit/s", 1024},   {"bandwidth", "3 GiB/s", 3221225472},
        {"bandwidth", "2 TB/s", 2e12},      {"bandwidth", "5 kB/s", 5e3},
        {"bandwidth", "1 GB / 2 s", 5e8},   {"bandwidth", "8 Mbit/s + 1 MB/s", 2e6},
        {"latency", "7 ns", 7e-9},          {"latency", "5 us", 5e-6},
        {"latency", "1 MB / 1 GB/s", 1e-3}, {"latency", "0.49 ms", 0.49e-3},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        bool latency = cases[i].key[0] == 'l';
        const Spec *spec = check(arena_format(arena, "cluster c { level g { count = 8 %s %s = %s } }" MODEL,
                                              latency ? "bandwidth = 1 GB/s" : "", cases[i].key, cases[i].text));
        const Level *level = &spec->cluster.levels[0];
        cr_expect_eq(latency ? level->latency_s : level->bandwidth_bytes_per_s, cases[i].value, "%s", cases[i].text);
    }
}

Test(language, a_word_after_a_number_may_begin_an_entry)
{
    const Spec *spec = check("let s = 4 let B = 2 cluster c { level g { count = s bandwidth = B * 1 GB/s } device { "
                             "half_rate_rows = 8 } } model m { layers = 2 moe { experts = 8 top_k = 1 } hidden = 64 "
                             "heads = 4\nvocabulary = 256 sequence = 32 } plan { capacity = 2 migration { } }");
    cr_assert_eq(spec->cluster.levels[0].count, 4);
    cr_assert_eq(spec->cluster.device.half_rate_rows, 8);
    cr_assert_eq(spec->model.top_k, 1);
    cr_assert_eq(spec->plan.capacity, 2);
}

Test(language, lets_and_overrides)
{
    const char *text = "let slow = fast / 2\nlet fast = base * 2\nlet base = 1 Gbit/s\nlet how = naive\n"
                       "cluster c { level g { count = 8 bandwidth = slow } }" MODEL "plan { dispatch = how }";
    const Spec *spec = check(text);
    cr_assert_eq(spec->cluster.levels[0].bandwidth_bytes_per_s, 1e9 / 8);
    cr_assert_eq(spec->plan.dispatch, DISPATCH_NAIVE);
    const char *defines[] = {"base=10 Gbit/s", "how=dedup", "base = 2 * 4 Gbit/s"};
    CheckOptions options = {.defines = defines, .define_count = 3};
    spec = check_with(text, &options);
    cr_assert_not_null(spec);
    cr_assert_eq(spec->cluster.levels[0].bandwidth_bytes_per_s, 1e9);
    cr_assert_eq(spec->plan.dispatch, DISPATCH_DEDUP);
}

// 25 is what the file's value is counted in; a let that is no plain quantity gives no unit away.
Test(language, an_override_takes_over_the_unit)
{
    const char *text = "let a = 10 Gbit/s let b = 2 ms let n = 3 let far = 2 * a\n"
                       "cluster c { level dc { count = 2 bandwidth = a latency = b } "
                       "level gpu { count = 4 bandwidth = far } }\n"
                       "model m { " DIMENSIONS "batch = n moe { experts = 8 } }";
    const char *defines[] = {"a=25", "b=5", "n=7", "far=1"};
    CheckOptions options = {.defines = defines, .define_count = 3};
    const Spec *spec = check_with(text, &options);
    cr_assert_not_null(spec, "%s", diagnostics());
    cr_assert_float_eq(spec->cluster.levels[0].bandwidth_bytes_per_s, 25e9 / 8, 1);
    cr_assert_float_eq(spec->cluster.levels[0].latency_s, 5e-3, 1e-12);
    cr_assert_float_eq(spec->cluster.levels[1].bandwidth_bytes_per_s, 50e9 / 8, 1);
    cr_assert_eq(spec->model.batch, 7);
    options.define_count = 4;
    cr_assert_null(check_with(text, &options));
    cr_assert(strstr(diagnostics(), "-D:1:5: error: 'far' is a bandwidth such as '10 Gbit/s', got a plain number"));
}

// However often lets name each other, an error is reported at once.
Test(language, notes_about_overrides_look_into_every_let_once)
{
    Text text = {0};
    text_append(&text, "let a0 = 1 ");
    for (int i = 1; i < 200; i++)
        text_format(&text, "let a%d = a%d + a%d ", i, i - 1, i - 1);
    text_append(&text, CLUSTER "model m { " DIMENSIONS "batch = a199 / 3 moe { experts = 8 } }");
    const char *defines[] = {"a0=1.5"};
    CheckOptions options = {.defines = defines, .define_count = 1};
    cr_assert_null(check_with(text.data, &options));
    const char *printed = diagnostics();
    cr_assert(strstr(printed, "-D:1:4: note: 'a0' is overridden here"), "%s", printed);
    text_free(&text);
}

Test(language, comments_line_ends_and_byte_order_mark)
{
    check("\xef\xbb\xbf# c\r\n" CLUSTER "# \xc3\xa9\r\n" MODEL "#no newline at the end");
}

// On a cluster of 2 x 3 x 4 GPUs.
static const Spec *spec_of(uint32_t experts, const char *plan)
{
    return check(arena_format(arena,
                              "let fast = 1 GB/s cluster c { level a { count = 2 bandwidth = fast } "
                              "level b { count = 3 bandwidth = fast } level c { count = 4 bandwidth = fast } } "
                              "model m { " DIMENSIONS "moe { experts = %u } } plan { %s }",
                              experts, plan));
}

static uint32_t replicas_of(uint32_t experts)
{
    return spec_of(experts, "pass = forward")->replica_levels;
}

Test(language, fewer_experts_than_gpus_make_replicas_of_a_forward_pass)
{
    cr_assert_eq(replicas_of(48), 0);
    cr_assert_eq(replicas_of(24), 0);
    cr_assert_eq(replicas_of(12), 1);
    cr_assert_eq(replicas_of(8), 2);
    cr_assert_eq(replicas_of(4), 2);
    cr_assert_eq(replicas_of(20), 2);
    cr_assert_eq(replicas_of(3), 0); // no level without which GPUs have whole experts
    cr_assert_eq(replicas_of(60), 0);
    cr_assert_eq(spec_of(12, "pass = training")->replica_levels, 0);
    cr_assert_eq(spec_of(48, "pass = forward replicas = a")->replica_levels, 1);
    cr_assert_eq(spec_of(60, "pass = forward replicas = b")->replica_levels, 2);
    cr_assert_eq(spec_of(3, "pass = forward replicas = a")->replica_levels, 1);
    cr_assert_eq(spec_of(3, "pass = forward replicas = c")->replica_levels, 3);
    cr_assert_eq(spec_of(4, "pass = forward replicas = a")->replica_levels, 2); // without which 12 GPUs own parts of 4
    const Spec *spec =
        check(CLUSTER "model m { " DIMENSIONS "moe { experts = 4 } } plan { pass = forward domain = { gpu = 2 } }");
    cr_assert_eq(spec->replica_levels, 1);
    cr_assert_eq(spec->plan.domain[0], 2);
    cr_assert_eq(spec->plan.domain[1], 2);
    spec = check(CLUSTER "model m { " DIMENSIONS "moe { experts = 4 } } plan { pass = forward domain = ep }");
    cr_assert_eq(spec->plan.domain[0], 2);
    cr_assert_eq(spec->plan.domain[1], 1);
}

static void expect_domain(uint32_t experts, const char *plan, uint32_t a, uint32_t b, uint32_t c)
{
    const Spec *spec = spec_of(experts, plan);
    cr_assert(spec->plan.domain[0] == a && spec->plan.domain[1] == b && spec->plan.domain[2] == c,
              "%u experts, %s: %u %u %u", experts, plan, spec->plan.domain[0], spec->plan.domain[1],
              spec->plan.domain[2]);
}

// The sizes that gather least, outermost levels first: worked out by hand.
Test(language, plain_ep_gathers_as_little_as_the_experts_allow)
{
    expect_domain(24, "domain = ep", 1, 1, 1);
    expect_domain(12, "domain = ep", 2, 1, 1); // 12 places
    expect_domain(8, "domain = ep", 1, 3, 1);  // 8
    expect_domain(5, "domain = ep", 2, 3, 4);  // 1
    expect_domain(6, "domain = ep", 2, 1, 2);  // 6 = 3 x 2
    expect_domain(60, "domain = ep", 2, 1, 1); // 12 divides 60, 24 does not
    expect_domain(3, "domain = ep", 2, 1, 4);  // 3
    expect_domain(8, "domain = gather", 2, 3, 4);
    expect_domain(8, "domain = { a = 2 }", 2, 3, 1);
    expect_domain(8, "domain = { c = 4 }", 1, 3, 4);
    expect_domain(6, "domain = { a = 1  b = 1 }", 1, 1, 4);
    cr_assert(is_refused(CLUSTER "model m { " DIMENSIONS "moe { experts = 3 } } plan { domain = { dc = 1 } }",
                         "3 experts cannot be divided evenly among 2 domains"));
}

Test(language, domains)
{
    const struct {
        const char *in_file, *option;
        DomainRequest request;
        uint32_t dc, gpu;
    } cases[] = {
        {"auto", NULL, DOMAIN_AUTO, 1, 1},       {"ep", NULL, DOMAIN_EP, 1, 1},
        {"gather", NULL, DOMAIN_GATHER, 2, 4},   {"{ gpu = 2 }", NULL, DOMAIN_FORCED, 1, 2},
        {"[2, 4]", NULL, DOMAIN_FORCED, 2, 4},   {"{ }", NULL, DOMAIN_FORCED, 1, 1},
        {"[1, 4]", "dc=2", DOMAIN_FORCED, 2, 1}, {"gather", "dc=2,gpu=2", DOMAIN_FORCED, 2, 2},
        {"[2, 4]", "ep", DOMAIN_EP, 1, 1},       {"ep", "auto", DOMAIN_AUTO, 1, 1},
        {"auto", "gather", DOMAIN_GATHER, 2, 4},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CheckOptions options = {.domain = cases[i].option};
        const Spec *spec =
            check_with(arena_format(arena, CLUSTER MODEL "plan { domain = %s }", cases[i].in_file), &options);
        cr_assert_not_null(spec, "%s", cases[i].in_file);
        cr_expect_eq(spec->plan.domain_request, cases[i].request, "%s", cases[i].in_file);
        cr_expect_eq(spec->plan.domain[0], cases[i].dc, "%s", cases[i].in_file);
        cr_expect_eq(spec->plan.domain[1], cases[i].gpu, "%s", cases[i].in_file);
    }
}

Test(language, the_size_of_dense_layers_where_there_are_none_is_doubted)
{
    check(CLUSTER "model m { " DIMENSIONS "inner = 256 moe { experts = 8 every = 2 } }");
    cr_assert_eq(diag_warning_count(diag), 0, "%s", diagnostics());
    const Spec *spec = check(CLUSTER "model m { " DIMENSIONS "inner = 256 moe { experts = 8 } }");
    cr_assert_eq(spec->model.ffn_inner, 0);
    cr_assert_eq(spec->model.inner, 4 * 64);
    cr_assert_eq(diag_warning_count(diag), 1);
    cr_assert(strstr(diagnostics(), "'inner' of 'model' is the size of dense layers, which it lacks"));
}

Test(language, which_layers_have_experts)
{
    SpecModel model = {.layers = 8, .first_dense = 3, .every = 2};
    const bool expected[] = {false, false, false, true, false, true, false, true};
    for (uint32_t i = 0; i < model.layers; i++)
        cr_assert_eq(spec_layer_is_moe(&model, i), expected[i], "layer %u", i);
}

Test(language, spans_point_at_what_was_said)
{
    const char *text = CLUSTER MODEL "plan { domain = ep capacity = 2 }";
    const Spec *spec = check(text);
    Span domain = spec->plan.domain_span, model = spec->model.span;
    cr_assert_eq(strncmp(text + domain.begin, "ep", domain.end - domain.begin), 0);
    cr_assert_eq(strncmp(text + model.begin, "model m", model.end - model.begin), 0);
    cr_assert_eq(model.end - model.begin, 7);
}

static char *printed_ast(const char *name, const char *text)
{
    Ast *ast = read_text(name, text, strlen(text), arena, diag);
    cr_assert_not_null(ast, "%s", name);
    Text out = {0};
    ast_print(ast, &out);
    char *copy = arena_copy_string(arena, out.data, out.length);
    text_free(&out);
    return copy;
}

Test(language, printed_tree_reads_back_as_itself)
{
    const char *text = "let a=-(2+3 MB/b)*4 link dc[0],dc[n-1]{a=5us}c=zipf(1.1,[1,\"s\"]) d={e=1 f{g=2}h={}}"
                       " model m from\"c.json\"{} b{c{d=1e-9}}";
    cr_assert_str_eq(printed_ast("empty", ""), "");
    const char *once = printed_ast("x", text), *twice = printed_ast("x", once);
    cr_assert_str_eq(once, twice);
    cr_assert_str_eq(once, "let a = -(2 + 3 MB / b) * 4\n"
                           "link dc[0], dc[n - 1] {\n    a = 5 us\n}\n"
                           "c = zipf(1.1, [1, \"s\"])\n"
                           "d = { e = 1 f { g = 2 } h = { } }\n"
                           "model m from \"c.json\" {\n}\n"
                           "b {\n    c {\n        d = 1e-09\n    }\n}\n");
}

static void check_sample(const char *path)
{
    Ast *ast = read_file(path, arena, diag);
    const Spec *spec = ast ? check_ast(ast, NULL, arena, diag) : NULL;
    if (!spec)
        cr_log_error("%s", diagnostics());
    cr_assert_not_null(spec, "%s", path);
    Text out = {0};
    ast_print(ast, &out);
    cr_expect_str_eq(printed_ast(path, out.data), out.data);
    Ast *again = read_text(path, out.data, out.length, arena, diag); // files it names lie beside the sample
    cr_expect(again && check_ast(again, NULL, arena, diag), "%s, printed, is refused", path);
    text_free(&out);
}

Test(language, samples_check_and_print)
{
    DIR *samples = opendir(HEP_SOURCE_DIR "/samples");
    cr_assert_not_null(samples);
    int count = 0;
    for (const struct dirent *file; (file = readdir(samples));) {
        const char *ending = strrchr(file->d_name, '.');
        if (ending && strcmp(ending, ".hep") == 0) {
            char path[600];
            snprintf(path, sizeof(path), HEP_SOURCE_DIR "/samples/%s", file->d_name);
            check_sample(path);
            count++;
        }
    }
    closedir(samples);
    cr_assert_geq(count, 5);
}

// A file that is included twice by different ways is read once.
Test(language, includes_are_relative_and_read_once)
{
    char directory[] = "/tmp/hep_test_language_XXXXXX", path[100];
    cr_assert_not_null(mkdtemp(directory));
    const struct {
        const char *name, *text;
    } files[] = {
        {"cluster.hep", "include \"speed.hep\"\n" CLUSTER},
        {"speed.hep", "let speed = 3\n"},
        {"main.hep", "include \"./speed.hep\"\ninclude \"cluster.hep\"\n" MODEL "plan { capacity = speed }\n"}};
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", directory, files[i].name);
        cr_assert(file_write(path, files[i].text, strlen(files[i].text), &(Fault){0}));
    }
    Ast *ast = read_file(path, arena, diag);
    const Spec *spec = ast ? check_ast(ast, NULL, arena, diag) : NULL;
    cr_assert_not_null(spec);
    cr_assert_eq(spec->plan.capacity, 3);
    Text out = {0};
    ast_print(ast, &out);
    cr_assert_null(strstr(out.data, "include"));
    cr_assert_not_null(check_with(out.data, NULL));
    text_free(&out);
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", directory, files[i].name);
        remove(path);
    }
    remove(directory);
    cr_assert_null(read_file(path, arena, diag));
    cr_assert_not_null(strstr(diagnostics(), "error: cannot read '"));
}

static void write_in(const char *directory, const char *name, const char *text)
{
    char path[200];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    cr_assert(file_write(path, text, strlen(text), &(Fault){0}));
}

static void remove_in(const char *directory, const char *name)
{
    char path[200];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    remove(path);
}

// In a block the entries of a file stand where it is included, first, last or alone, and those of files it includes.
Test(language, includes_in_blocks_are_replaced_by_their_entries)
{
    char directory[] = "/tmp/hep_test_language_XXXXXX", path[100];
    cr_assert_not_null(mkdtemp(directory));
    write_in(directory, "empty.hep", "# nothing\n");
    write_in(directory, "gpus.hep", "level gpu { count = 3  bandwidth = 5 Gbit/s }\n");
    write_in(directory, "node.hep",
             "level node { count = 2  bandwidth = 1 Gbit/s }\ninclude \"gpus.hep\"\n"
             "device { memory = 7 GB }\n");
    write_in(directory, "wide.hep", "hidden = 64  heads = 4\n");
    write_in(directory, "main.hep",
             "cluster c { include \"empty.hep\" level dc { count = 2  bandwidth = 1 Mbit/s } include \"node.hep\" "
             "include \"empty.hep\" }\n"
             "model m { layers = 2 include \"wide.hep\" vocabulary = 256  sequence = 32  moe { experts = 12 } }\n");
    snprintf(path, sizeof(path), "%s/main.hep", directory);
    Ast *ast = read_file(path, arena, diag);
    const Spec *spec = ast ? check_ast(ast, NULL, arena, diag) : NULL;
    cr_assert_not_null(spec, "%s", diagnostics());
    cr_assert_eq(spec->cluster.level_count, 3);
    const char *const names[] = {"dc", "node", "gpu"};
    const uint32_t counts[] = {2, 2, 3};
    for (int l = 0; l < 3; l++) {
        cr_assert_str_eq(spec->cluster.levels[l].name, names[l]);
        cr_assert_eq(spec->cluster.levels[l].count, counts[l]);
    }
    cr_assert_eq(spec->cluster.device.memory_bytes, 7e9);
    cr_assert_eq(spec->model.hidden, 64);
    cr_assert_eq(spec->model.sequence, 32);
    const char *const files[] = {"empty.hep", "gpus.hep", "node.hep", "wide.hep", "main.hep"};
    for (size_t i = 0; i < COUNT_OF(files); i++)
        remove_in(directory, files[i]);
    remove(directory);
}

static void check_preset(const char *name)
{
    Arena *own = arena_create();
    Diag *own_diag = diag_create(own);
    const char *text = arena_format(own,
                                    "cluster c { level dc { count = 2  bandwidth = 1 Gbit/s } include \"%s\" }\n"
                                    "model m { " DIMENSIONS "moe { experts = 1152 } }\n",
                                    name);
    Ast *ast = read_text("test.hep", text, strlen(text), own, own_diag);
    const Spec *spec = ast ? check_ast(ast, NULL, own, own_diag) : NULL;
    cr_assert_not_null(spec, "preset %s", name);
    cr_assert_eq(spec->cluster.level_count, 2);
    cr_assert_str_eq(spec->cluster.levels[1].name, "gpu");
    cr_assert_gt(spec->cluster.levels[1].bandwidth_bytes_per_s, 10e9, "preset %s", name);
    cr_assert_gt(spec->cluster.device.memory_bytes, 20e9, "preset %s", name);
    cr_assert_gt(spec->cluster.device.compute_flops, 60e12, "preset %s", name);
    arena_destroy(own);
}

// What comes with hepc is found from any folder, unless a file of that name lies beside the one that includes it.
Test(language, presets_are_found_and_describe_nodes)
{
    DIR *presets = opendir(HEP_SOURCE_DIR "/presets");
    int count = 0;
    cr_assert_not_null(presets);
    for (struct dirent *file; (file = readdir(presets)) != NULL;)
        if (text_ends_with(file->d_name, ".hep")) {
            check_preset(file->d_name);
            count++;
        }
    closedir(presets);
    cr_assert_geq(count, 8);
    char directory[] = "/tmp/hep_test_language_XXXXXX";
    cr_assert_not_null(mkdtemp(directory));
    write_in(directory, "h200.hep", "level gpu { count = 2  bandwidth = 1 Gbit/s }\n");
    const char *name = arena_format(arena, "%s/main.hep", directory),
               *text = "cluster c { include \"h200.hep\" } " MODEL;
    Ast *ast = read_text(name, text, strlen(text), arena, diag);
    const Spec *spec = ast ? check_ast(ast, NULL, arena, diag) : NULL;
    cr_assert_not_null(spec, "%s", diagnostics());
    cr_assert_eq(spec->cluster.levels[0].count, 2);
    remove_in(directory, "h200.hep");
    remove(directory);
}

Test(language, texts_beyond_the_limit_are_refused)
{
    size_t length = SOURCE_BYTES_MAX + 1;
    char *text = malloc(length);
    memset(text, ' ', length);
    cr_assert_null(read_text("big", text, length, arena, diag));
    cr_assert_not_null(read_text("big", text, length - 1, arena, diag));
    free(text);
}

Test(language, documentation_holds_the_reference)
{
    char *reference = NULL;
    size_t length;
    FILE *out = open_memstream(&reference, &length);
    check_print_reference(out);
    fclose(out);
    Fault fault = {0};
    char *document = file_read(HEP_SOURCE_DIR "/docs/language.md", 1 << 20, &length, &fault);
    cr_assert_not_null(document, "%s", fault.message);
    cr_assert_not_null(strstr(document, reference), "docs/language.md differs from `hepc --help-language`");
    free(document);
    free(reference);
}
