/* What a plan says of each MoE layer: which workers share its experts, and who owns and holds which of them.
 *
 *   hepc samples/laptop_training.hep -o plan.hepb
 *   cc layout.c $(pkg-config --cflags --libs hep) -o layout && ./layout plan.hepb
 */
#include <hep.h>
#include <stdio.h>
#include <stdlib.h>

static void check(hep_status status)
{
    hep_error error = {.struct_bytes = sizeof(error)};
    if (status == HEP_OK)
        return;
    hep_last_error(NULL, &error);
    fprintf(stderr, "layout: %s: %s\n", hep_status_name(status), error.message);
    exit(1);
}

int main(int argc, char *argv[])
{
    hep_plan *plan;
    hep_facts facts = {.struct_bytes = sizeof(facts)};
    if (argc != 2) {
        fprintf(stderr, "usage: layout PLAN.hepb\n");
        return 2;
    }
    check(hep_plan_read(argv[1], &plan));
    check(hep_plan_facts(plan, &facts));
    printf("%d ranks, %d experts in each of %d layers, %.3g ms an iteration\n", (int)facts.ranks, (int)facts.experts,
           (int)facts.moe_layers, facts.iteration_s * 1e3);
    for (int k = 0; k < facts.moe_layers; k++) {
        hep_layer layer = {.struct_bytes = sizeof(layer)};
        check(hep_plan_layer(plan, k, &layer));
        printf("layer %d:", (int)layer.model_layer);
        for (int l = 0; l < facts.levels; l++) {
            hep_level level = {.struct_bytes = sizeof(level)};
            check(hep_plan_level(plan, l, &level));
            printf(" %s=%d", level.name, (int)layer.domain[l]);
        }
        printf("\n");
        for (int rank = 0; rank < facts.ranks; rank++) {
            int first, count;
            int64_t owned, elements;
            check(hep_plan_held(plan, k, rank, &first, &count));
            check(hep_plan_owned(plan, k, rank, &owned, &elements));
            printf("  rank %d: owns %g experts from %g on, holds %d to %d\n", rank,
                   (double)elements / (double)facts.expert_elements, (double)owned / (double)facts.expert_elements,
                   first, first + count - 1);
        }
    }
    hep_plan_free(plan);
    return 0;
}
