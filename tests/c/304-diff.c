/* What changed since a checkpoint, until now or until another one. */
#include "check.h"

static int64_t changed(const checkmap_image *image, const char *since, const char *until)
{
    checkmap_bitmap *bitmap = NULL;
    int status = checkmap_diff(image, TEXT(since), until, until ? strlen(until) : 0, &bitmap);
    if (status < 0) {
        CHECK(bitmap == NULL);
        return status;
    }
    int64_t bytes = checkmap_bitmap_dirty_bytes(bitmap);
    checkmap_bitmap_free(bitmap);
    return bytes;
}

int main(void)
{
    checkmap_image *image = image_open(image_copy("chain.qcow2"), 0);
    EQUAL(changed(image, "a", NULL), 256 * 1024);
    EQUAL(changed(image, "b", NULL), 192 * 1024);
    EQUAL(changed(image, "a", "b"), 64 * 1024);
    EQUAL(changed(image, "a", "c"), 192 * 1024);
    EQUAL(changed(image, "b", "b"), 0);
    FAILS(changed(image, "b", "a"), EPROTO, CHECKMAP_ERROR_ORDER);
    FAILS(changed(image, "x", NULL), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    FAILS(changed(image, "a", "x"), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    FAILS(changed(image, "", NULL), EINVAL, CHECKMAP_ERROR_INVALID_NAME);
    FAILS(changed(image, "a", ""), EINVAL, CHECKMAP_ERROR_INVALID_NAME);
    EQUAL(checkmap_image_set_threads(image, 3), 0);
    EQUAL(changed(image, "a", NULL), 256 * 1024);
    INVALID(checkmap_image_set_threads(image, UINT32_MAX));
    INVALID(checkmap_image_set_threads(NULL, 1));
    checkmap_bitmap *bitmap = NULL;
    EQUAL(checkmap_diff_with(image, "a", 1, NULL, 0, 2 * MIB, 64 * KIB, NULL, &bitmap), 0);
    EQUAL(checkmap_bitmap_dirty_bytes(bitmap), 64 * 1024);
    EQUAL(checkmap_bitmap_next_dirty(bitmap, 0, CHECKMAP_TO_END), 2 * MIB);
    checkmap_bitmap_free(bitmap);
    checkmap_image_close(image);
    return 0;
}
