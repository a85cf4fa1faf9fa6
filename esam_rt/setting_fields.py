"""How a setting is described and checked: fields with range, source and meaning, and groups of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from esam_rt.errors import SettingsError, did_you_mean

Value = bool | int | float | str | None
MODELS_OWN = -1  # files of earlier versions hold this number in place of None
NONE_WORDS = ("none", "null")  # TOML files and the command line cannot write None


def switch(default: bool, source: str, meaning: str) -> Any:
    """Return a field that is on or off.

    Args:
        default: Value of the preset ``paper``.
        source: The origin of the default.
        meaning: One plain line.
    """
    return Field(default, description=meaning, json_schema_extra={"source": source})


def choice(default: str, source: str, meaning: str) -> Any:
    """Return a field with one of a few texts. Arguments as in ``switch``."""
    return Field(default, description=meaning, json_schema_extra={"source": source})


def number(default: float | None, low: float, high: float, source: str, meaning: str) -> Any:
    """Return a field with a number from ``low`` to ``high``. Other arguments as in ``switch``."""
    return Field(default, ge=low, le=high, description=meaning, json_schema_extra={"source": source})


def share(default: float | None, source: str, meaning: str) -> Any:
    """Return a field with a number from 0 to 1. Arguments as in ``switch``."""
    return number(default, 0.0, 1.0, source, meaning)


class Group(BaseModel):
    """A group of settings. It is checked on construction and cannot be changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as e:
            raise SettingsError(self._in_words(e)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _old_and_whole_numbers(cls, value: object, info: Any) -> object:
        """Read -1 as the model's own number, and 7.0 as the whole number 7."""
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if annotation is int and isinstance(value, float) and value.is_integer():
            return int(value)
        return None if value == MODELS_OWN and annotation not in (int, float) else value

    def with_changes(self, **values: object) -> Self:
        """Return a copy with some numbers changed.

        Args:
            **values: New values by name.

        Raises:
            SettingsError: A name is unknown or a value is out of range.
        """
        return type(self)(**(dict(self) | values))

    @classmethod
    def infos(cls) -> dict[str, SettingInfo]:
        """Return the descriptions of the settings of this group by full name."""
        group = cls.__name__.lower()
        fields: dict[str, FieldInfo] = cls.model_fields
        return {f"{group}.{name}": SettingInfo.of(f"{group}.{name}", field) for name, field in fields.items()}

    @classmethod
    def _in_words(cls, error: ValidationError) -> str:
        """Describe the first error of pydantic in one line: the name, the value found and the values expected."""
        first, known = error.errors()[0], cls.infos()
        name = f"{cls.__name__.lower()}.{first['loc'][0]}"
        if name not in known:
            return f"Unknown setting {name!r}.{did_you_mean(name, known)}"
        return known[name].refuse(first["input"])


@dataclass(frozen=True)
class SettingInfo:
    """The description of one setting.

    Attributes:
        name: Full name, such as ``emr.delta``.
        kind: ``bool``, ``int``, ``float`` or ``str``.
        default: Value of the preset ``paper``. ``None`` means the model's own number.
        low: Smallest number, or ``None`` if it is no number.
        high: Largest number, or ``None`` if it is no number.
        choices: Accepted texts; empty for other kinds.
        source: The origin of the default.
        meaning: One plain line.
    """

    name: str
    kind: type
    default: Value
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    source: str
    meaning: str

    @classmethod
    def of(cls, name: str, field: FieldInfo) -> SettingInfo:
        """Describe a field of a group.

        Args:
            name: Full name.
            field: The field.
        """
        limits = {type(limit).__name__: limit for limit in field.metadata}
        kinds = get_args(field.annotation)
        choices = kinds if kinds and type(None) not in kinds else ()
        extra: Any = field.json_schema_extra
        return cls(
            name=name,
            kind=str if choices else float if kinds else cast(type, field.annotation),
            default=field.default,
            low=limits["Ge"].ge if "Ge" in limits else None,
            high=limits["Le"].le if "Le" in limits else None,
            choices=choices,
            source=extra["source"],
            meaning=field.description or "",
        )

    @property
    def range(self) -> str:
        """The accepted values in words, such as ``0 to 1``, ``true, false`` or the choices."""
        if self.kind is bool:
            return "true, false"
        return f"{self.low:.10g} to {self.high:.10g}" if self.low is not None else ", ".join(self.choices)

    def read(self, value: object) -> object:
        """Read text as the setting's type; return other values unchanged.

        Args:
            value: Text from the command line or a file, or any other value.

        Raises:
            SettingsError: The text is not of that type.
        """
        if not isinstance(value, str) or self.kind is str:
            return value
        if self.kind is bool:
            if value.lower() not in ("true", "false"):
                raise SettingsError(self.refuse(value))
            return value.lower() == "true"
        if self.default is None and value.lower() in NONE_WORDS:
            return None
        try:
            return float(value)
        except ValueError:
            raise SettingsError(self.refuse(value)) from None

    def refuse(self, value: object) -> str:
        """Return one line that says what was found and what was expected.

        Args:
            value: A value that is not accepted.
        """
        expected = "true or false" if self.kind is bool else f"one of {self.range}" if self.choices else "a number"
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
        if self.kind is int and is_number and value != int(value):  # type: ignore[call-overload]
            expected = "a whole number"
        elif self.low is not None and is_number:
            expected = f"a number from {self.range}"
        own = ", or none for the model's own" if self.default is None else ""
        return f"{self.name} = {value!r}: expected {expected}{own}."
