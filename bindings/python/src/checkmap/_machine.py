"""Running hypervisors: the disks of a QEMU as images, changes of several in one step, and plans without a connection."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Optional, Tuple, Union

from ._arguments import (
    MOST_32,
    Name,
    Options,
    Path,
    Progress,
    flags_of,
    granularity_or_zero,
    model_of,
    name_bytes,
    name_text,
    naming,
    opened,
    path_bytes,
    several,
    source,
)
from ._errors import checked, listed
from ._handle import Handle, _begin_all, _end_all
from ._image import Image
from ._native import ffi, lib

_VERBS = {
    "create": lib.CHECKMAP_PLAN_CREATE,
    "delete": lib.CHECKMAP_PLAN_DELETE,
    "rename": lib.CHECKMAP_PLAN_RENAME,
    "merge": lib.CHECKMAP_PLAN_MERGE,
    "diff": lib.CHECKMAP_PLAN_DIFF,
}


@dataclass(frozen=True)
class Disk:
    """A disk of a running hypervisor.

    title: The name of its device, or of its node where there is no device.
    node: The name of the block node at its top.
    file: The file of that node, as the hypervisor names it.
    disk_size: Its size in bytes.
    unfit: No checkpoint can be made on it: its format keeps no bitmaps, or it is read-only.
    """

    title: str
    node: str
    file: str
    disk_size: int
    unfit: bool


class Machine(Handle):
    """A running QEMU, over its QMP socket: one connection, which all images of its disks share. Use it in a `with`.

    A monitor of QEMU talks to one client at a time, so a second Machine of the same socket is an InUseError. The
    connection ends with the machine and the last image of it. Many threads may use it at once; their calls wait for one
    another. A forked child must not use it, and does not close it.
    """

    __slots__ = ("_path", "_process")

    def __init__(
        self,
        socket: Path,
        *,
        timeout: Optional[float] = None,
        nbd_socket: Optional[Path] = None,
        max_stall: Optional[float] = None,
        progress: Optional[Progress] = None,
    ) -> None:
        """Connects, reads the disks, and removes what clients that were killed left in the hypervisor.

        timeout: seconds to wait for a monitor that another client has, for each answer of an NBD server, and for another
        client of checkmap at work; None is 30. nbd_socket: that of the NBD server that runs in the hypervisor already;
        without it one is started for as long as a diff needs it. max_stall: refuses a change that is expected to stop the
        disks of the machine for more seconds.
        """
        with naming(socket):
            path = path_bytes(socket)
            self._connect(lib.checkmap_machine_open, socket, (path,), timeout, nbd_socket, max_stall, progress)

    @classmethod
    def libvirt(
        cls,
        uri: str,
        domain: str,
        *,
        timeout: Optional[float] = None,
        nbd_socket: Optional[Path] = None,
        max_stall: Optional[float] = None,
        progress: Optional[Progress] = None,
    ) -> Machine:
        """Connects to a domain of libvirt, such as "vm1" at "qemu:///system", by its name, id or UUID.

        Each command is one run of `virsh qemu-monitor-command`, and libvirt marks the domain as tainted (custom-monitor).
        NotFoundError without such a domain, FileMissingError without virsh. The other arguments are those of Machine.
        """
        self = cls.__new__(cls)
        texts = (name_bytes(uri), name_bytes(domain))
        function = lib.checkmap_machine_open_libvirt
        self._connect(function, f"{uri}/{domain}", texts, timeout, nbd_socket, max_stall, progress)
        return self

    def _connect(
        self,
        function: Any,
        path: Path,
        texts: Tuple[bytes, ...],
        timeout: Optional[float],
        nbd_socket: Optional[Path],
        max_stall: Optional[float],
        progress: Optional[Progress],
    ) -> None:
        self._path = path
        self._process = process = os.getpid()
        options = Options(progress)
        opts = ffi.new("struct checkmap_qmp_opts *")
        opts.size = ffi.sizeof("struct checkmap_qmp_opts")
        opts.timeout_ms = _milliseconds(timeout, "timeout", MOST_32)
        opts.max_stall_ms = _milliseconds(max_stall, "max_stall", (1 << 64) - 1)
        opts.progress, opts.user_data = options.pointer.progress, options.pointer.user_data
        if nbd_socket is not None:
            nbd_path = ffi.from_buffer("char[]", path_bytes(nbd_socket))
            opts.nbd_socket, opts.nbd_socket_len = nbd_path, len(nbd_path)
        out = ffi.new("checkmap_machine **")
        arguments = [argument for each in texts for argument in (each, len(each))]
        options.checked(function(*arguments, opts, out))

        def close(pointer: Any) -> None:
            # A forked child shares its parent's connection.
            if os.getpid() == process:
                lib.checkmap_machine_close(pointer)

        super().__init__(out[0], close)

    def __repr__(self) -> str:
        return opened(self, self._path) if not self.closed else "<checkmap.Machine, closed>"

    def _begin(self, alone: bool) -> Any:
        pointer = super()._begin(alone)
        if os.getpid() != self._process:
            self._end(alone)
            raise RuntimeError("a forked child must not use a machine of its parent's")
        return pointer

    def disks(self) -> List[Disk]:
        """The disks of the guest's devices as they were at the opening; without devices, all images that nothing stands on."""

        def ask(pointer: Any) -> List[Disk]:
            return [
                Disk(
                    name_text(each.title, each.title_len),
                    name_text(each.node, each.node_len),
                    name_text(each.file, each.file_len),
                    each.disk_size,
                    bool(each.flags & lib.CHECKMAP_DISK_UNFIT),
                )
                for each in listed("checkmap_disk", lambda out, room: lib.checkmap_machine_disks(pointer, out, room))
            ]

        return self._read(ask)

    def image(self, node: Name, *, threads: int = 0) -> Image:
        """A disk as an image: by the name of a node, of a device or its id, or by the file of an image.

        Its diff stops no disk of the machine. A checkpoint exists in the hypervisor's memory until the disk is closed
        there: after a crash of it the chain has ended. The image may outlive the machine.
        """
        raw = name_bytes(node)
        out = ffi.new("checkmap_image **")
        checked(self._read(lib.checkmap_machine_image, raw, len(raw), out))
        return Image._of(out[0], raw, threads)


