"""Regular expressions, run by workers: some take for ever on some texts."""

import re


def matches(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None
