"""Builds with maturin, after giving it the declarations that cffi understands: those of include/checkmap.h.

`build_wheel.py ARGUMENTS` builds by `maturin build ARGUMENTS`, for wheels that go to other machines: see `make wheel`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import maturin
from maturin import (  # noqa: F401
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

HERE = Path(__file__).resolve().parent


def declarations(header: str) -> str:
    """What cffi reads of a C header: no comments, and of the directives only constants that are plain numbers."""
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.S).replace("\\\n", " ")
    header = re.sub(r"#ifdef __cplusplus.*?#endif", "", header, flags=re.S)
    keep = re.compile(r"#define \w+ \d+\s*$")
    lines = (line.rstrip() for line in header.splitlines() if not line.startswith("#") or keep.match(line))
    return "\n".join(line for line in lines if line) + "\n"


def write_declarations() -> None:
    """maturin takes header.h of the target folder as it is, instead of making one."""
    root = next(folder for folder in (HERE, *HERE.parents) if (folder / "include/checkmap.h").exists())
    cargo = [os.environ.get("CARGO", "cargo"), "metadata", "--no-deps", "--format-version=1"]
    target = Path(json.loads(subprocess.check_output(cargo, cwd=root))["target_directory"])
    target.mkdir(parents=True, exist_ok=True)
    (target / "header.h").write_text(declarations((root / "include/checkmap.h").read_text()))


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    write_declarations()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    write_declarations()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory, config_settings=None):
    return maturin.build_sdist(sdist_directory, config_settings)


if __name__ == "__main__":
    write_declarations()
    # The wheel serves every Python; which one builds it does not matter.
    command = [sys.executable, "-m", "maturin", "build", "--locked", "--interpreter", sys.executable, *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=HERE, check=False).returncode)
