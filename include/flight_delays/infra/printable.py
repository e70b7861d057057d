"""Text that others wrote, as it is shown in a terminal, a log or a page: none of it controls what shows it.

Escape sequences change a terminal's title, its clipboard or earlier lines; bidirectional overrides change the order in
which text is read (CVE-2021-42574).
"""

from __future__ import annotations

import logging
import re
from typing import Any, Final

from flight_delays.errors import LOGIN

_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: object) -> str:
    r"""The text with control characters as escapes, e.g. \x1b; newlines and tabs stay, logins in URLs do not."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), LOGIN.sub("", str(text)))


def one_line(text: object) -> str:
    """The same, with newlines as escapes, too: no text looks like a line of its own."""
    return printable(text).replace("\n", "\\n")


def finalize(value: Any) -> Any:
    """For Jinja's `finalize`: every text in a page, before it is escaped for HTML."""
    return printable(value) if type(value) is str else value


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return super().formatMessage(record).replace("\n", "\\n")

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_stderr(level: int) -> None:
    """For a service: its log goes to standard error, a message a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
