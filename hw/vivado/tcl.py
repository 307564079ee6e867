"""Values as Tcl source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

TclValue: TypeAlias = "str | int | float | Sequence[TclValue] | Mapping[str, TclValue]"
"""A string or number, or a list or dictionary of values; Tcl sees all of them as strings."""

_PLAIN = re.compile(r"[A-Za-z0-9_.:/+-]+")


def tcl_word(text: str) -> str:
    """Return one Tcl word, and one list element, whose value is `text`: plain, in braces, or with backslashes.

    Braces keep everything between them as it is, unless there is a backslash or they do not balance; a carriage return
    would become a line feed when the file is read.
    """
    if _PLAIN.fullmatch(text):
        return text
    if not set(text) & {"\\", "\r"} and _is_balanced(text):
        return "{" + text + "}"
    return "".join(_escape(character) for character in text)


def tcl_value(value: TclValue) -> str:
    """Return the string that Tcl knows a value by: text as it is, a list of words, a dictionary as such a list.

    Raises ValueError for a truth value: Tcl's own have several spellings.
    """
    if isinstance(value, bool):
        raise ValueError(f"a Tcl value must be text, a number, a list or a dictionary, not {value!r}")
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return tcl_value([item for pair in value.items() for item in pair])
    return " ".join(tcl_word(tcl_value(item)) for item in value)


def set_array(name: str, values: Mapping[str, TclValue]) -> str:
    """Return a script that sets the elements of an array, one a line. Raises ValueError for a name to be quoted."""
    for key in (name, *values):
        if not key.isidentifier():
            raise ValueError(f"a Tcl variable must have a name of letters, digits and _, not {key!r}")
    return "".join(f"set {name}({key}) {tcl_word(tcl_value(value))}\n" for key, value in values.items())


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def _escape(character: str) -> str:
    """Return a character of a bare word: itself, or what stands for it."""
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    return character if character.isalnum() or character == "_" else "\\" + character
