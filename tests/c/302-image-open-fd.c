/* An image is opened by a descriptor, which stays the caller's. */
#include "check.h"

int main(void)
{
    image_copy("chain.qcow2");
    checkmap_image *image = NULL;
    int fd = open("chain.qcow2", O_RDONLY);
    EQUAL(checkmap_image_open_fd(fd, 0, &image), 0);
    CHECK(close(fd) == 0);
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 3);
    checkmap_image_close(image);
    EQUAL(checkmap_image_open_fd(fd, 0, &image), -EBADF);
    EQUAL(checkmap_image_open_fd(-1, 0, &image), -EBADF);

    fd = open("chain.qcow2", O_RDONLY);
    FAILS(checkmap_image_open_fd(fd, CHECKMAP_OPEN_RDWR, &image), EROFS, CHECKMAP_ERROR_READ_ONLY);
    close(fd);
    fd = open("chain.qcow2", O_WRONLY);
    INVALID(checkmap_image_open_fd(fd, CHECKMAP_OPEN_RDWR, &image));
    close(fd);
    int refused[] = {O_RDWR | O_APPEND, O_RDONLY | O_APPEND, O_PATH};
    for (size_t at = 0; at < sizeof refused / sizeof *refused; at++) {
        fd = open("chain.qcow2", refused[at]);
        CHECK(fd >= 0);
        INVALID(checkmap_image_open_fd(fd, CHECKMAP_OPEN_RDWR, &image));
        INVALID(checkmap_image_open_fd(fd, CHECKMAP_OPEN_RDONLY, &image));
        close(fd);
    }
    fd = open("chain.qcow2", O_RDONLY);
    EQUAL(checkmap_image_open_fd(fd, 0, &image), 0);
    FAILS(checkmap_image_upgrade(image), EROFS, CHECKMAP_ERROR_READ_ONLY);
    checkmap_image_close(image);
    close(fd);
    /* Two handles on one descriptor exclude each other, and the end of one leaves the other locked. */
    checkmap_image *other = NULL;
    fd = open("chain.qcow2", O_RDWR);
    EQUAL(checkmap_image_open_fd(fd, 0, &image), 0);
    EQUAL(checkmap_image_open_fd(fd, 0, &other), 0);
    checkmap_image_close(other);
    FAILS(checkmap_image_open_fd(fd, CHECKMAP_OPEN_RDWR, &other), EBUSY, CHECKMAP_ERROR_IN_USE);
    checkmap_image_close(image);
    CHECK(lseek(fd, 11, SEEK_SET) == 11);
    EQUAL(checkmap_image_open_fd(fd, CHECKMAP_OPEN_RDWR, &image), 0);
    CHECK(lseek(fd, 0, SEEK_CUR) == 11);
    EQUAL(checkmap_checkpoint_create(image, TEXT("d"), 0), 0);
    checkmap_image_close(image);
    /* The caller's descriptor is as open as it was. */
    CHECK(fcntl(fd, F_GETFD) >= 0);
    close(fd);
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    CHECK(checkmap_image_open_fd(pipes[0], 0, &image) < 0);
    CHECK(image == NULL);
    return 0;
}
