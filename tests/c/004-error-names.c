/* Kinds have names and errnos, and numbers that are no kind have none. */
#include "check.h"

int main(void)
{
    CHECK(strcmp(checkmap_error_name(CHECKMAP_ERROR_IN_USE), "CHECKMAP_ERROR_IN_USE") == 0);
    EQUAL(checkmap_error_errno(CHECKMAP_ERROR_IN_USE), EBUSY);
    EQUAL(checkmap_error_errno(CHECKMAP_ERROR_POISONED), ENOTRECOVERABLE);
    for (uint32_t kind = 1; kind <= CHECKMAP_ERROR_HYPERVISOR; kind++) {
        CHECK(strncmp(checkmap_error_name(kind), "CHECKMAP_ERROR_", 15) == 0);
        CHECK(checkmap_error_errno(kind) > 0 && checkmap_error_errno(kind) != EPERM);
    }
    CHECK(checkmap_error_name(0) == NULL && checkmap_error_name(UINT32_MAX) == NULL);
    EQUAL(checkmap_error_errno(0), 0);
    return 0;
}
