"""Frozen dataclasses over a channel: JSON there, the same records here.

`orjson.dumps` writes a dataclass as it is; `from_plain` reads it back by the types of its fields: scalars, tuples,
mappings, dataclasses, and any of these or None.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_plain(kind: type[T], plain: Mapping[str, Any]) -> T:
    """A record of `kind` from what its JSON was read as. Raises KeyError when a field is missing."""
    made: T = _maker(cast(Hashable, kind))(plain)
    return made


@cache
def _maker(kind: Any) -> Callable[[Any], Any]:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record_maker(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        makers = [_maker(one) for one in arguments if one is not type(None)]
        # Any of several scalars needs no making; of the others there is one, or None.
        one = makers[0] if len(makers) == 1 else _same
        return lambda value: None if value is None else one(value)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            item = _maker(arguments[0])
            return lambda value: tuple(item(one) for one in value)
        items = [_maker(one) for one in arguments]
        return lambda value: tuple(make(one) for make, one in zip(items, value, strict=True))
    return _same


def _record_maker(kind: type[Any]) -> Callable[[Any], Any]:
    hints = get_type_hints(kind)
    makers = [(field.name, _maker(hints[field.name])) for field in dataclasses.fields(kind)]
    return lambda value: kind(**{name: make(value[name]) for name, make in makers})


def _same(value: Any) -> Any:
    return value
