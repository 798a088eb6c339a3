"""How items become bytes for a broker, and items again. Never pickle: a codec runs no code.

A codec is any object with ``content_type``, ``encode`` and ``decode``. What ``encode`` returns goes
to other machines, which may run an older or a newer version of the program.
"""

from __future__ import annotations

import json
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar, overload

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from penstock.errors import CodecError

T = TypeVar("T")

#: The content type of what says none.
JSON: Final = "application/json"

#: Characters of the place in an item that a message names.
_LONGEST_PLACE = 100

_ANY_JSON: TypeAdapter[Any] = TypeAdapter(JsonValue)

# Made once: json.dumps() makes one for every call with arguments.
_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


_from_json = json.JSONDecoder(parse_constant=_refuse).decode

# A ValidationError of pydantic is a ValueError.
_DECODING_FAILURES = (ValueError, TypeError, RecursionError)
_ENCODING_FAILURES = (*_DECODING_FAILURES, PydanticSerializationError, OverflowError)


class Codec(Protocol[T]):
    """Turns items into bytes and back."""

    @property
    def content_type(self) -> str:
        """What kind of bytes these are, as in a ``Content-Type`` header; goes with each item."""
        ...

    def encode(self, item: T) -> bytes:
        """The bytes of an item. Raises :class:`penstock.CodecError` where it has none."""
        ...

    def decode(self, data: bytes) -> T:
        """The item of these bytes. Raises :class:`penstock.CodecError` if they are of none."""
        ...


class _Typed(Generic[T]):
    """Items of one type, as pydantic knows it; or else whatever JSON has."""

    content_type: str

    def __init__(self, item_type: type[T] | TypeAdapter[T] | None) -> None:
        self._adapter: TypeAdapter[T] | None = (
            item_type
            if item_type is None or isinstance(item_type, TypeAdapter)
            else TypeAdapter(item_type)
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self._adapter is None else self._adapter})"

    def encode(self, item: T) -> bytes:
        """The bytes of an item, which is checked first.

        Raises:
            CodecError: it is not of the type, or not what the format has.
        """
        try:
            return self._to_bytes(item)
        except _ENCODING_FAILURES as error:
            raise CodecError(
                f"A {type(item).__name__} cannot be encoded as {self.content_type}: "
                f"{_reason(error)}"
            ) from None  # a traceback would show what is in the item

    def decode(self, data: bytes) -> T:
        """The item of these bytes.

        Raises:
            CodecError: they are not of this format, or not of the type.
        """
        try:
            return self._from_bytes(data)
        except _DECODING_FAILURES as error:
            raise CodecError(
                f"{len(data)} bytes cannot be decoded as {self.content_type}: {_reason(error)}"
            ) from None

    def _to_bytes(self, item: T) -> bytes:
        raise NotImplementedError

    def _from_bytes(self, data: bytes) -> T:
        raise NotImplementedError


class JsonCodec(_Typed[T]):
    """Items as JSON.

    Args:
        item_type: a pydantic model, any other type that pydantic knows, or a ``TypeAdapter``:
            items are checked when they are put, and workers get that type. Without it items are
            what JSON has: dicts with str keys, lists, str, int, finite float, bool and None.
    """

    content_type = JSON

    @overload
    def __init__(self: JsonCodec[Any]) -> None: ...
    @overload
    def __init__(self, item_type: type[T] | TypeAdapter[T]) -> None: ...
    def __init__(self, item_type: Any = None) -> None:
        super().__init__(item_type)

    def _to_bytes(self, item: T) -> bytes:
        if self._adapter is not None:
            return self._adapter.dump_json(self._adapter.validate_python(item))
        # json.dumps would take tuples for lists and turn keys into str, without a word.
        _ANY_JSON.validate_python(item)
        return _to_json(item).encode()

    def _from_bytes(self, data: bytes) -> T:
        if self._adapter is not None:
            return self._adapter.validate_json(data)
        item: T = _from_json(data.decode())
        return item


class MsgpackCodec(_Typed[T]):
    """Items as MessagePack, which is shorter and has bytes. Extra ``msgpack``.

    Args:
        item_type: as for :class:`JsonCodec`. With it, they are written as JSON would have them.
            Without it items are what MessagePack has: as JSON, and bytes, and keys that are no str.

    Raises:
        ImportError: without the extra: ``pip install 'penstock[msgpack]'``.
    """

    content_type = "application/msgpack"

    @overload
    def __init__(self: MsgpackCodec[Any]) -> None: ...
    @overload
    def __init__(self, item_type: type[T] | TypeAdapter[T]) -> None: ...
    def __init__(self, item_type: Any = None) -> None:
        super().__init__(item_type)
        try:
            import msgpack
        except ImportError as error:
            raise ImportError(
                "MsgpackCodec needs the extra msgpack: pip install 'penstock[msgpack]'"
            ) from error
        self._msgpack: Any = msgpack

    def _to_bytes(self, item: T) -> bytes:
        value: Any = item
        if self._adapter is not None:
            value = self._adapter.dump_python(self._adapter.validate_python(item), mode="json")
        data: bytes = self._msgpack.packb(value, strict_types=self._adapter is None)
        return data

    def _from_bytes(self, data: bytes) -> T:
        value = self._msgpack.unpackb(data, strict_map_key=False)
        item: T = value if self._adapter is None else self._adapter.validate_python(value)
        return item


def _reason(error: Exception) -> str:
    """Why, without the values: what is in an item is nobody's business but its worker's."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        # Keys are in it, which whoever sent the item made up.
        place = ascii(".".join(map(str, first["loc"])))[1:-1][:_LONGEST_PLACE]
        return f"{place}: {first['msg']}" if place else first["msg"]
    return str(error) or type(error).__name__
