/* What an image is. */
#include "check.h"

int main(void)
{
    checkmap_image *image = image_open(image_copy("chain.qcow2"), CHECKMAP_OPEN_RDONLY);
    struct checkmap_image_info info = CHECKMAP_IMAGE_INFO_INIT;
    EQUAL(checkmap_image_get_info(image, &info), 0);
    CHECK(strcmp(info.format, "qcow2") == 0);
    EQUAL(info.format_version, 3);
    EQUAL(info.disk_size, 64 * MIB);
    EQUAL(info.cluster_size, 64 * KIB);
    EQUAL(info.default_granularity, 64 * KIB);
    EQUAL(info.model, CHECKMAP_MODEL_INTERVAL);
    EQUAL(info.flags, 0);
    CHECK(info.backing_file == NULL && info.data_file == NULL);
    EQUAL(checkmap_image_trouble(image), 0);
    EQUAL(checkmap_image_warnings(image), 0);
    CHECK(checkmap_image_warning(image, 0) == NULL);
    info.size = 8;
    INVALID(checkmap_image_get_info(image, &info));
    INVALID(checkmap_image_get_info(image, NULL));
    checkmap_image_close(image);

    image_copy("overlay.qcow2");
    image = image_open("overlay.qcow2", 0);
    info.size = sizeof info;
    EQUAL(checkmap_image_get_info(image, &info), 0);
    CHECK(info.backing_file_len == 11 && memcmp(info.backing_file, "chain.qcow2", 11) == 0);
    checkmap_image_close(image);
    return 0;
}
