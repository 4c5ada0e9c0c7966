// The build of the program, with the digest of its headers that CMake computes.
#include "plugin_digest.h"
#include "runtime/plugin/plugin.h"

const char *plugin_build(void)
{
    return HEP_VERSION " (interface " HEP_PLUGIN_DIGEST ")";
}
