/* Paths and flags that cannot be. */
#include "check.h"

int main(void)
{
    checkmap_image *image = NULL;
    image_copy("chain.qcow2");
    INVALID(checkmap_image_open(TEXT("chain.qcow2"), 0x100, &image));
    INVALID(checkmap_image_open(TEXT("chain.qcow2"), CHECKMAP_OPEN_RDWR | CHECKMAP_OPEN_FORCE_SHARE, &image));
    INVALID(checkmap_image_open("", 0, 0, &image));
    INVALID(checkmap_image_open(NULL, 5, 0, &image));
    INVALID(checkmap_image_open("a\0b", 3, 0, &image));
    FAILS(checkmap_image_open("a", SIZE_MAX, 0, &image), ENAMETOOLONG, CHECKMAP_ERROR_NAME_TOO_LONG);
    INVALID(checkmap_image_open(TEXT("chain.qcow2"), 0, NULL));
    EQUAL(checkmap_image_open(TEXT("nowhere"), 0, &image), -ENOENT);
    CHECK(strstr(checkmap_last_error(), "nowhere") != NULL);
    /* No NUL is needed behind the path. */
    EQUAL(checkmap_image_open("chain.qcow2 and more", 11, 0, &image), 0);
    checkmap_image_close(image);
    /* Other bytes than UTF-8. */
    CHECK(rename("chain.qcow2", "\xff\xfe") == 0);
    EQUAL(checkmap_image_open("\xff\xfe", 2, 0, &image), 0);
    checkmap_image_close(image);
    int fd = open("raw", O_RDWR | O_CREAT, 0644);
    CHECK(ftruncate(fd, 65536) == 0);
    FAILS(checkmap_image_open(TEXT("raw"), 0, &image), ENOTSUP, CHECKMAP_ERROR_UNKNOWN_FORMAT);
    CHECK(image == NULL);
    EQUAL(checkmap_image_open(TEXT("/dev/null"), 0, &image), -EIO);
    EQUAL(checkmap_image_open(TEXT("."), CHECKMAP_OPEN_RDWR, &image), -EISDIR);
    EQUAL(checkmap_image_open(TEXT("."), CHECKMAP_OPEN_RDONLY, &image), -EISDIR);
    close(fd);
    return 0;
}
