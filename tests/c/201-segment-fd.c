/* A segment is written to and read from descriptors, which stay the caller's. */
#include "check.h"

int main(void)
{
    checkmap_bitmap *bitmap = bitmap_of(GIB, 4 * KIB);
    checkmap_segment *segment = NULL;
    EQUAL(checkmap_bitmap_set(bitmap, 0, MIB), 0);
    int fd = open("segment", O_RDWR | O_CREAT | O_TRUNC, 0644);
    EQUAL(checkmap_segment_write_fd(bitmap, fd, NULL), 0);
    EQUAL(checkmap_segment_open_fd(fd, &segment), 0);
    CHECK(close(fd) == 0);
    EQUAL(checkmap_segment_count(segment), 256);
    checkmap_segment_close(segment);
    EQUAL(checkmap_segment_open_fd(fd, &segment), -EBADF);
    EQUAL(checkmap_segment_write_fd(bitmap, -5, NULL), -EBADF);
    CHECK(segment == NULL);
    checkmap_bitmap_free(bitmap);
    return 0;
}
