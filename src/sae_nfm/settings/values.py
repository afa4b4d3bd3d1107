"""What a setting may be: types and ranges, and the error that names a setting that is something else."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache, cached_property, wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

Count = Annotated[int, Field(ge=1, description="whole numbers from 1")]
Natural = Annotated[int, Field(ge=0, description="whole numbers from 0")]
Several = Annotated[int, Field(ge=2, description="whole numbers from 2")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="numbers above 0")]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, description="numbers from 0")]
Fraction = Annotated[float, Field(ge=0, le=1, description="fractions from 0 to 1")]

_PLAIN = {int: "whole numbers", float: "numbers", str: "text", bool: ["true", "false"], NoneType: ["null"]}
_LENIENT = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True)
C = TypeVar("C", bound=type)


class NotAllowed(ValueError):
    """A setting that is not allowed: a mistake of the user's, where every other error is one of the program.

    Args:
        setting: its name, as a user writes it.
        value: what it is.
        allowed: the choices, or what is allowed in words.
        because: what is wrong with the value, where what is allowed does not tell.
    """

    def __init__(self, setting: str, value: object, allowed: str | Sequence[str], because: str = "") -> None:
        super().__init__(setting, value, allowed, because)
        self.setting, self.value, self.allowed, self.because = setting, value, allowed, because

    def __str__(self) -> str:
        choices = [] if isinstance(self.allowed, str) else self.allowed
        because, allowed = self.because and f"{self.because}; ", _words(self.allowed)
        return f"{self.setting}={_shown(self.value)}: {because}allowed are {allowed}" + _nearest(
            str(self.value), choices
        )

    def under(self, key: str) -> "NotAllowed":
        """The same of a setting that stands under a key."""
        return NotAllowed(f"{key}.{self.setting}", self.value, self.allowed, self.because)


def unknown(key: str, value: object, known: Sequence[str]) -> NotAllowed:
    """The error for a setting that there is not."""
    name = key.rpartition(".")[2]
    because = f"there is no setting {name!r} here" + _nearest(name, known)
    return NotAllowed(key, value, ", ".join(known) or "none: it has no settings", because)


def missing(key: str) -> NotAllowed:
    """The error for a setting without a value."""
    return NotAllowed(key, "???", f"values that only you can give, as in {key}=VALUE", "it has no value")


def checked(target: C) -> C:
    """A class whose constructor first holds its arguments against its annotations, ranges included."""
    init: Callable[..., None] = target.__init__

    @wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init(**held(init, inspect.signature(init).bind(self, *args, **kwargs).arguments))

    target.__init__ = __init__
    return target


def held(target: Callable[..., Any], given: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """Settings in the types that the parameters of a target are annotated with; `1e5` is a whole number.

    Args:
        target: a class or a function. The parameters of a dataclass may be dataclasses in turn.
        given: its settings, or some of them. Those that are to become objects are left as they are.
        key: where they stand.

    Raises:
        NotAllowed: there is no such setting, or its value is of another type or out of range.
    """
    parameters, types = inspect.signature(target).parameters, _types(target)
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    out = {}
    for name, value in given.items():
        where = f"{key}.{name}".lstrip(".")
        if name not in parameters and not any_name:
            raise unknown(where, value, list(parameters))
        out[name] = types[name].held(value, where) if name in types else value
    if is_dataclass(target) and (absent := [name for name in parameters if name not in given]):
        raise missing(f"{key}.{absent[0]}".lstrip("."))
    return out


class _Type:
    """A parameter's annotation."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint

    @cached_property
    def adapter(self) -> TypeAdapter:
        return TypeAdapter(self.hint, config=_LENIENT)

    def held(self, value: Any, where: str) -> Any:
        if isinstance(value, Mapping) and "_target_" in value:
            return value
        if inspect.isclass(self.hint) and is_dataclass(self.hint):
            return held(self.hint, value, where) if isinstance(value, Mapping) else value
        of_values = get_args(self.hint)[-1] if get_origin(self.hint) is dict else None
        if inspect.isclass(of_values) and is_dataclass(of_values) and isinstance(value, Mapping):
            return {name: held(of_values, each, f"{where}.{name}") for name, each in value.items()}
        with suppress(ValidationError):
            out = self.adapter.validate_python(value)
            if isinstance(out, bool) == isinstance(value, bool):  # `true` is no number, and 1 is not true
                return out
        raise NotAllowed(where, value, _allowed(self.hint))


@cache
def _types(target: Callable[..., Any]) -> dict[str, _Type]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # of another's class, whose types only a type checker can see
        return {}
    return {name: _Type(hint) for name, hint in hints.items() if name != "return"}


def _allowed(hint: Any) -> str | Sequence[str]:
    """What a type allows, as choices or in words."""
    for described in getattr(hint, "__metadata__", ()):
        if isinstance(described, FieldInfo) and described.description:
            return described.description
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return [str(choice) for choice in arguments]
    if origin in (Union, UnionType):
        parts = [_allowed(part) for part in sorted(arguments, key=lambda part: part is not NoneType)]
        if not any(isinstance(part, str) for part in parts):
            return list(dict.fromkeys(choice for part in parts for choice in part))
        return " and ".join(map(_words, parts))
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return f"lists of {_words(_allowed(arguments[0]))}"
    return _PLAIN.get(hint, getattr(hint, "__name__", str(hint)))


def _words(allowed: str | Sequence[str]) -> str:
    return allowed if isinstance(allowed, str) else ", ".join(allowed)


def _shown(value: object) -> str:
    """A value as it is written on a command line."""
    return json.dumps(value) if value is None or isinstance(value, bool) or value == "" else str(value)


def _nearest(word: str, choices: Sequence[str]) -> str:
    found = get_close_matches(word, choices, n=1)
    return f"; did you mean {found[0]}?" if found else ""
