"""The C++ compiler with which torch.compile builds code for the CPU."""

import os
import shutil
import sys


def cpp_compiler() -> str:
    """Return the compiler that torch's inductor calls: the one in CXX, else clang++ on macOS and g++ elsewhere."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def has_cpp_compiler() -> bool:
    """Whether this machine has the compiler."""
    return shutil.which(cpp_compiler()) is not None
