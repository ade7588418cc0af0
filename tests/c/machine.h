/* A qemu-storage-daemon in the folder of the test, with the disks d0 (an empty image) and d1 (one with the checkpoints a, b and
 * c): its monitor is "qmp", and the NBD server that the test writes through is "writer". */
#ifndef MACHINE_H
#define MACHINE_H

#include "check.h"
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

static inline int daemon_pid(void)
{
    int pid = 0;
    FILE *file = fopen("pid", "r");
    if (file != NULL) {
        CHECK(fscanf(file, "%d", &pid) == 1);
        fclose(file);
    }
    return pid;
}

static inline void daemon_kill(void)
{
    int pid = daemon_pid();
    if (pid > 0) {
        kill(pid, SIGKILL);
    }
}

/* It runs when this returns. */
static inline void daemon_start(void)
{
    image_copy("plain.qcow2");
    image_copy("chain.qcow2");
    CHECK(atexit(daemon_kill) == 0);
    EQUAL(system("qemu-storage-daemon --daemonize --pidfile pid"
                 " --chardev socket,id=m,path=qmp,server=on,wait=off --monitor m"
                 " --blockdev file,filename=plain.qcow2,node-name=d0-file --blockdev qcow2,file=d0-file,node-name=d0"
                 " --blockdev file,filename=chain.qcow2,node-name=d1-file --blockdev qcow2,file=d1-file,node-name=d1"
                 " --nbd-server addr.type=unix,addr.path=writer"
                 " --export nbd,id=w0,node-name=d0,name=d0,writable=on"
                 " --export nbd,id=w1,node-name=d1,name=d1,writable=on"),
          0);
}

/* Writes as a guest does. */
static inline void daemon_write(const char *disk, const char *what)
{
    char command[256];
    snprintf(command, sizeof command, "qemu-io -f raw -c 'write %s' 'nbd+unix:///%s?socket=writer' >/dev/null", what, disk);
    EQUAL(system(command), 0);
}

/* Waits until it has let go of its images. */
static inline void daemon_wait(void)
{
    for (int tries = 0;; tries++) {
        checkmap_image *images[2] = {NULL, NULL};
        int both = checkmap_image_open(TEXT("plain.qcow2"), CHECKMAP_OPEN_RDWR, &images[0]) == 0 &&
                   checkmap_image_open(TEXT("chain.qcow2"), CHECKMAP_OPEN_RDWR, &images[1]) == 0;
        checkmap_image_close(images[0]);
        checkmap_image_close(images[1]);
        if (both) {
            break;
        }
        CHECK(tries < 6000);
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
}

/* Ends it as an operator does; its images can be opened afterwards. */
static inline void daemon_quit(void)
{
    CHECK(kill(daemon_pid(), SIGTERM) == 0);
    daemon_wait();
}

static inline checkmap_machine *machine_open(void)
{
    struct checkmap_qmp_opts opts = CHECKMAP_QMP_OPTS_INIT;
    opts.nbd_socket = "writer";
    opts.nbd_socket_len = 6;
    checkmap_machine *machine = NULL;
    EQUAL(checkmap_machine_open(TEXT("qmp"), &opts, &machine), 0);
    return machine;
}

static inline checkmap_image *machine_image(const checkmap_machine *machine, const char *node)
{
    checkmap_image *image = NULL;
    EQUAL(checkmap_machine_image(machine, TEXT(node), &image), 0);
    return image;
}

#endif
