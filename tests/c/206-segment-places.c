/* A segment replaces a file and nothing else, keeps what the file was, and touches nobody's temporary file. */
#include "check.h"
#include <dirent.h>
#include <sys/socket.h>
#include <sys/un.h>

static checkmap_bitmap *bitmap;
static checkmap_segment *source;

static unsigned files(void)
{
    unsigned count = 0;
    DIR *folder = opendir(".");
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}

/* Both calls that write a file at a path. */
static int put(const char *path, int merge)
{
    const checkmap_segment *sources[] = {source};
    return merge ? checkmap_segment_merge(sources, 1, TEXT(path), NULL, NULL)
                 : checkmap_segment_write(bitmap, TEXT(path), NULL);
}

static void refused(const char *path)
{
    struct stat before, after;
    CHECK(lstat(path, &before) == 0);
    unsigned there = files();
    for (int merge = 0; merge < 2; merge++) {
        INVALID(put(path, merge));
        CHECK(strncmp(checkmap_last_error(), path, strlen(path)) == 0);
        CHECK(strstr(checkmap_last_error(), "cannot be replaced") != NULL);
        CHECK(lstat(path, &after) == 0 && before.st_ino == after.st_ino && before.st_mode == after.st_mode &&
              before.st_size == after.st_size);
    }
    EQUAL(files(), there);
}

static void replaced(const char *path)
{
    for (int merge = 0; merge < 2; merge++) {
        EQUAL(put(path, merge), 0);
        checkmap_segment *there = NULL;
        EQUAL(checkmap_segment_open(TEXT(path), &there), 0);
        EQUAL(checkmap_segment_count(there), 3);
        checkmap_segment_close(there);
    }
}

int main(void)
{
    bitmap = bitmap_of(MIB, KIB);
    EQUAL(checkmap_bitmap_set(bitmap, 0, 3 * KIB), 0);
    EQUAL(checkmap_segment_write(bitmap, TEXT("source"), NULL), 0);
    EQUAL(checkmap_segment_open(TEXT("source"), &source), 0);

    CHECK(mkdir("folder", 0755) == 0 && mkfifo("pipe", 0644) == 0 && symlink("/dev/null", "device") == 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    refused("folder");
    refused("pipe");
    refused("device");
    refused("socket");
    refused("/dev/null");
    if (geteuid() == 0) {
        /* A node of our own: the one of the system must not be at stake. */
        if (mknod("node", S_IFCHR | 0666, 0x103) == 0) {
            refused("node");
        }
    }

    image_copy("plain.qcow2");
    CHECK(symlink("plain.qcow2", "image") == 0 && link("plain.qcow2", "same") == 0);
    checkmap_image *image = image_open("plain.qcow2", CHECKMAP_OPEN_RDWR);
    refused("plain.qcow2");
    refused("image");
    refused("same");
    checkmap_image_close(image);
    refused("plain.qcow2");

    /* Links are followed, to nothing too. */
    CHECK(symlink("folder/new", "link") == 0);
    replaced("link");
    struct stat file;
    CHECK(lstat("link", &file) == 0 && S_ISLNK(file.st_mode));
    CHECK(lstat("folder/new", &file) == 0 && S_ISREG(file.st_mode));

    /* Mode and owner stay; a new file has what the mask leaves. */
    CHECK(chmod("folder/new", 0640) == 0);
    int given = chown("folder/new", 1234, 4321) == 0;
    replaced("link");
    CHECK(stat("link", &file) == 0 && (file.st_mode & 07777) == 0640);
    CHECK(!given || (file.st_uid == 1234 && file.st_gid == 4321));
    umask(027);
    replaced("masked");
    CHECK(stat("masked", &file) == 0 && (file.st_mode & 07777) == 0640);

    char name[256];
    memset(name, 'n', sizeof name);
    name[250] = 0;
    replaced(name);

    /* The names that such a file had once, for the first numbers of this process. */
    for (int number = 0; number < 20; number++) {
        snprintf(name, sizeof name, ".taken.%d-%d", (int)getpid(), number);
        int taken = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
        CHECK(taken >= 0 && write(taken, "mine", 4) == 4 && close(taken) == 0);
    }
    unsigned there = files();
    replaced("taken");
    EQUAL(files(), there + 1);
    for (int number = 0; number < 20; number++) {
        snprintf(name, sizeof name, ".taken.%d-%d", (int)getpid(), number);
        CHECK(stat(name, &file) == 0 && file.st_size == 4);
    }

    EQUAL(put("absent/file", 0), -ENOENT);
    EQUAL(put("source/file", 1), -ENOTDIR);
    CHECK(strstr(checkmap_last_error(), "os error") == NULL);
    close(listener);
    checkmap_segment_close(source);
    checkmap_bitmap_free(bitmap);
    return 0;
}
