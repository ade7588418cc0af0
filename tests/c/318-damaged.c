/* Images with any one byte of the header or the bitmap directory changed: an answer or an error, never a crash. */
#include "check.h"

int main(void)
{
    image_copy("chain.qcow2");
    struct stat file;
    CHECK(stat("chain.qcow2", &file) == 0);
    int fd = open("chain.qcow2", O_RDWR);
    unsigned refused = 0;
    for (off_t at = 0; at < file.st_size; at += at < 512 ? 1 : 8191) {
        uint8_t byte, changed;
        CHECK(pread(fd, &byte, 1, at) == 1);
        changed = byte ^ 0x81;
        CHECK(pwrite(fd, &changed, 1, at) == 1);
        checkmap_image *image = NULL;
        int status = checkmap_image_open(TEXT("chain.qcow2"), CHECKMAP_OPEN_NO_LOCK, &image);
        CHECK((status == 0) == (image != NULL));
        if (status == 0) {
            struct checkmap_checkpoint list[8];
            checkmap_bitmap *bitmap = NULL;
            checkmap_report *report = NULL;
            checkmap_checkpoint_list(image, list, 8);
            checkmap_image_trouble(image);
            status = checkmap_diff(image, "a", 1, NULL, 0, &bitmap);
            CHECK((status == 0) == (bitmap != NULL));
            CHECK(status != -ENOTRECOVERABLE);
            checkmap_bitmap_free(bitmap);
            CHECK(checkmap_image_check(image, NULL, &report) != -ENOTRECOVERABLE);
            checkmap_report_free(report);
        }
        refused += status != 0;
        checkmap_image_close(image);
        CHECK(pwrite(fd, &byte, 1, at) == 1);
    }
    CHECK(refused > 10);
    close(fd);
    return 0;
}