def create_many(
    images: Iterable[Image],
    name: Name,
    granularity: Optional[int] = None,
    *,
    dry_run: bool = False,
    cumulative: Optional[bool] = None,
    progress: Optional[Progress] = None,
) -> None:
    """Creates a checkpoint of the same moment on several images of one machine, in one atomic step: on all or on none.

    Images in files change so, too, by a journal beside the first one; files that a kill caught in the middle refuse every change until
    Image.recover() has ended the step.

    The other arguments are those of Image.create.
    """
    raw = name_bytes(name)
    options = Options(progress, flags=flags_of(dry_run=dry_run), model=model_of(cumulative))
    _change_many(
        images, lib.checkmap_checkpoint_create_many, options, raw, len(raw), granularity_or_zero(granularity)
    )


def delete_many(
    images: Iterable[Image],
    names: Iterable[Name],
    *,
    dry_run: bool = False,
    top_layer_only: bool = False,
    force_inconsistent: bool = False,
    cumulative: Optional[bool] = None,
    progress: Optional[Progress] = None,
) -> None:
    """Deletes checkpoints on several images of one machine, in one atomic step: on all or on none.

    Each image has all of them. In a hypervisor the bitmaps are merged inside of it, which stops every disk of the machine:
    `max_stall` of Machine limits that. The other arguments are those of Image.delete.
    """
    kept, pointers, lengths = _names(names)
    flags = flags_of(top_layer_only, force_inconsistent, dry_run)
    options = Options(progress, flags=flags, model=model_of(cumulative))
    _change_many(images, lib.checkmap_checkpoint_delete_many, options, pointers, lengths, len(kept))


