/* An image deleted or cut underneath is an error or goes on, and never a crash. */
#include "check.h"

int main(void)
{
    image_copy("chain.qcow2");
    checkmap_image *image = image_open("chain.qcow2", CHECKMAP_OPEN_RDWR);
    CHECK(unlink("chain.qcow2") == 0);
    checkmap_bitmap *bitmap = NULL;
    EQUAL(checkmap_diff(image, "a", 1, NULL, 0, &bitmap), 0);
    EQUAL(checkmap_bitmap_dirty_bytes(bitmap), 256 * 1024);
    checkmap_bitmap_free(bitmap);
    EQUAL(checkmap_checkpoint_create(image, TEXT("d"), 0), 0);
    checkmap_image_close(image);

    image_copy("chain.qcow2");
    image = image_open("chain.qcow2", CHECKMAP_OPEN_RDWR);
    CHECK(truncate("chain.qcow2", 100) == 0);
    CHECK(checkmap_diff(image, "a", 1, NULL, 0, &bitmap) < 0);
    CHECK(bitmap == NULL);
    CHECK(checkmap_checkpoint_delete(image, TEXT("b")) < 0);
    checkmap_report *report = NULL;
    if (checkmap_image_check(image, NULL, &report) == 0) {
        CHECK(checkmap_report_errors(report) + checkmap_report_unusable(report) > 0);
    }
    checkmap_report_free(report);
    checkmap_image_close(image);
    return 0;
}
