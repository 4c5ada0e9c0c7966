// What a training learned with, in the manifest of its checkpoints: a run that continues with something else says so.
#include <math.h>
#include <string.h>

#include "runtime/checkpoint/checkpoint_internal.h"

static const Name routing_words[] = {
#define ROUTING(name, word, doc) [ROUTING_##name] = {.text = word},
    HEP_ROUTINGS(ROUTING)
#undef ROUTING
};
static const NameTable routing_table = {"a routing", routing_words, ROUTING_COUNT};

static const struct {
    const char *name;
    const NameTable *words;
} known[SETTING_COUNT] = {
#define SETTING(name, value, words) {#name, words},
    HEP_SETTINGS(SETTING)
#undef SETTING
};

SavedSettings settings_of(const Plan *plan, const TrainingSettings *training, Routing routing)
{
#define SETTING(name, value, words) (double)(value),
    return (SavedSettings){.values = {HEP_SETTINGS(SETTING)}};
#undef SETTING
}

static const char *value_text(char out[FORMAT_MAX], size_t setting, double value)
{
    return known[setting].words ? name_text(known[setting].words, (int)value) : format_double(out, value);
}

void settings_compare(const SavedSettings *there, const SavedSettings *here, Text *out)
{
    char then[FORMAT_MAX], now[FORMAT_MAX];
    for (size_t s = 0; s < SETTING_COUNT; s++)
        if (there->values[s] != here->values[s] && !isnan(there->values[s]))
            text_format(out, "%s%s %s, was %s", out->length > 0 ? "; " : "", known[s].name,
                        value_text(now, s, here->values[s]), value_text(then, s, there->values[s]));
}

void settings_print(const SavedSettings *settings, cJSON *root)
{
    cJSON *object = cJSON_AddObjectToObject(root, "settings");
    for (size_t s = 0; object && s < SETTING_COUNT; s++)
        if (!isnan(settings->values[s]))
            cJSON_AddNumberToObject(object, known[s].name, settings->values[s]);
}

// What an earlier version of the program did not write is not known.
bool settings_parse(const cJSON *root, SavedSettings *out)
{
    const cJSON *object = cJSON_GetObjectItemCaseSensitive(root, "settings");
    for (size_t s = 0; s < SETTING_COUNT; s++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, known[s].name);
        const NameTable *words = known[s].words;
        out->values[s] = item ? item->valuedouble : NAN;
        if (item && (!cJSON_IsNumber(item) || !isfinite(item->valuedouble)))
            return false;
        if (item && words && (fabs(item->valuedouble) > INT16_MAX || !name_text(words, (int)item->valuedouble)))
            return false;
    }
    return true;
}
