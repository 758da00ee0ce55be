"""Reading a config: a YAML file and overrides, into a typed dataclass.

An unknown key, a value of the wrong type and a missing file give one sentence each, which names the
place and, for a misspelt key, the nearest key.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

T = TypeVar("T")


class BadConfig(ValueError):
    """A config that can't be used; the message gives the place and the reason."""


def read_config(kind: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """The config in a YAML file, changed by overrides such as `optim.lr=0.001`.

    Args:
        kind: a dataclass; nested dataclasses are sections.
        path: the file. Keys that it leaves out take the defaults of the dataclass.
        overrides: KEY=VALUE each, with dots between section and key.

    Raises:
        BadConfig: the file can't be read, or a key is unknown, missing or of the wrong type.
    """
    try:
        loaded = OmegaConf.load(path)
    except OSError as error:
        raise BadConfig(f"{path} can't be read: {error.strerror or error}.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    schema = OmegaConf.structured(kind)
    config = _merged(schema, loaded, str(path))
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key:
            raise BadConfig(f"an override is KEY=VALUE, as in seed=1; got {override!r}.")
        config = _merged(config, OmegaConf.from_dotlist([override]), override)
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise BadConfig(f"{path} lacks {', '.join(sorted(missing))}.")
    return cast(T, OmegaConf.to_object(config))


def _merged(config: Any, change: Any, place: str) -> Any:
    if not OmegaConf.is_dict(change):
        raise BadConfig(f"{place} must hold keys with values; it holds a list.")
    _check_keys(config, change, place, "")
    try:
        return OmegaConf.merge(config, change)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        where = f" ({error.full_key})" if error.full_key else ""
        raise BadConfig(f"{place}{where}: {reason}.") from None


def _check_keys(config: Any, change: Any, place: str, section: str) -> None:
    for key in change:
        # "in" is false for a key without a value
        if key not in list(config):
            near = difflib.get_close_matches(str(key), [str(name) for name in config], 1, 0.0)
            hint = f" Did you mean {section}{near[0]}?" if near else ""
            raise BadConfig(f"{place}: there is no key {section}{key}.{hint}")
        if OmegaConf.is_dict(change[key]) and is_dataclass(OmegaConf.get_type(config, key)):
            _check_keys(config[key], change[key], place, f"{section}{key}.")
