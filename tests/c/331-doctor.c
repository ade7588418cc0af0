/* libvirt's notes are read and followed; the doctor finds what disagrees with them, mends what it lists, and converts. */
#include "check.h"

static void note(const char *name, const char *parent, int time)
{
    char path[64];
    snprintf(path, sizeof path, "notes/%s.xml", name);
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    fprintf(file, "<domaincheckpoint><name>%s</name>", name);
    if (parent != NULL) {
        fprintf(file, "<parent><name>%s</name></parent>", parent);
    }
    fprintf(file, "<creationTime>%d</creationTime><disks><disk name='vda' checkpoint='bitmap' bitmap='%s'/></disks></domaincheckpoint>",
            time, name);
    CHECK(fclose(file) == 0);
}

static int is(const char *bytes, size_t len, const char *expected)
{
    return len == strlen(expected) && (len == 0 ? bytes == NULL : memcmp(bytes, expected, len) == 0);
}

static int ends(void *told, const char *phase, uint64_t done, uint64_t total)
{
    (void)told, (void)phase, (void)done, (void)total;
    return 1;
}

int main(void)
{
    image_copy("plain.qcow2");
    CHECK(mkdir("notes", 0755) == 0);
    /* By their names young comes behind xold; by libvirt's notes too, by the bits nobody can tell. */
    EQUAL(system("qemu-img bitmap --add plain.qcow2 young && qemu-img bitmap --add plain.qcow2 aged"
                 " && qemu-img bitmap --add plain.qcow2 libvirt-tmp-activewrite"),
          0);
    note("young", "aged", 1700000100);
    note("aged", NULL, 1700000000);
    note("lost", "young", 1700000200);

    checkmap_notes *notes = NULL;
    struct checkmap_noted noted[4];
    INVALID(checkmap_notes_read("", 0, &notes));
    INVALID(checkmap_notes_read(TEXT("notes"), NULL));
    FAILS(checkmap_notes_read(TEXT("nowhere"), &notes), ENOENT, CHECKMAP_ERROR_IO);
    CHECK(notes == NULL);
    EQUAL(checkmap_notes_read(TEXT("notes"), &notes), 0);
    EQUAL(checkmap_notes_list(notes, NULL, 0), 3);
    EQUAL(checkmap_notes_list(notes, noted, 4), 3);
    CHECK(is(noted[0].name, noted[0].name_len, "aged") && is(noted[0].parent, noted[0].parent_len, "") && noted[0].time == 1700000000 && noted[0].disk_count == 1);
    CHECK(is(noted[1].name, noted[1].name_len, "young") && is(noted[1].parent, noted[1].parent_len, "aged") && noted[1].reserved[3] == 0);
    INVALID(checkmap_notes_list(NULL, NULL, 0));
    INVALID(checkmap_notes_list(notes, noted, 0));

    checkmap_image *image = image_open("plain.qcow2", CHECKMAP_OPEN_RDWR);
    struct checkmap_checkpoint list[4];
    EQUAL(checkmap_checkpoint_list(image, list, 4), 2);
    CHECK(list[0].flags & CHECKMAP_CHECKPOINT_UNORDERED);
    INVALID(checkmap_image_follow(image, NULL));
    INVALID(checkmap_image_follow(NULL, notes));
    EQUAL(checkmap_image_follow(image, notes), 0);
    checkmap_notes_free(notes);
    checkmap_notes_free(NULL);
    EQUAL(checkmap_checkpoint_list(image, list, 4), 2);
    CHECK(list[0].name_len == 4 && memcmp(list[0].name, "aged", 4) == 0 && list[0].parent == NULL);
    CHECK(list[1].parent_len == 4 && memcmp(list[1].parent, "aged", 4) == 0);
    CHECK(!((list[0].flags | list[1].flags) & CHECKMAP_CHECKPOINT_UNORDERED));

    /* A document that is none is an error with nothing changed. */
    checkmap_diagnosis *diagnosis = NULL;
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    FILE *file = fopen("notes/hostile.xml", "w");
    CHECK(file != NULL && fputs("<!DOCTYPE a [<!ENTITY b 'c'>]><domaincheckpoint><name>&b;</name></domaincheckpoint>", file) >= 0);
    CHECK(fclose(file) == 0);
    FAILS(checkmap_notes_read(TEXT("notes"), &notes), EBADMSG, CHECKMAP_ERROR_DAMAGED);
    FAILS(checkmap_doctor(image, NULL, 0, TEXT("notes"), CHECKMAP_DOCTOR_REPAIR, NULL, &diagnosis), EBADMSG, CHECKMAP_ERROR_DAMAGED);
    CHECK(unlink("notes/hostile.xml") == 0);
    note("circle", "circle", 1);
    FAILS(checkmap_notes_read(TEXT("notes"), &notes), EPROTO, CHECKMAP_ERROR_BROKEN_CHAIN);
    CHECK(unlink("notes/circle.xml") == 0);

    INVALID(checkmap_doctor(image, NULL, 0, TEXT("notes"), 3, NULL, &diagnosis));
    INVALID(checkmap_doctor(image, "", 0, TEXT("notes"), CHECKMAP_DOCTOR_LOOK, NULL, &diagnosis));
    INVALID(checkmap_doctor(image, NULL, 0, TEXT("notes"), CHECKMAP_DOCTOR_LOOK, NULL, NULL));
    INVALID(checkmap_doctor(NULL, NULL, 0, NULL, 0, CHECKMAP_DOCTOR_LOOK, NULL, &diagnosis));
    FAILS(checkmap_doctor(image, TEXT("\xff"), TEXT("notes"), CHECKMAP_DOCTOR_LOOK, NULL, &diagnosis), EINVAL,
          CHECKMAP_ERROR_INVALID_NAME);
    opts.progress = ends;
    FAILS(checkmap_doctor(image, NULL, 0, TEXT("notes"), CHECKMAP_DOCTOR_REPAIR, &opts, &diagnosis), ECANCELED,
          CHECKMAP_ERROR_CANCELLED);
    opts.progress = NULL;
    CHECK(diagnosis == NULL);

    /* A dry run lists the steps of the repair, and does none. */
    struct checkmap_finding found[8];
    struct checkmap_text steps[8];
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    for (int round = 0; round < 2; round++) {
        EQUAL(checkmap_doctor(image, NULL, 0, TEXT("notes"), CHECKMAP_DOCTOR_REPAIR, round == 0 ? &opts : NULL, &diagnosis),
              round == 0 ? 2 : 0);
        EQUAL(checkmap_diagnosis_findings(diagnosis, NULL, 0), 2);
        EQUAL(checkmap_diagnosis_findings(diagnosis, found, 8), 2);
        CHECK(is(found[0].kind, found[0].kind_len, "metadata-without-bitmap") && is(found[0].name, found[0].name_len, "lost") && is(found[0].disk, found[0].disk_len, "vda"));
        CHECK(is(found[1].kind, found[1].kind_len, "leftover") && found[1].message_len > 0 && found[1].cost_len > 0 && found[1].mend_len > 0);
        EQUAL(found[0].flags | found[1].flags, 0);
        EQUAL(checkmap_diagnosis_texts(diagnosis, CHECKMAP_DIAGNOSIS_STEPS, NULL, 0), 2);
        EQUAL(checkmap_diagnosis_texts(diagnosis, CHECKMAP_DIAGNOSIS_STEPS, steps, 8), 2);
        CHECK(is(steps[0].bytes, steps[0].len, "vda: remove 'libvirt-tmp-activewrite'"));
        CHECK(is(steps[1].bytes, steps[1].len, "let libvirt forget the checkpoint 'lost'"));
        EQUAL(checkmap_diagnosis_texts(diagnosis, CHECKMAP_DIAGNOSIS_REMARKS, steps, 8), 0);
        INVALID(checkmap_diagnosis_texts(diagnosis, 9, steps, 8));
        INVALID(checkmap_diagnosis_texts(NULL, CHECKMAP_DIAGNOSIS_STEPS, steps, 8));
        INVALID(checkmap_diagnosis_findings(NULL, found, 8));
        checkmap_diagnosis_free(diagnosis);
        diagnosis = NULL;
        CHECK((access("notes/lost.xml", F_OK) == 0) == (round == 0));
        EQUAL(checkmap_stored_list(image, NULL, 0), 3 - round);
    }
    EQUAL(checkmap_doctor(image, NULL, 0, TEXT("notes"), CHECKMAP_DOCTOR_LOOK, NULL, &diagnosis), 0);
    checkmap_diagnosis_free(diagnosis);
    /* Without libvirt's notes. */
    EQUAL(checkmap_doctor(image, NULL, 0, NULL, 0, CHECKMAP_DOCTOR_LOOK, NULL, &diagnosis), 0);
    checkmap_diagnosis_free(diagnosis);
    checkmap_diagnosis_free(NULL);

    /* What nobody can mend is left. */
    EQUAL(system("cp plain.qcow2 strange.qcow2 && qemu-img bitmap --add --disable strange.qcow2 whose"), 0);
    checkmap_image *strange = image_open("strange.qcow2", CHECKMAP_OPEN_RDWR);
    EQUAL(checkmap_doctor(strange, TEXT("vda"), TEXT("notes"), CHECKMAP_DOCTOR_REPAIR, NULL, &diagnosis), 1);
    EQUAL(checkmap_diagnosis_findings(diagnosis, found, 8), 2);
    CHECK(is(found[0].kind, found[0].kind_len, "stranger") && is(found[0].mend, found[0].mend_len, "") && found[0].flags == 0);
    CHECK(is(found[1].kind, found[1].kind_len, "stranger") && found[1].flags == CHECKMAP_FINDING_LEFT);
    checkmap_diagnosis_free(diagnosis);
    checkmap_image_close(strange);
    /* Nobody knows which disk it is. */
    note("both", NULL, 5);
    EQUAL(system("sed -i s/vda/vdb/ notes/both.xml"), 0);
    FAILS(checkmap_doctor(image, NULL, 0, TEXT("notes"), CHECKMAP_DOCTOR_LOOK, NULL, &diagnosis), ENOENT,
          CHECKMAP_ERROR_NOT_FOUND);
    CHECK(unlink("notes/both.xml") == 0);

    EQUAL(checkmap_doctor(image, TEXT("vda"), TEXT("notes"), CHECKMAP_DOCTOR_TO_INTERVAL, NULL, &diagnosis), 0);
    EQUAL(checkmap_diagnosis_texts(diagnosis, CHECKMAP_DIAGNOSIS_STEPS, steps, 8), 4);
    CHECK(is(steps[0].bytes, steps[0].len, "vda: stop recording in 'aged'") && is(steps[1].bytes, steps[1].len, "vda: rename 'young' to 'aged->young'"));
    EQUAL(checkmap_diagnosis_texts(diagnosis, CHECKMAP_DIAGNOSIS_REMARKS, steps, 8), 1);
    checkmap_diagnosis_free(diagnosis);
    CHECK(access("notes/aged.xml", F_OK) != 0 && access("notes/young.xml", F_OK) != 0);
    struct checkmap_image_info info = CHECKMAP_IMAGE_INFO_INIT;
    EQUAL(checkmap_image_get_info(image, &info), 0);
    EQUAL(info.model, CHECKMAP_MODEL_INTERVAL);
    checkmap_image_close(image);
    EQUAL(system("qemu-img bitmap --add plain.qcow2 libvirt-tmp-activewrite"), 0);
    image = image_open("plain.qcow2", 0);
    FAILS(checkmap_doctor(image, NULL, 0, NULL, 0, CHECKMAP_DOCTOR_REPAIR, NULL, &diagnosis), EROFS, CHECKMAP_ERROR_READ_ONLY);
    checkmap_image_close(image);
    return 0;
}
