"""Escape characters in printed text that a terminal would interpret or cannot show.

File names, the bytes of damaged files and other programs' messages may hold anything: codes that clear the screen or change
colours, lone surrogates, marks that change the direction of writing.
"""

import io
import re
import sys
from typing import Any, TextIO

# C0 without tab and newline, DEL, C1; bidirectional controls; surrogates, by which Python keeps undecodable bytes of names.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    r"""Return the text with each such character escaped, as `\x1b` or `\udcff`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def group_word(value: object) -> str:
    """Return the value of a group column as tables show it; `none` for no value, which pandas also has as NaN."""
    return "none" if value is None or value != value else str(value)


class Clean(io.TextIOBase):
    """A text stream that cleans what is written. Rich bypasses it, to write its own codes; its console cleans its input."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # the name by which rich finds it

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(clean(text))
        return len(text)

    def flush(self) -> None:
        self.rich_proxied_file.flush()

    def __getattribute__(self, name: str) -> Any:
        if name in ("write", "flush", "rich_proxied_file", "writelines", "__class__"):
            return super().__getattribute__(name)
        return getattr(self.rich_proxied_file, name)


def clean_streams() -> None:
    """Clean all output of this process; characters that the terminal's encoding lacks are escaped too."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Clean(stream))
