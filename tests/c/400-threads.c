/* Many threads ask the same handles at once. */
#include "check.h"
#include <pthread.h>

static checkmap_bitmap *bitmap;
static checkmap_image *image;
static checkmap_segment *segment;

static void *ask(void *unused)
{
    (void)unused;
    for (int round = 0; round < 20; round++) {
        EQUAL(checkmap_bitmap_count(bitmap), 256);
        EQUAL(checkmap_segment_count_range(segment, 0, CHECKMAP_TO_END), 256);
        struct checkmap_checkpoint list[3];
        EQUAL(checkmap_checkpoint_list(image, list, 3), 3);
        CHECK(list[0].name[0] == 'a' && list[0].dirty_bytes == 64 * 1024);
        checkmap_bitmap *diff = NULL;
        EQUAL(checkmap_diff(image, "a", 1, NULL, 0, &diff), 0);
        const checkmap_bitmap *sources[] = {bitmap, bitmap};
        checkmap_bitmap *all = NULL;
        EQUAL(checkmap_bitmap_union_new(sources, 2, 0, &all), 0);
        checkmap_bitmap_free(all);
        checkmap_bitmap_free(diff);
        FAILS(checkmap_bitmap_get(bitmap, UINT64_MAX), ERANGE, CHECKMAP_ERROR_OUT_OF_RANGE);
    }
    return NULL;
}

int main(void)
{
    bitmap = bitmap_of(GIB, 4 * KIB);
    EQUAL(checkmap_bitmap_set(bitmap, 0, MIB), 0);
    EQUAL(checkmap_segment_write(bitmap, TEXT("segment"), NULL), 0);
    EQUAL(checkmap_segment_open(TEXT("segment"), &segment), 0);
    image = image_open(image_copy("chain.qcow2"), 0);
    pthread_t threads[4];
    for (int at = 0; at < 4; at++) {
        CHECK(pthread_create(&threads[at], NULL, ask, NULL) == 0);
    }
    for (int at = 0; at < 4; at++) {
        CHECK(pthread_join(threads[at], NULL) == 0);
    }
    checkmap_bitmap_free(bitmap);
    checkmap_segment_close(segment);
    checkmap_image_close(image);
    return 0;
}
