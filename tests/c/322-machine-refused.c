/* A machine that cannot be reached, disks that are not there, and images that cannot change together. */
#include "machine.h"

int main(void)
{
    checkmap_machine *machine = NULL;
    checkmap_image *image = NULL;
    FAILS(checkmap_machine_open(TEXT("nowhere"), NULL, &machine), ENOENT, CHECKMAP_ERROR_IO);
    FAILS(checkmap_image_open_qmp(TEXT("nowhere"), TEXT("d0"), NULL, &image), ENOENT, CHECKMAP_ERROR_IO);
    INVALID(checkmap_machine_open(NULL, 3, NULL, &machine));
    INVALID(checkmap_machine_open(TEXT("qmp"), NULL, NULL));
    INVALID(checkmap_machine_disks(NULL, NULL, 0));
    INVALID(checkmap_machine_image(NULL, TEXT("d0"), &image));
    INVALID(checkmap_image_open_qmp(TEXT("qmp"), NULL, 2, NULL, &image));
    INVALID(checkmap_image_open_qmp(TEXT("qmp"), TEXT("d0"), NULL, NULL));
    checkmap_machine_close(NULL);
    /* A socket that nobody listens on any more. */
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "dead"};
    int dead = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(dead, (struct sockaddr *)&address, sizeof address) == 0);
    close(dead);
    FAILS(checkmap_machine_open(TEXT("dead"), NULL, &machine), ECONNREFUSED, CHECKMAP_ERROR_IO);

    daemon_start();
    machine = machine_open();
    INVALID(checkmap_machine_image(machine, NULL, 2, &image));
    FAILS(checkmap_machine_image(machine, TEXT("d7"), &image), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    CHECK(image == NULL);
    FAILS(checkmap_machine_image(machine, "\xff", 1, &image), EINVAL, CHECKMAP_ERROR_INVALID_NAME);
    INVALID(checkmap_machine_image((const checkmap_machine *)address.sun_path, TEXT("d0"), &image));
    /* The monitor has its client. */
    struct checkmap_qmp_opts opts = CHECKMAP_QMP_OPTS_INIT;
    opts.timeout_ms = 200;
    checkmap_machine *second = NULL;
    FAILS(checkmap_machine_open(TEXT("qmp"), &opts, &second), EBUSY, CHECKMAP_ERROR_IN_USE);
    FAILS(checkmap_image_open_qmp(TEXT("qmp"), TEXT("d0"), &opts, &image), EBUSY, CHECKMAP_ERROR_IN_USE);
    CHECK(second == NULL && image == NULL);
    opts.size = 4;
    INVALID(checkmap_machine_open(TEXT("qmp"), &opts, &second));

    checkmap_image *images[] = {machine_image(machine, "d0"), NULL};
    INVALID(checkmap_checkpoint_create_many(NULL, 2, TEXT("m"), 0, NULL));
    INVALID(checkmap_checkpoint_create_many(images, 0, TEXT("m"), 0, NULL));
    INVALID(checkmap_checkpoint_create_many(images, 2, TEXT("m"), 0, NULL));
    images[1] = images[0];
    INVALID(checkmap_checkpoint_create_many(images, 2, TEXT("m"), 0, NULL));
    INVALID(checkmap_checkpoint_create_many(images, 1, NULL, 1, 0, NULL));
    INVALID(checkmap_checkpoint_create_many(images, 1, TEXT("m"), 3, NULL));
    INVALID(checkmap_checkpoint_delete_many(images, 1, NULL, NULL, 1, NULL));
    INVALID(checkmap_checkpoint_delete_many(images, 1, NULL, NULL, 0, NULL));
    /* The same disk by two handles; a disk of the machine with a file. */
    images[1] = machine_image(machine, "d0");
    INVALID(checkmap_checkpoint_create_many(images, 2, TEXT("m"), 0, NULL));
    checkmap_image_close(images[1]);
    EQUAL(system("cp plain.qcow2 file.qcow2"), 0);
    images[1] = image_open("file.qcow2", CHECKMAP_OPEN_RDWR);
    FAILS(checkmap_checkpoint_create_many(images, 2, TEXT("m"), 0, NULL), ENOTSUP, CHECKMAP_ERROR_UNSUPPORTED);
    EQUAL(checkmap_checkpoint_list(images[0], NULL, 0), 0);
    /* One image needs no machine. */
    EQUAL(checkmap_checkpoint_create_many(images + 1, 1, TEXT("m"), 0, NULL), 0);
    EQUAL(checkmap_checkpoint_list(images[1], NULL, 0), 1);
    checkmap_image_close(images[1]);

    /* The hypervisor dies: an error, and no hang. */
    daemon_kill();
    CHECK(checkmap_checkpoint_create_many(images, 1, TEXT("m"), 0, NULL) < 0);
    checkmap_image_close(images[0]);
    checkmap_machine_close(machine);
    daemon_wait();

    /* A handle that was handed out for one disk. */
    daemon_start();
    EQUAL(checkmap_image_open_qmp(TEXT("qmp"), TEXT("d1"), NULL, &image), 0);
    EQUAL(checkmap_checkpoint_create(image, TEXT("m"), 0), 0);
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 4);
    checkmap_image_close(image);
    return 0;
}
