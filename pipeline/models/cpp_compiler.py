"""The C++ compiler that torch.compile builds its code for the CPU with."""

import os
import shutil
import sys


def cpp_compiler() -> str:
    """The one that torch's inductor calls: what CXX names, else clang++ on macOS and g++ elsewhere."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def has_cpp_compiler() -> bool:
    """Whether it is on this machine."""
    return shutil.which(cpp_compiler()) is not None
