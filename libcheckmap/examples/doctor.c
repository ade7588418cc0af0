/* Owns the examples of the manual pages about libvirt's notes and the doctor: each stands below the names of the calls that it is for. */
#include <checkmap.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* EXAMPLE checkmap_notes_read checkmap_notes_list checkmap_notes_free */
/* Prints the checkpoints of a domain, oldest first, each with the time when it was made. */
static int print_notes(const char *folder)
{
    checkmap_notes *notes = NULL;
    int status = checkmap_notes_read(folder, strlen(folder), &notes);
    int64_t count = status < 0 ? status : checkmap_notes_list(notes, NULL, 0), at;
    struct checkmap_noted *all = count > 0 ? calloc((size_t)count, sizeof *all) : NULL;
    count = all == NULL ? count : checkmap_notes_list(notes, all, (size_t)count);
    for (at = 0; all != NULL && at < count; at++) {
        printf("%.*s %" PRId64 "\n", (int)all[at].name_len, all[at].name, all[at].time);
    }
    free(all);
    checkmap_notes_free(notes);
    return count < 0 ? (int)count : 0;
}

/* EXAMPLE checkmap_notes_of_machine checkmap_image_follow */
/* Lets an image of a domain list libvirt's checkpoints in their order. */
static int follow(const checkmap_machine *machine, checkmap_image *image)
{
    checkmap_notes *notes = NULL;
    int status = checkmap_notes_of_machine(machine, NULL, &notes);
    if (status == 0) {
        status = checkmap_image_follow(image, notes);
    }
    checkmap_notes_free(notes);
    return status;
}

/* EXAMPLE checkmap_doctor checkmap_diagnosis_findings checkmap_diagnosis_free */
/* Prints what disagrees with libvirt's documents, and mends it; returns how much of it is left. */
static int64_t mend(checkmap_image *image, const char *folder)
{
    enum { MOST = 64 };
    struct checkmap_finding found[MOST];
    checkmap_diagnosis *diagnosis = NULL;
    int64_t left = checkmap_doctor(image, NULL, 0, folder, strlen(folder), CHECKMAP_DOCTOR_REPAIR, NULL, &diagnosis);
    int64_t count = left < 0 ? 0 : checkmap_diagnosis_findings(diagnosis, found, MOST), at;
    for (at = 0; at < count && at < MOST; at++) {
        printf("%.*s: %.*s%s\n", (int)found[at].disk_len, found[at].disk, (int)found[at].message_len,
               found[at].message, found[at].flags & CHECKMAP_FINDING_LEFT ? " (left)" : "");
    }
    checkmap_diagnosis_free(diagnosis);
    return left;
}

/* EXAMPLE checkmap_doctor_running checkmap_diagnosis_texts */
/* Prints the steps that would mend all disks of a machine. */
static void print_steps(const checkmap_machine *machine)
{
    enum { MOST = 64 };
    struct checkmap_opts opts = CHECKMAP_OPTS_INIT;
    struct checkmap_text steps[MOST];
    checkmap_diagnosis *diagnosis = NULL;
    int64_t count = 0, at;
    opts.flags = CHECKMAP_OPT_DRY_RUN;
    if (checkmap_doctor_running(machine, NULL, NULL, 0, CHECKMAP_DOCTOR_REPAIR, &opts, &diagnosis) >= 0) {
        count = checkmap_diagnosis_texts(diagnosis, CHECKMAP_DIAGNOSIS_STEPS, steps, MOST);
    }
    for (at = 0; at < count && at < MOST; at++) {
        printf("%.*s\n", (int)steps[at].len, steps[at].bytes);
    }
    checkmap_diagnosis_free(diagnosis);
}
