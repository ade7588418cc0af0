/* Loaded, used and let go of in a thread, a thousand times. */
#include "check.h"
#include <dlfcn.h>
#include <pthread.h>

static void *load(void *library)
{
    for (int round = 0; round < 1000; round++) {
        void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
        if (handle == NULL) {
            fprintf(stderr, "%s\n", dlerror());
            exit(1);
        }
        /* A function pointer by way of a copy, as POSIX would have it. */
        int (*new)(uint64_t, uint64_t, checkmap_bitmap **) = NULL;
        void (*end)(checkmap_bitmap *) = NULL;
        const char *(*error)(void) = NULL;
        void *symbols[] = {dlsym(handle, "checkmap_bitmap_new"), dlsym(handle, "checkmap_bitmap_free"),
                           dlsym(handle, "checkmap_last_error")};
        memcpy(&new, &symbols[0], sizeof new);
        memcpy(&end, &symbols[1], sizeof end);
        memcpy(&error, &symbols[2], sizeof error);
        checkmap_bitmap *bitmap = NULL, *none = NULL;
        if (new(1 << 20, 65536, &bitmap) != 0 || new(1, 3, &none) != -EINVAL || error()[0] == 0) {
            exit(2);
        }
        end(bitmap);
        if (dlclose(handle) != 0) {
            exit(3);
        }
    }
    return NULL;
}

int main(void)
{
    /* Two at a time, and a new thread for each: what a thread leaves behind must not outlive the library's code. */
    for (int round = 0; round < 4; round++) {
        pthread_t threads[2];
        for (int at = 0; at < 2; at++) {
            if (pthread_create(&threads[at], NULL, load, getenv("CHECKMAP_TEST_LIBRARY")) != 0) {
                return 4;
            }
        }
        for (int at = 0; at < 2; at++) {
            pthread_join(threads[at], NULL);
        }
    }
    return 0;
}
