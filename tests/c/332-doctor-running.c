/* The doctor on the disks of a running machine, in one step; there is no libvirt to be asked for notes. */
#include "machine.h"

int main(void)
{
    daemon_start();
    checkmap_machine *machine = machine_open();
    checkmap_notes *notes = NULL;
    FAILS(checkmap_notes_of_machine(machine, NULL, &notes), ENOTSUP, CHECKMAP_ERROR_UNSUPPORTED);
    INVALID(checkmap_notes_of_machine(NULL, NULL, &notes));
    CHECK(notes == NULL);

    checkmap_diagnosis *diagnosis = NULL;
    const char *nodes[2] = {"d1", "d1"};
    const size_t lens[2] = {2, 2};
    const size_t none[1] = {0};
    EQUAL(checkmap_doctor_running(machine, NULL, NULL, 0, CHECKMAP_DOCTOR_LOOK, NULL, &diagnosis), 0);
    EQUAL(checkmap_diagnosis_findings(diagnosis, NULL, 0), 0);
    checkmap_diagnosis_free(diagnosis);
    diagnosis = NULL;
    INVALID(checkmap_doctor_running(machine, nodes, lens, 2, CHECKMAP_DOCTOR_LOOK, NULL, &diagnosis));
    INVALID(checkmap_doctor_running(machine, nodes, lens, 1, 9, NULL, &diagnosis));
    INVALID(checkmap_doctor_running(machine, nodes, lens, 1, CHECKMAP_DOCTOR_LOOK, NULL, NULL));
    INVALID(checkmap_doctor_running(NULL, nodes, lens, 1, CHECKMAP_DOCTOR_LOOK, NULL, &diagnosis));
    FAILS(checkmap_doctor_running(machine, nodes, none, 1, CHECKMAP_DOCTOR_LOOK, NULL, &diagnosis), EINVAL, CHECKMAP_ERROR_INVALID_NAME);
    nodes[1] = "\xff\xff";
    FAILS(checkmap_doctor_running(machine, nodes, lens, 2, CHECKMAP_DOCTOR_LOOK, NULL, &diagnosis), EINVAL, CHECKMAP_ERROR_INVALID_NAME);
    nodes[0] = "dx";
    FAILS(checkmap_doctor_running(machine, nodes, lens, 1, CHECKMAP_DOCTOR_LOOK, NULL, &diagnosis), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    CHECK(diagnosis == NULL);
    nodes[0] = "d1";

    /* A link is lost; what lies before it goes, and tracking goes on. */
    checkmap_image *image = machine_image(machine, "d1");
    EQUAL(checkmap_stored_drop(image, TEXT("a->b"), NULL), 0);
    checkmap_image_close(image);
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    struct checkmap_finding found[2];
    struct checkmap_text steps[4];
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    EQUAL(checkmap_doctor_running(machine, nodes, lens, 1, CHECKMAP_DOCTOR_REPAIR, &opts, &diagnosis), 1);
    EQUAL(checkmap_diagnosis_findings(diagnosis, found, 2), 1);
    CHECK(found[0].kind_len == 3 && memcmp(found[0].kind, "gap", 3) == 0);
    int64_t count = checkmap_diagnosis_texts(diagnosis, CHECKMAP_DIAGNOSIS_STEPS, steps, 4);
    CHECK(count > 0);
    checkmap_diagnosis_free(diagnosis);
    EQUAL(checkmap_doctor_running(machine, NULL, NULL, 0, CHECKMAP_DOCTOR_REPAIR, NULL, &diagnosis), 0);
    EQUAL(checkmap_diagnosis_texts(diagnosis, CHECKMAP_DIAGNOSIS_STEPS, steps, 4), count);
    checkmap_diagnosis_free(diagnosis);
    image = machine_image(machine, "d1");
    checkmap_bitmap *diff = NULL;
    EQUAL(checkmap_checkpoint_create(image, TEXT("d"), 0), 0);
    EQUAL(checkmap_diff(image, TEXT("c"), TEXT("d"), &diff), 0);
    checkmap_bitmap_free(diff);
    checkmap_image_close(image);
    checkmap_machine_close(machine);
    daemon_quit();
    return 0;
}
