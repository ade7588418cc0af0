/* A place for a result is set before anything can fail. */
#include "check.h"

int main(void)
{
    void *was = (void *)"was";
    checkmap_bitmap *bitmap = was;
    EQUAL(checkmap_bitmap_new(UINT64_MAX, 1, &bitmap), -EINVAL);
    CHECK(bitmap == NULL);
    bitmap = was;
    EQUAL(checkmap_bitmap_union_new(NULL, 5, 0, &bitmap), -EINVAL);
    CHECK(bitmap == NULL);
    bitmap = was;
    EQUAL(checkmap_bitmap_deserialize((const uint8_t *)"x", 1, 1, 1, &bitmap), -EBADMSG);
    CHECK(bitmap == NULL);
    bitmap = was;
    EQUAL(checkmap_diff(NULL, "a", 1, NULL, 0, &bitmap), -EINVAL);
    CHECK(bitmap == NULL);
    checkmap_image *image = was;
    EQUAL(checkmap_image_open(TEXT("nowhere"), 0, &image), -ENOENT);
    CHECK(image == NULL);
    image = was;
    EQUAL(checkmap_image_open_fd(-1, 0, &image), -EBADF);
    CHECK(image == NULL);
    checkmap_segment *segment = was;
    EQUAL(checkmap_segment_open(TEXT("nowhere"), &segment), -ENOENT);
    CHECK(segment == NULL);
    checkmap_report *report = was;
    EQUAL(checkmap_image_check(NULL, NULL, &report), -EINVAL);
    CHECK(report == NULL);
    struct checkmap_image_info info;
    memset(&info, 0xff, sizeof info);
    info.size = sizeof info;
    EQUAL(checkmap_image_get_info(NULL, &info), -EINVAL);
    CHECK(info.size == sizeof info && info.disk_size == 0 && info.format == NULL && info.flags == 0);
    struct checkmap_summary summary = {0, 0, 0, 1};
    EQUAL(checkmap_stored_summarize(NULL, "a", 1, &summary), -EINVAL);
    CHECK(summary.dirty_bytes == -1 && summary.stored_bytes == -1 && summary.reserved == 0);
    struct checkmap_sha256 sha256;
    memset(&sha256, 0xff, sizeof sha256);
    EQUAL(checkmap_stored_sha256(NULL, "a", 1, &sha256), -EINVAL);
    CHECK(sha256.bytes[0] == 0 && sha256.bytes[31] == 0);
    return 0;
}