def plan_qmp(
    nodes_json: Union[str, bytes],
    chain: Iterable[str],
    verb: str,
    name: Optional[Name] = None,
    other: Optional[Name] = None,
    *,
    names: Iterable[Name] = (),
    export: Optional[str] = None,
    granularity: Optional[int] = None,
    force_inconsistent: bool = False,
    cumulative: Optional[bool] = None,
) -> Dict[str, Any]:
    """The QMP commands for a change or a diff of a disk, for programs that send them themselves: nothing is sent.

    nodes_json: the answer to query-named-block-nodes. chain: the names of the disk's block nodes, the top one first.
    verb: "create" and "rename" a checkpoint `name` (to `other`), "delete" those of `names`, "merge" the bitmaps of `names`
    into `name`, "diff" since `name` until `other` or now, by exports that begin with `export` on an NBD server that runs.

    The dict has `commands` in their order, `stall_ms`, how long every disk of the machine is expected to stand still, and
    `warnings`; for a diff also `granularity`, `exports` with the `contexts` to ask for, and `cut_off`.
    """
    if verb not in _VERBS:
        raise ValueError(f"verb is one of {', '.join(_VERBS)}, not {verb!r}")
    text = nodes_json.encode() if isinstance(nodes_json, str) else nodes_json
    given = source(text, "nodes_json")
    request = ffi.new("struct checkmap_plan_request *")
    request.size = ffi.sizeof("struct checkmap_plan_request")
    request.verb = _VERBS[verb]
    # What the request points to must live until the call ends.
    nodes, node_pointers, node_lengths = _names(several(chain, "chain"))
    many, name_pointers, name_lengths = _names(names)
    first, second, third = _optional(name), _optional(other), _optional(export)
    request.nodes, request.node_lens, request.node_count = node_pointers, node_lengths, len(nodes)
    request.names, request.name_lens, request.name_count = name_pointers, name_lengths, len(many)
    request.name, request.name_len = first
    request.other, request.other_len = second
    request.export_name, request.export_name_len = third
    request.granularity = granularity_or_zero(granularity)
    request.model = model_of(cumulative)
    request.flags = flags_of(force_inconsistent=force_inconsistent)
    pointer = ffi.cast("char *", given)
    need = checked(lib.checkmap_plan_qmp(pointer, len(given), request, ffi.NULL, 0))
    out = ffi.new("char[]", need)
    checked(lib.checkmap_plan_qmp(pointer, len(given), request, out, need))
    plan: Dict[str, Any] = json.loads(bytes(ffi.buffer(out)))
    return plan


def _change_many(images: Iterable[Image], function: Any, options: Options, *arguments: Any) -> None:
    """Calls a function of the library that needs all these images alone."""
    every = several(images, "images")
    for image in every:
        if not isinstance(image, Image):
            raise TypeError(f"an Image is needed, not {type(image).__name__}")
        image._check_process()
    uses = tuple((image, True) for image in every)
    pointers = _begin_all(uses)
    try:
        for image, pointer in zip(every, pointers):
            image._lock_for_writing(pointer)
        status = function(ffi.new("checkmap_image *[]", pointers), len(pointers), *arguments, options.pointer)
    finally:
        _end_all(uses)
    options.checked(status)


def _names(names: Iterable[Name]) -> Tuple[List[Any], Any, Any]:
    """Names, which the caller keeps for as long as the library reads them, and arrays of pointers to them and of lengths."""
    raw = [ffi.from_buffer("char[]", name_bytes(name)) for name in several(names, "names")]
    return raw, ffi.new("char *[]", raw), ffi.new("size_t[]", [len(name) for name in raw])


def _optional(name: Optional[Name]) -> Tuple[Any, int]:
    """A name that may be missing; the bytes live as long as the pointer."""
    if name is None:
        return ffi.NULL, 0
    raw = name_bytes(name)
    return ffi.from_buffer("char[]", raw), len(raw)


def _milliseconds(seconds: Optional[float], what: str, most: int) -> int:
    """Milliseconds as the library takes them, where 0 is its own default: less than one is rounded up."""
    if seconds is None:
        return 0
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{what} is a number of seconds, not {type(seconds).__name__}")
    if not 0 <= seconds * 1000 <= most:
        raise OverflowError(f"{what} is a number of seconds from 0 to {most // 1000}, not {seconds}")
    return max(1, int(seconds * 1000))
