// What a training learned with, in the manifest of its checkpoints: a run that continues with something else says so.
#include <math.h>
#include <string.h>

#include "runtime/checkpoint/checkpoint_internal.h"

static const char *const names[SETTING_COUNT] = {
#define SETTING(name) #name,
    HEP_SETTINGS(SETTING)
#undef SETTING
};

SavedSettings settings_of(const Plan *plan, const TrainingSettings *training)
{
    return (SavedSettings){.known = true,
                           .values = {training->learning_rate, training->beta1, training->beta2, training->epsilon,
                                      training->weight_decay, training->warmup, training->decay, training->final_rate,
                                      training->clip, training->balance, plan->model.batch, plan->capacity}};
}

void settings_compare(const SavedSettings *there, const SavedSettings *here, Text *out)
{
    char then[FORMAT_MAX], now[FORMAT_MAX];
    for (size_t s = 0; there->known && s < SETTING_COUNT; s++)
        if (there->values[s] != here->values[s])
            text_format(out, "%s%s %s, was %s", out->length > 0 ? "; " : "", names[s],
                        format_double(now, here->values[s]), format_double(then, there->values[s]));
}

void settings_print(const SavedSettings *settings, cJSON *root)
{
    cJSON *object = settings->known ? cJSON_AddObjectToObject(root, "settings") : NULL;
    for (size_t s = 0; object && s < SETTING_COUNT; s++)
        cJSON_AddNumberToObject(object, names[s], settings->values[s]);
}

bool settings_parse(const cJSON *root, SavedSettings *out)
{
    const cJSON *object = cJSON_GetObjectItemCaseSensitive(root, "settings");
    out->known = object != NULL;
    for (size_t s = 0; object && s < SETTING_COUNT; s++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, names[s]);
        if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble))
            return false;
        out->values[s] = item->valuedouble;
    }
    return true;
}
