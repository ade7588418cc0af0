/* The library says which version it is, and it is the header's. */
#include "check.h"

int main(void)
{
    char version[64];
    snprintf(version, sizeof version, "%u.%u.%u", (unsigned)CHECKMAP_VERSION_MAJOR, (unsigned)CHECKMAP_VERSION_MINOR,
             (unsigned)CHECKMAP_VERSION_PATCH);
    CHECK(strcmp(checkmap_version(), version) == 0);
    EQUAL(checkmap_abi_version(), CHECKMAP_ABI_VERSION);
    return 0;
}
