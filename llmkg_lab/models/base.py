"""What architectures share: reading a config, refusing what is not supported."""

from collections.abc import Collection

from llmkg_lab.base.errors import LabError


class UnsupportedError(LabError):
    """A checkpoint that asks for something no architecture here computes."""


def integer(config: dict, *keys: str) -> int:
    """The first of ``keys`` that the config holds, as a positive int (a hostile config may lie)."""
    for key in keys:
        value = config.get(key)
        if value is not None:
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
                return value
            raise UnsupportedError(f"config.json: {key} is {value!r}, not a positive whole number")
    raise UnsupportedError(f"config.json lacks {keys[0]}")


def require(config: dict, key: str, supported: Collection, default: object) -> None:
    """Refuse a config whose ``key`` asks for anything but ``supported``."""
    value = config.get(key, default)
    if value not in supported:
        names = ", ".join(repr(name) for name in supported)
        raise UnsupportedError(
            f"config.json: {key} is {value!r}", f"this architecture computes {names}"
        )
