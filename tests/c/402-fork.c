/* A child goes on with bitmaps; its parent's image is as locked as before. */
#include "check.h"
#include <sys/wait.h>

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(GIB, 4 * KIB);
    EQUAL(checkmap_bitmap_set(bitmap, 0, MIB), 0);
    image_copy("chain.qcow2");
    checkmap_image *image = image_open("chain.qcow2", CHECKMAP_OPEN_RDWR), *other = NULL;
    pid_t child = fork();
    if (child == 0) {
        EQUAL(checkmap_bitmap_set(bitmap, 2 * MIB, MIB), 0);
        EQUAL(checkmap_bitmap_count(bitmap), 512);
        checkmap_bitmap_free(bitmap);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    EQUAL(checkmap_bitmap_count(bitmap), 256);
    FAILS(checkmap_image_open(TEXT("chain.qcow2"), 0, &other), EBUSY, CHECKMAP_ERROR_IN_USE);
    checkmap_image_close(image);
    checkmap_bitmap_free(bitmap);
    return 0;
}
