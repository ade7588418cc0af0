/* Nothing is printed, whatever fails. */
#include "check.h"

int main(void)
{
    int out = open("out", O_RDWR | O_CREAT | O_TRUNC, 0644), kept[] = {dup(1), dup(2)};
    CHECK(dup2(out, 1) == 1 && dup2(out, 2) == 2);
    checkmap_image *image = NULL;
    checkmap_bitmap *bitmap = NULL;
    int failed = checkmap_image_open(TEXT("nowhere"), 0, &image) + checkmap_bitmap_new(1, 3, &bitmap);
    CHECK(dup2(kept[0], 1) == 1 && dup2(kept[1], 2) == 2);
    CHECK(failed < 0);
    struct stat file;
    CHECK(fstat(out, &file) == 0);
    EQUAL(file.st_size, 0);
    return 0;
}
