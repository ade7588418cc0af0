/* Bitmaps as they are stored. */
#include "check.h"

int main(void)
{
    checkmap_image *image = image_open(image_copy("chain.qcow2"), CHECKMAP_OPEN_RDWR);
    struct checkmap_stored list[3];
    EQUAL(checkmap_stored_list(image, NULL, 0), 3);
    EQUAL(checkmap_stored_list(image, list, 3), 3);
    unsigned arrows = 0, recording = 0;
    for (int at = 0; at < 3; at++) {
        arrows += list[at].name_len == 4 && memcmp(list[at].name + 1, "->", 2) == 0;
        recording += list[at].flags == CHECKMAP_CHECKPOINT_RECORDING;
        EQUAL(list[at].granularity, 64 * KIB);
    }
    CHECK(arrows == 2 && recording == 1);
    checkmap_bitmap *bitmap = NULL;
    EQUAL(checkmap_stored_read(image, TEXT("a->b"), 0, CHECKMAP_TO_END, &bitmap), 0);
    EQUAL(checkmap_bitmap_dirty_bytes(bitmap), 128 * 1024);
    checkmap_bitmap_free(bitmap);
    EQUAL(checkmap_stored_read(image, TEXT("a->b"), 0, MIB, &bitmap), 0);
    EQUAL(checkmap_bitmap_is_empty(bitmap), 1);
    checkmap_bitmap_free(bitmap);
    FAILS(checkmap_stored_read(image, TEXT("b"), 0, MIB, &bitmap), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    struct checkmap_summary summary;
    EQUAL(checkmap_stored_summarize(image, TEXT("b->c"), &summary), 0);
    CHECK(summary.dirty_bytes == 64 * 1024 && summary.dirty_extents == 1 && summary.stored_bytes > 0);
    FAILS(checkmap_stored_summarize(image, TEXT("x"), &summary), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    /* The hash of the bits, wherever they are. */
    struct checkmap_sha256 stored, read, none = {{0}};
    EQUAL(checkmap_stored_read(image, TEXT("a->b"), 0, CHECKMAP_TO_END, &bitmap), 0);
    EQUAL(checkmap_stored_sha256(image, TEXT("a->b"), &stored), 0);
    EQUAL(checkmap_bitmap_sha256(bitmap, &read), 0);
    CHECK(memcmp(&stored, &read, sizeof read) == 0 && memcmp(&stored, &none, sizeof none) != 0);
    EQUAL(checkmap_stored_sha256(image, TEXT("b->c"), &stored), 0);
    CHECK(memcmp(&stored, &read, sizeof read) != 0);
    FAILS(checkmap_stored_sha256(image, TEXT("x"), &stored), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    CHECK(memcmp(&stored, &none, sizeof none) == 0);
    checkmap_bitmap_free(bitmap);
    bitmap = bitmap_of(MIB, 64 * KIB);
    static const unsigned char zeros[] = {0xaf, 0x55, 0x70, 0xf5, 0xa1, 0x81, 0x0b, 0x7a, 0xf7, 0x8c, 0xaf,
                                          0x4b, 0xc7, 0x0a, 0x66, 0x0f, 0x0d, 0xf5, 0x1e, 0x42, 0xba, 0xf9,
                                          0x1d, 0x4d, 0xe5, 0xb2, 0x32, 0x8d, 0xe0, 0xe8, 0x3d, 0xfc};
    EQUAL(checkmap_bitmap_sha256(bitmap, &read), 0);
    CHECK(memcmp(read.bytes, zeros, sizeof zeros) == 0);
    checkmap_bitmap_free(bitmap);

    const char *names[] = {"a", "b->c"};
    const size_t lens[] = {1, 4};
    EQUAL(checkmap_stored_merge(image, names, lens, 2, TEXT("a->b"), NULL), 0);
    EQUAL(checkmap_stored_summarize(image, TEXT("a->b"), &summary), 0);
    EQUAL(summary.dirty_bytes, 256 * 1024);
    INVALID(checkmap_stored_merge(image, names, lens, 0, TEXT("a->b"), NULL));
    INVALID(checkmap_stored_merge(image, NULL, lens, 2, TEXT("a->b"), NULL));
    checkmap_image_close(image);
    return 0;
}
