/* Owns the examples of the manual pages about running hypervisors: each stands below the names of the calls that it is for. */
#include <checkmap.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* EXAMPLE checkmap_machine_open checkmap_machine_disks checkmap_machine_image checkmap_machine_close checkmap_checkpoint_create_many */
/* Makes a checkpoint of the same moment on all disks of a running QEMU. */
static int checkpoint_of_all(const char *socket, const char *name)
{
    enum { MOST = 16 };
    struct checkmap_disk disks[MOST];
    checkmap_image *images[MOST];
    checkmap_machine *machine = NULL;
    size_t opened = 0, at;
    int status = checkmap_machine_open(socket, strlen(socket), NULL, &machine);
    int64_t count = status < 0 ? 0 : checkmap_machine_disks(machine, disks, MOST);
    for (at = 0; status == 0 && (int64_t)at < count && at < MOST; at++) {
        if (!(disks[at].flags & CHECKMAP_DISK_UNFIT)) {
            status = checkmap_machine_image(machine, disks[at].node, disks[at].node_len, &images[opened]);
            opened += status == 0;
        }
    }
    if (status == 0) {
        status = checkmap_checkpoint_create_many(images, opened, name, strlen(name), 0, NULL);
    }
    if (status < 0) {
        fprintf(stderr, "%s\n", checkmap_last_error());
    }
    while (opened > 0) {
        checkmap_image_close(images[--opened]);
    }
    checkmap_machine_close(machine);
    return status;
}

/* EXAMPLE checkmap_machine_open_libvirt */
/* How many disks a domain of libvirt has. */
static int64_t disks_of(const char *domain)
{
    static const char uri[] = "qemu:///system";
    checkmap_machine *machine = NULL;
    int status = checkmap_machine_open_libvirt(uri, sizeof uri - 1, domain, strlen(domain), NULL, &machine);
    int64_t count = status < 0 ? status : checkmap_machine_disks(machine, NULL, 0);
    checkmap_machine_close(machine);
    return count;
}

/* EXAMPLE checkmap_image_open_qmp */
/* What changed on one disk of a running QEMU between two checkpoints, read without stopping the machine. */
static int changed_on(const char *socket, const char *node, checkmap_bitmap **changed)
{
    struct checkmap_qmp_opts opts = CHECKMAP_QMP_OPTS_INIT;
    checkmap_image *image = NULL;
    int status;
    opts.timeout_ms = 5000;
    status = checkmap_image_open_qmp(socket, strlen(socket), node, strlen(node), &opts, &image);
    if (status == 0) {
        status = checkmap_diff(image, "monday", 6, "tuesday", 7, changed);
    }
    checkmap_image_close(image);
    return status;
}

/* EXAMPLE checkmap_checkpoint_delete_many */
/* Forgets two checkpoints on all disks of a machine, in one step. */
static int forget(checkmap_image *const *images, size_t count)
{
    const char *const names[] = {"monday", "tuesday"};
    const size_t lens[] = {6, 7};
    return checkmap_checkpoint_delete_many(images, count, names, lens, 2, NULL);
}

/* EXAMPLE checkmap_checkpoint_list_with */
/* How many checkpoints libvirt keeps in an image that has intervals of its own too. */
static int64_t of_libvirt(const checkmap_image *image)
{
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    opts.model = CHECKMAP_MODEL_CUMULATIVE;
    return checkmap_checkpoint_list_with(image, &opts, NULL, 0);
}

/* EXAMPLE checkmap_plan_qmp */
/* The QMP commands that make a checkpoint, for a program that sends them itself; the caller frees the JSON. */
static char *commands(const char *nodes_json, const char *node)
{
    const size_t node_len = strlen(node);
    struct checkmap_plan_request request = CHECKMAP_PLAN_REQUEST_INIT;
    int64_t need;
    char *json;
    request.verb = CHECKMAP_PLAN_CREATE;
    request.nodes = &node;
    request.node_lens = &node_len;
    request.node_count = 1;
    request.name = "monday";
    request.name_len = 6;
    need = checkmap_plan_qmp(nodes_json, strlen(nodes_json), &request, NULL, 0);
    json = need < 0 ? NULL : calloc((size_t)need + 1, 1);
    if (json != NULL) {
        checkmap_plan_qmp(nodes_json, strlen(nodes_json), &request, json, (size_t)need);
    }
    return json;
}
