/* Each thread has its own last error. */
#include "check.h"
#include <pthread.h>

static void *other(void *unused)
{
    (void)unused;
    EQUAL(checkmap_last_error_kind(), 0);
    checkmap_image *image;
    EQUAL(checkmap_image_open(TEXT("nowhere"), 0, &image), -ENOENT);
    EQUAL(checkmap_last_error_kind(), CHECKMAP_ERROR_IO);
    return NULL;
}

int main(void)
{
    INVALID(checkmap_bitmap_set(NULL, 0, 1));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, other, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    EQUAL(checkmap_last_error_kind(), CHECKMAP_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(checkmap_last_error(), "NULL") != NULL);
    return 0;
}
