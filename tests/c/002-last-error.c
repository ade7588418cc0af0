/* The last error stays until the next failure, and is never NULL. */
#include "check.h"

int main(void)
{
    CHECK(strcmp(checkmap_last_error(), "no error") == 0);
    EQUAL(checkmap_last_error_kind(), 0);
    EQUAL(checkmap_last_error_errno(), 0);
    checkmap_bitmap *bitmap = (void *)&bitmap;
    INVALID(checkmap_bitmap_new(1, 3, &bitmap));
    CHECK(bitmap == NULL);
    CHECK(strstr(checkmap_last_error(), "granularity 3") != NULL);
    bitmap = bitmap_of(1, 1);
    CHECK(strstr(checkmap_last_error(), "granularity 3") != NULL);
    FAILS(checkmap_bitmap_get(bitmap, 1), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    CHECK(strstr(checkmap_last_error(), "granularity 3") == NULL);
    /* Calls that cannot return an errno keep it. */
    EQUAL(checkmap_bitmap_size(NULL), 0);
    EQUAL(checkmap_last_error_errno(), EINVAL);
    checkmap_bitmap_free(bitmap);
    return 0;
}
