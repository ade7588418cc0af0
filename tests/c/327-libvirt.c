/* A domain of libvirt is a machine like others: a stand-in for virsh passes the commands to a monitor, or fails as virsh does. */
#include "machine.h"

#define URI TEXT("qemu:///system")

static void virsh_is(const char *script)
{
    FILE *file = fopen("virsh", "w");
    CHECK(file != NULL && fputs(script, file) >= 0 && fclose(file) == 0 && chmod("virsh", 0755) == 0);
}

static const char passes[] =
    "#!/usr/bin/python3 -IS\n"
    "import json, socket, sys\n"
    "assert sys.argv[1:4] == ['-q', '-c', 'qemu:///system'] and sys.argv[5] == 'vm', sys.argv\n"
    "if sys.argv[4] == 'domblklist':\n"
    "    print('vda  /somewhere/chain.qcow2')\n"
    "    sys.exit()\n"
    "if sys.argv[4] == 'checkpoint-list':\n"
    "    sys.exit()\n"
    "assert sys.argv[4] == 'qemu-monitor-command', sys.argv\n"
    "monitor = socket.socket(socket.AF_UNIX)\n"
    "monitor.connect('qmp')\n"
    "lines = monitor.makefile('rw')\n"
    "lines.readline()\n"
    "for command in ['{\"execute\": \"qmp_capabilities\"}', sys.argv[6]]:\n"
    "    lines.write(command + '\\n')\n"
    "    lines.flush()\n"
    "    answer = json.loads(lines.readline())\n"
    "    while 'event' in answer:\n"
    "        answer = json.loads(lines.readline())\n"
    "print(json.dumps(answer))\n";

int main(void)
{
    checkmap_machine *machine = NULL;
    char folder[4096], path[16384];
    CHECK(getcwd(folder, sizeof folder) != NULL);
    const char *before = getenv("PATH");

    CHECK(setenv("PATH", folder, 1) == 0);
    FAILS(checkmap_machine_open_libvirt(URI, TEXT("vm"), NULL, &machine), ENOENT, CHECKMAP_ERROR_IO);
    CHECK(machine == NULL && strstr(checkmap_last_error(), "virsh") != NULL);
    snprintf(path, sizeof path, "%s:%s", folder, before == NULL ? "/usr/bin:/bin" : before);
    CHECK(setenv("PATH", path, 1) == 0);
    INVALID(checkmap_machine_open_libvirt(NULL, 0, TEXT("vm"), NULL, &machine));
    INVALID(checkmap_machine_open_libvirt(URI, "", 0, NULL, &machine));
    INVALID(checkmap_machine_open_libvirt(URI, TEXT("vm"), NULL, NULL));
    FAILS(checkmap_machine_open_libvirt(URI, TEXT("\xff"), NULL, &machine), EINVAL, CHECKMAP_ERROR_INVALID_NAME);
    virsh_is("#!/bin/sh\necho \"error: failed to get domain 'vm'\" >&2\nexit 1\n");
    FAILS(checkmap_machine_open_libvirt(URI, TEXT("vm"), NULL, &machine), ENOENT, CHECKMAP_ERROR_NOT_FOUND);
    virsh_is("#!/bin/sh\necho 'error: failed to connect to the hypervisor' >&2\nexit 1\n");
    FAILS(checkmap_machine_open_libvirt(URI, TEXT("vm"), NULL, &machine), EREMOTEIO, CHECKMAP_ERROR_HYPERVISOR);
    virsh_is("#!/bin/sh\necho nothing of QEMU\n");
    FAILS(checkmap_machine_open_libvirt(URI, TEXT("vm"), NULL, &machine), EBADMSG, CHECKMAP_ERROR_DAMAGED);

    daemon_start();
    virsh_is(passes);
    EQUAL(checkmap_machine_open_libvirt(URI, TEXT("vm"), NULL, &machine), 0);
    EQUAL(checkmap_machine_disks(machine, NULL, 0), 2);
    checkmap_image *image = machine_image(machine, "d1");
    checkmap_machine_close(machine);
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 3);
    EQUAL(checkmap_checkpoint_create(image, TEXT("d"), 0), 0);
    EQUAL(checkmap_checkpoint_list(image, NULL, 0), 4);
    checkmap_image_close(image);
    return 0;
}
