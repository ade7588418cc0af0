"""What maturin builds: the library, and what cffi knows of its header."""

from typing import Any

ffi: Any
lib: Any
