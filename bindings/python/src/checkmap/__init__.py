"""Which blocks of this disk changed between these two points in time?

Bitmap is in memory, Segment in a file, Image has checkpoints, whose diff() is a Bitmap. Offsets and lengths are bytes
of the virtual disk. What goes wrong is a CheckmapError, one class for each kind.
"""

from . import _errors, plot
from ._backups import (
    BackupDirectory,
    BackupPlan,
    Damage,
    Moment,
    Pruned,
    Taken,
    Verified,
    plan_backup,
    plan_backup_running,
    preview_backup,
)
from ._bitmap import Bitmap
from ._doctor import Diagnosis, Finding, NotedCheckpoint, Notes, doctor, doctor_running
from ._errors import *  # noqa: F403
from ._extents import EXTENT_FIELDS
from ._image import Checkpoint, Image, ImageInfo, StoredBitmap, Summary
from ._machine import Disk, Machine, create_many, delete_many, plan_qmp
from ._native import ffi as _ffi
from ._native import lib as _lib
from ._report import Problem, Report
from ._segment import Segment, SegmentInfo

__version__: str = _ffi.string(_lib.checkmap_version()).decode()

if _lib.checkmap_abi_version() < _lib.CHECKMAP_ABI_VERSION:
    raise ImportError(f"the library of checkmap is too old: {__version__}")

__all__ = [
    "BackupDirectory",
    "BackupPlan",
    "Bitmap",
    "Checkpoint",
    "Damage",
    "Diagnosis",
    "Disk",
    "EXTENT_FIELDS",
    "Finding",
    "Image",
    "ImageInfo",
    "Machine",
    "Moment",
    "NotedCheckpoint",
    "Notes",
    "Problem",
    "Pruned",
    "Report",
    "Segment",
    "SegmentInfo",
    "StoredBitmap",
    "Summary",
    "Taken",
    "Verified",
    "create_many",
    "delete_many",
    "doctor",
    "doctor_running",
    "plan_backup",
    "plan_backup_running",
    "plan_qmp",
    "plot",
    "preview_backup",
]
__all__ += _errors.__all__
