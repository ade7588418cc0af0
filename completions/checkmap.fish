# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_checkmap_global_optspecs
    string join \n q/quiet progress= no-lock h/help V/version
end

function __fish_checkmap_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_checkmap_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_checkmap_using_subcommand
    set -l cmd (__fish_checkmap_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c checkmap -n "__fish_checkmap_needs_command" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_needs_command" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_needs_command" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_needs_command" -s V -l version -d 'Print version'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "info" -d 'Show an image, its bitmaps and the intervals they cover'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "list" -d 'List the checkpoints, oldest first'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "create" -d 'Create a checkpoint'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "delete" -d 'Delete checkpoints, in one step, or all that cannot be trusted'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "drop" -d 'Drop what lies before a checkpoint, one bitmap, or all bitmaps, damaged or not'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "rename" -d 'Rename a checkpoint'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "recover" -d 'End a change of several images that was interrupted'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "diff" -d 'Show which blocks changed between two checkpoints, or since one'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "dump" -d 'Show one bitmap as it is stored, by its own name'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "compare" -d 'Compare two bitmaps, or what changed since a checkpoint, by content and by hash'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "merge" -d 'Merge bitmaps by their own names (the raw operation)'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "commit-bitmaps" -d 'Let a base take in the checkpoints of the images above it, before or after their data are committed'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "serve" -d 'Serve a disk and what changed on it to NBD clients, for reading only'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "backup" -d 'Take a backup of disks into a directory: full at first, then what changed'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "plan" -d 'Tell how much of each disk a backup since a checkpoint has to read'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "map" -d 'Draw where on the disks the changes are: in a terminal, as SVG or PNG'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "trend" -d 'Show how much changed from checkpoint to checkpoint, and what an increment would carry at other granularities'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "report" -d 'Write one page with pictures about disks, or about a backup directory'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "restore" -d 'Restore a disk from a backup directory'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "verify" -d 'Read a whole backup directory, and compare it with its checksums'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "prune" -d 'Give up old moments of a backup directory'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "check" -d 'Verify every structure and rule of an image'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "doctor" -d 'Find where bitmaps, chains and libvirt\'s notes disagree, and mend it'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "fleet" -d 'Run a verb on each disk of a list, several at a time'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "segment" -d 'Work with bitmaps in files of checkmap\'s own, which may be larger than memory'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "completions" -d 'Print the completions for a shell'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "man" -d 'Print the manual page, for man -l'
complete -c checkmap -n "__fish_checkmap_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -l json -d 'Print one JSON document'
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -l wide -d 'Show all columns and whole names, however wide the table becomes; else it fits 80 columns'
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -s U -l force-share -d 'Show names and flags even of an image that a running QEMU has open; counts are null'
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand info" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l model -d 'What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both' -r -f -a "interval\t'Each bitmap covers the time from its checkpoint to the next'
cumulative\t'Each bitmap records since its checkpoint'"
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l libvirt-xml -d 'The folder with libvirt\'s XML documents of the checkpoints: those of `virsh checkpoint-dumpxml`, or /var/lib/libvirt/qemu/checkpoint/DOMAIN' -r -f -a "(__fish_complete_directories)"
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l json -d 'Print one JSON document'
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l wide -d 'Show all columns and whole names, however wide the table becomes; else it fits 80 columns'
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -s U -l force-share -d 'Show names and flags even of an image that a running QEMU has open; counts are null'
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l granularity -d 'How much of the disk one bit stands for: a power of two from 512 to 2G. Default: as the newest checkpoint, else the cluster size, from 4K to 64K; larger where the disk needs it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l also -d 'Another image that changes in the same step, all or none; can be repeated' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l journal -d 'Where the journal of that step lies while it lasts [default: beside the first image, which must then be no device]' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l model -d 'What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both' -r -f -a "interval\t'Each bitmap covers the time from its checkpoint to the next'
cumulative\t'Each bitmap records since its checkpoint'"
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l dry-run -d 'Change nothing: print what would be done, one step a line; the exit status is that of the real run'
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l also -d 'Another image that changes in the same step, all or none; can be repeated' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l journal -d 'Where the journal of that step lies while it lasts [default: beside the first image, which must then be no device]' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l model -d 'What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both' -r -f -a "interval\t'Each bitmap covers the time from its checkpoint to the next'
cumulative\t'Each bitmap records since its checkpoint'"
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l force-inconsistent -d 'Delete also those whose bitmap is inconsistent, and then all older checkpoints with them'
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l all-inconsistent -d 'Delete every checkpoint whose bitmap is inconsistent, and all that are older, in one step'
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l top-layer-only -d 'Do not look at the backing files: you know that what they recorded does not matter'
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l dry-run -d 'Change nothing: print what would be done, one step a line; the exit status is that of the real run'
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand delete" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -l before -d 'Drop the bitmaps of all checkpoints that are older than this one, also before gaps: it becomes the first' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -l bitmap -d 'Drop one bitmap by its own name, in quotes: \'mon->tue\'. It can be of any kind and in any state' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -l model -d 'What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both' -r -f -a "interval\t'Each bitmap covers the time from its checkpoint to the next'
cumulative\t'Each bitmap records since its checkpoint'"
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -l all -d 'Drop the whole bitmap directory, damaged or not'
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -l yes -d 'With --all: bitmaps that belong to no checkpoint go too'
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -l dry-run -d 'Change nothing: print what would be done, one step a line; the exit status is that of the real run'
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l also -d 'Another image that changes in the same step, all or none; can be repeated' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l journal -d 'Where the journal of that step lies while it lasts [default: beside the first image, which must then be no device]' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l model -d 'What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both' -r -f -a "interval\t'Each bitmap covers the time from its checkpoint to the next'
cumulative\t'Each bitmap records since its checkpoint'"
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l top-layer-only -d 'Do not look at the backing files: you know that what they recorded does not matter'
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l dry-run -d 'Change nothing: print what would be done, one step a line; the exit status is that of the real run'
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand rename" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand recover" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand recover" -l forget -d 'Leave this image as it is, and end nothing: where the journal or another image of the step is lost'
complete -c checkmap -n "__fish_checkmap_using_subcommand recover" -l dry-run -d 'Change nothing: print what would be done, one step a line; the exit status is that of the real run'
complete -c checkmap -n "__fish_checkmap_using_subcommand recover" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand recover" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand recover" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l since -d 'The checkpoint since which' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l until -d 'The checkpoint until which; now without it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l format -d 'The format of the answer [default: table]' -r -f -a "json\t'One JSON document with the dirty extents'
table\t'For people'
csv\t'One dirty extent a line: start,length in bytes'
nbdinfo\t'What `nbdinfo --map=qemu:dirty-bitmap:NAME --json` prints'
qemu-map\t'What `qemu-img map --output=json` prints over NBD with x-dirty-bitmap: dirty blocks are absent'
roaring\t'Indices of dirty granules as portable 64-bit Roaring (binary)'
raw\t'One bit for each granule, least significant bit first (binary)'
segment\t'A file for `checkmap segment`: indexed, with checksums (binary)'
sha256\t'The SHA-256 of the bits as QEMU computes it, for `checkmap compare --sha256`'
parquet\t'A row for each dirty extent, for SQL engines (binary; in builds with Parquet)'
parquet-roaring\t'A row for each interval, with its granules as Roaring (binary; in builds with Parquet)'"
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -s o -l output -d 'Write to FILE, which appears or is replaced in one step when all is on the disk' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l start -d 'Look at the disk from this byte on; for raw a multiple of 8 granules' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l length -d 'Look at this many bytes of the disk; to its end without it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l disk -d 'With the formats of Parquet: the name of the disk in the rows; that of the image or of the node without it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l model -d 'What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both' -r -f -a "interval\t'Each bitmap covers the time from its checkpoint to the next'
cumulative\t'Each bitmap records since its checkpoint'"
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l each-interval -d 'With the formats of Parquet: each interval between two checkpoints by itself, instead of their union'
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l json -d 'The same as --format json'
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l summary -d 'Print the sums alone, without the extents; as a table or as JSON'
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l top-layer-only -d 'Do not look at the backing files: you know that what they recorded does not matter'
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l bitmap -d 'The bitmap\'s own name, in quotes: \'mon->tue\'' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l context -d 'The bitmap as the NBD server names it, in quotes: \'qemu:dirty-bitmap:mon->tue\'' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l granularity -d 'With --context: the granularity of the answer, to which it is rounded outward. NBD does not tell that of the bitmap; default: the largest power of two from 512 to 64K of which all bounds are multiples' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l format -d 'The format of the answer [default: table]' -r -f -a "json\t'One JSON document with the dirty extents'
table\t'For people'
csv\t'One dirty extent a line: start,length in bytes'
nbdinfo\t'What `nbdinfo --map=qemu:dirty-bitmap:NAME --json` prints'
qemu-map\t'What `qemu-img map --output=json` prints over NBD with x-dirty-bitmap: dirty blocks are absent'
roaring\t'Indices of dirty granules as portable 64-bit Roaring (binary)'
raw\t'One bit for each granule, least significant bit first (binary)'
segment\t'A file for `checkmap segment`: indexed, with checksums (binary)'
sha256\t'The SHA-256 of the bits as QEMU computes it, for `checkmap compare --sha256`'
parquet\t'A row for each dirty extent, for SQL engines (binary; in builds with Parquet)'
parquet-roaring\t'A row for each interval, with its granules as Roaring (binary; in builds with Parquet)'"
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -s o -l output -d 'Write to FILE, which appears or is replaced in one step when all is on the disk' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l start -d 'Look at the disk from this byte on; for raw a multiple of 8 granules' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l length -d 'Look at this many bytes of the disk; to its end without it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l disk -d 'With the formats of Parquet: the name of the disk in the rows; that of the image or of the node without it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l json -d 'The same as --format json'
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l summary -d 'Print the sums alone, without the extents; as a table or as JSON'
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l bitmap -d 'The bitmap\'s own name, in quotes: \'mon->tue\'. On both sides, unless --other-bitmap names another one there' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l since -d 'In the place of one bitmap, what changed since this checkpoint; on both sides, unless --other-since says otherwise' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l until -d 'The checkpoint until which; now without it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l other-bitmap -d 'The bitmap of the other side' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l other-since -d 'What changed on the other side since this checkpoint' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l other-until -d 'The checkpoint until which on the other side; now without it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l other-qmp -d 'In the place of OTHER: a disk of another running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l other-node -d 'That disk, where the QEMU has several' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l sha256 -d 'In the place of OTHER: the hash of the bitmap there, as `dump --format sha256` and QEMU\'s x-debug-block-dirty-bitmap-sha256 tell it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l model -d 'What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both' -r -f -a "interval\t'Each bitmap covers the time from its checkpoint to the next'
cumulative\t'Each bitmap records since its checkpoint'"
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l hash-only -d 'Compare the hashes alone: a running QEMU computes its own, and no bit is moved'
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l json -d 'Print one JSON document'
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l top-layer-only -d 'Do not look at the backing files: you know that what they recorded does not matter'
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand compare" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l into -d 'The bitmap that takes in the others' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l dry-run -d 'Change nothing: print what would be done, one step a line; the exit status is that of the real run'
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand commit-bitmaps" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand commit-bitmaps" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand commit-bitmaps" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand commit-bitmaps" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand commit-bitmaps" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand commit-bitmaps" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand commit-bitmaps" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand commit-bitmaps" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand commit-bitmaps" -l dry-run -d 'Change nothing: print what would be done, one step a line; the exit status is that of the real run'
complete -c checkmap -n "__fish_checkmap_using_subcommand commit-bitmaps" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand commit-bitmaps" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand commit-bitmaps" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l since -d 'The checkpoint since which changes are told' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l until -d 'The checkpoint until which; then the map alone is served, and reads are refused' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l checkpoint -d 'Of a disk of a running hypervisor: the new checkpoint that is made at the moment that is served' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l scratch -d 'The folder for the blocks that the guest overwrites meanwhile; without it TMPDIR, or /var/tmp' -r -f -a "(__fish_complete_directories)"
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l scratch-max -d 'How much they may take; then the moment is lost, and the guest goes on. Default: half of the free room' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l socket -d 'Listen on this Unix socket; one there on which nobody listens is replaced' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l export -d 'The name of the export; the default one without it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l bitmap-name -d 'The map of changes is offered as qemu:dirty-bitmap:NAME' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l secret-file -d 'The file that holds the passphrase of encrypted layers' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l run -d 'Run this shell command with the address as $uri, and serve until it ends; its status is returned' -r -f -a "(__fish_complete_command)"
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l model -d 'What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both' -r -f -a "interval\t'Each bitmap covers the time from its checkpoint to the next'
cumulative\t'Each bitmap records since its checkpoint'"
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l top-layer-only -d 'Do not look at the backing files: you know that what they recorded does not matter'
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -s o -l output -d 'The backup directory; it is made where there is none' -r -f -a "(__fish_complete_directories)"
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l checkpoint -d 'The name of the checkpoint that is made [default: the time in UTC, as 20261125T020000Z]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l keep-checkpoints -d 'How many checkpoints of this directory stay on each disk, the new one among them' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l disk-name -d 'The name of a disk in the directory; without it, that of its file, or of the disk in its machine. Can be repeated' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l scratch -d 'Of a running machine: the folder for the blocks that the guest overwrites meanwhile; without it TMPDIR, or /var/tmp' -r -f -a "(__fish_complete_directories)"
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l scratch-max -d 'How much they may take; then the moment is lost, and the guest goes on. Default: half of the free room' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l secret-file -d 'The file that holds the passphrase of encrypted layers' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l full -d 'Copy all, also where an increment could be taken; and take an image that was moved for the same disk'
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l abandon -d 'Give up a moment that an interrupted run left in the machine, instead of backing it up'
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l dry-run -d 'Change nothing: print what would be done, one step a line; the exit status is that of the real run'
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand backup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l since -d 'The checkpoint since which' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l secret-file -d 'The file that holds the passphrase of encrypted layers' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l json -d 'Print one JSON document'
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l libvirt-xml -d 'Print libvirt\'s <domainbackup>, with a mode for each disk'
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand plan" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l since -d 'The checkpoint since which' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l until -d 'The checkpoint until which; now without it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l format -d 'The medium [default: as FILE ends, else text]' -r -f -a "text\t'Block characters'
json\t'One JSON document with the numbers of the picture'
svg\t'A vector image, with all words'
png\t'An image of dots: the cells and the colours of the scale, without words'"
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -s o -l output -d 'Write to FILE, which appears or is replaced in one step when all is on the disk' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l width -d 'How many columns a text may take, from 8 on [default: those of the terminal, else 80]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l color -d 'When a text has colours: on a terminal, unless NO_COLOR is set; always; or never' -r -f -a "auto\t''
always\t''
never\t''"
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l model -d 'What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both' -r -f -a "interval\t'Each bitmap covers the time from its checkpoint to the next'
cumulative\t'Each bitmap records since its checkpoint'"
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l json -d 'Print one JSON document'
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l top-layer-only -d 'Do not look at the backing files: you know that what they recorded does not matter'
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand map" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l format -d 'The medium: all but png [default: as FILE ends, else text]' -r -f -a "text\t'Block characters'
json\t'One JSON document with the numbers of the picture'
svg\t'A vector image, with all words'
png\t'An image of dots: the cells and the colours of the scale, without words'"
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -s o -l output -d 'Write to FILE, which appears or is replaced in one step when all is on the disk' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l width -d 'How many columns a text may take, from 8 on [default: those of the terminal, else 80]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l color -d 'When a text has colours: on a terminal, unless NO_COLOR is set; always; or never' -r -f -a "auto\t''
always\t''
never\t''"
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l model -d 'What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both' -r -f -a "interval\t'Each bitmap covers the time from its checkpoint to the next'
cumulative\t'Each bitmap records since its checkpoint'"
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l json -d 'Print one JSON document'
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l top-layer-only -d 'Do not look at the backing files: you know that what they recorded does not matter'
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand trend" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -s o -l output -d 'The page, which appears or is replaced in one step when all is on the disk; stdout without it' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -l since -d 'The checkpoint since which the map of a disk shows changes; the newest one without it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -l model -d 'What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both' -r -f -a "interval\t'Each bitmap covers the time from its checkpoint to the next'
cumulative\t'Each bitmap records since its checkpoint'"
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -l top-layer-only -d 'Do not look at the backing files: you know that what they recorded does not matter'
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand report" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand restore" -l at -d 'The checkpoint of the moment; the newest one without it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand restore" -l disk -d 'The disk, where the directory has several' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand restore" -s o -l output -d 'The new file, or a device; for several disks a folder' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand restore" -l format -d 'The format of the new file; a device gets the bytes of the disk' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand restore" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand restore" -l force -d 'Replace a file that is there, or write over a device; never one that is in use'
complete -c checkmap -n "__fish_checkmap_using_subcommand restore" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand restore" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand verify" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand verify" -l json -d 'Print one JSON document'
complete -c checkmap -n "__fish_checkmap_using_subcommand verify" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand verify" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand prune" -l keep-last -d 'Keep the newest N moments of each disk' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand prune" -l keep-within -d 'Keep the moments that are no older: a number with h, d, w, m (31 days) or y (366 days)' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand prune" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand prune" -l rewrite -d 'Where the oldest moments go, write a new full backup instead of changing the old one in place'
complete -c checkmap -n "__fish_checkmap_using_subcommand prune" -l dry-run -d 'Change nothing: print what would be done, one step a line; the exit status is that of the real run'
complete -c checkmap -n "__fish_checkmap_using_subcommand prune" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand prune" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand check" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand check" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand check" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand check" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand check" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand check" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand check" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand check" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand check" -l json -d 'Print one JSON document'
complete -c checkmap -n "__fish_checkmap_using_subcommand check" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand check" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l qmp -d 'In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l libvirt -d 'In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l domain -d 'The domain: its name, id or UUID' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l node -d 'Only this disk: a node\'s name, a device or its id, a target such as vda, or an image file; can be repeated. Without it, every disk of the machine' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l nbd-socket -d 'The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l max-stall -d 'Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l timeout -d 'How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again after a change. A change itself takes as long as it takes [default: 30]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l libvirt-xml -d 'The folder with libvirt\'s XML documents of the checkpoints: those of `virsh checkpoint-dumpxml`, or /var/lib/libvirt/qemu/checkpoint/DOMAIN' -r -f -a "(__fish_complete_directories)"
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l disk-target -d 'The name of the disk in libvirt\'s domain, such as vda, where the documents do not tell it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l model -d 'What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both' -r -f -a "interval\t'Each bitmap covers the time from its checkpoint to the next'
cumulative\t'Each bitmap records since its checkpoint'"
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l repair -d 'Mend the findings: bitmaps first, then libvirt\'s notes'
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l to-interval -d 'Turn cumulative checkpoints into a chain of intervals: each bitmap is frozen whole, and libvirt forgets the checkpoints'
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l dry-run -d 'Change nothing: print what would be done, one step a line; the exit status is that of the real run'
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l json -d 'Print one JSON document'
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand fleet" -l jobs -d 'On how many disks it runs at a time [default: the number of processors]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand fleet" -l state -d 'Note in FILE which disks are done, and leave out those that are done by it already' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand fleet" -l host -d 'The name of this host in the manifest [default: the system\'s host name]' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand fleet" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand fleet" -l json -d 'Print one JSON document, with the JSON of each disk where the verb has it'
complete -c checkmap -n "__fish_checkmap_using_subcommand fleet" -l wide -d 'Show all disks and whole messages in the table, however wide it becomes; else it has those that failed, in 80 columns'
complete -c checkmap -n "__fish_checkmap_using_subcommand fleet" -l dry-run -d 'Hand --dry-run to a verb that changes'
complete -c checkmap -n "__fish_checkmap_using_subcommand fleet" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand fleet" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand fleet" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and not __fish_seen_subcommand_from merge diff info check help" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and not __fish_seen_subcommand_from merge diff info check help" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and not __fish_seen_subcommand_from merge diff info check help" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and not __fish_seen_subcommand_from merge diff info check help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and not __fish_seen_subcommand_from merge diff info check help" -f -a "merge" -d 'Unite segments into a new one, with bounded memory'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and not __fish_seen_subcommand_from merge diff info check help" -f -a "diff" -d 'Show where two segments differ, and which of them is dirty there'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and not __fish_seen_subcommand_from merge diff info check help" -f -a "info" -d 'Show what a segment holds'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and not __fish_seen_subcommand_from merge diff info check help" -f -a "check" -d 'Verify every byte of a segment'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and not __fish_seen_subcommand_from merge diff info check help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from merge" -s o -l output -d 'The new segment, which appears or is replaced in one step when all is on the disk; - for stdout' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from merge" -l memory -d 'The most memory to take, beside 40 bytes for each 65536 granules of a segment that has any dirty' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from merge" -l threads -d 'How many threads unite; 0 and 1 are the same. Default: one for each processor' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from merge" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from merge" -l count -d 'Write nothing: print what the result would be'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from merge" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from merge" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from merge" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from diff" -l format -d 'The format of the answer [default: table]' -r -f -a "json\t'One JSON document'
table\t'For people'
csv\t'One extent a line'"
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from diff" -s o -l output -d 'Write to FILE, which appears or is replaced in one step when all is on the disk' -r -F
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from diff" -l start -d 'Look at the disk from this byte on' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from diff" -l length -d 'Look at this many bytes of the disk; to its end without it' -r
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from diff" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from diff" -l json -d 'The same as --format json'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from diff" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from diff" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from info" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from info" -l json -d 'Print one JSON document'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from info" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from info" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from info" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from check" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from check" -l json -d 'Print one JSON document'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from check" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from check" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from help" -f -a "merge" -d 'Unite segments into a new one, with bounded memory'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from help" -f -a "diff" -d 'Show where two segments differ, and which of them is dirty there'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from help" -f -a "info" -d 'Show what a segment holds'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from help" -f -a "check" -d 'Verify every byte of a segment'
complete -c checkmap -n "__fish_checkmap_using_subcommand segment; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c checkmap -n "__fish_checkmap_using_subcommand completions" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand completions" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand completions" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand man" -l progress -d 'When to show progress on stderr' -r -f -a "auto\t'If stderr is a terminal'
always\t'Also elsewhere: then one line for every tenth of the work'
never\t'Never, as with --quiet'"
complete -c checkmap -n "__fish_checkmap_using_subcommand man" -s q -l quiet -d 'Print no messages, warnings or progress, only errors'
complete -c checkmap -n "__fish_checkmap_using_subcommand man" -l no-lock -d 'Take no locks on the image, where they do not work: you make sure that nothing else writes to it'
complete -c checkmap -n "__fish_checkmap_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "info" -d 'Show an image, its bitmaps and the intervals they cover'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "list" -d 'List the checkpoints, oldest first'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "create" -d 'Create a checkpoint'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "delete" -d 'Delete checkpoints, in one step, or all that cannot be trusted'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "drop" -d 'Drop what lies before a checkpoint, one bitmap, or all bitmaps, damaged or not'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "rename" -d 'Rename a checkpoint'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "recover" -d 'End a change of several images that was interrupted'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "diff" -d 'Show which blocks changed between two checkpoints, or since one'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "dump" -d 'Show one bitmap as it is stored, by its own name'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "compare" -d 'Compare two bitmaps, or what changed since a checkpoint, by content and by hash'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "merge" -d 'Merge bitmaps by their own names (the raw operation)'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "commit-bitmaps" -d 'Let a base take in the checkpoints of the images above it, before or after their data are committed'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "serve" -d 'Serve a disk and what changed on it to NBD clients, for reading only'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "backup" -d 'Take a backup of disks into a directory: full at first, then what changed'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "plan" -d 'Tell how much of each disk a backup since a checkpoint has to read'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "map" -d 'Draw where on the disks the changes are: in a terminal, as SVG or PNG'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "trend" -d 'Show how much changed from checkpoint to checkpoint, and what an increment would carry at other granularities'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "report" -d 'Write one page with pictures about disks, or about a backup directory'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "restore" -d 'Restore a disk from a backup directory'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "verify" -d 'Read a whole backup directory, and compare it with its checksums'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "prune" -d 'Give up old moments of a backup directory'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "check" -d 'Verify every structure and rule of an image'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "doctor" -d 'Find where bitmaps, chains and libvirt\'s notes disagree, and mend it'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "fleet" -d 'Run a verb on each disk of a list, several at a time'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "segment" -d 'Work with bitmaps in files of checkmap\'s own, which may be larger than memory'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "completions" -d 'Print the completions for a shell'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "man" -d 'Print the manual page, for man -l'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and not __fish_seen_subcommand_from info list create delete drop rename recover diff dump compare merge commit-bitmaps serve backup plan map trend report restore verify prune check doctor fleet segment completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and __fish_seen_subcommand_from segment" -f -a "merge" -d 'Unite segments into a new one, with bounded memory'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and __fish_seen_subcommand_from segment" -f -a "diff" -d 'Show where two segments differ, and which of them is dirty there'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and __fish_seen_subcommand_from segment" -f -a "info" -d 'Show what a segment holds'
complete -c checkmap -n "__fish_checkmap_using_subcommand help; and __fish_seen_subcommand_from segment" -f -a "check" -d 'Verify every byte of a segment'
# Names of checkpoints and bitmaps, from the image in the line.
function __fish_checkmap_names
    checkmap __names words (commandline -opc) (commandline -ct) 2>/dev/null
end
complete -c checkmap -n "__fish_checkmap_using_subcommand delete rename merge" -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l since -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l until -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l since -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l until -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -l before -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -l bitmap -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l bitmap -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l into -r -f -k -a "(__fish_checkmap_names)"
