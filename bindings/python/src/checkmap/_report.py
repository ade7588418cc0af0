"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional

from ._arguments import text
from ._errors import checked
from ._native import ffi, lib

_SEVERITIES = {
    lib.CHECKMAP_SEVERITY_ERROR: "error",
    lib.CHECKMAP_SEVERITY_UNUSABLE: "unusable",
    lib.CHECKMAP_SEVERITY_LEAK: "leak",
    lib.CHECKMAP_SEVERITY_WARNING: "warning",
}


@dataclass(frozen=True)
class Problem:
    """One finding.

    severity: "error": a rule is broken; "unusable": no backup by this bitmap; "leak": room nobody uses;
        "warning": harmless
    structure: The structure that is wrong.
    message: What is wrong with it.
    offset: Where it is in the file, in bytes; None where that cannot be said.
    """

    severity: str
    structure: str
    message: str
    offset: Optional[int]


@dataclass(frozen=True)
class Report:
    """What a check found.

    errors: How many rules are broken.
    unusable: How many bitmaps cannot be used for a backup.
    leaked_bytes: How many bytes are counted as used that nothing uses.
    problems: The first thousand findings.
    """

    errors: int
    unusable: int
    leaked_bytes: int
    problems: List[Problem]


def report_of(pointer: Any) -> Report:
    """All that a report of the library says; the library's own is freed."""
    try:
        total = checked(lib.checkmap_report_problems(pointer, 0, ffi.NULL, 0))
        out = ffi.new("struct checkmap_problem[]", total or 1)
        count = checked(lib.checkmap_report_problems(pointer, 0, out, total or 1))
        return Report(
            checked(lib.checkmap_report_errors(pointer)),
            checked(lib.checkmap_report_unusable(pointer)),
            checked(lib.checkmap_report_leaked_bytes(pointer)),
            [
                Problem(
                    _SEVERITIES.get(each.severity, "warning"),
                    text(each.structure),
                    text(each.message),
                    None if each.offset < 0 else each.offset,
                )
                for each in out[0:count]
            ],
        )
    finally:
        lib.checkmap_report_free(pointer)
