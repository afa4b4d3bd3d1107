"""Nodes of the configuration and what they describe: their settings held against it, and the objects made."""

import inspect
import pkgutil
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_nfm.settings.schema import StudyConfig, plain
from sae_nfm.settings.values import NotAllowed, held, missing


def typed(cfg: DictConfig) -> DictConfig:
    """The study's configuration, resolved, with every setting in the type that it has to have.

    Raises:
        NotAllowed: a setting is unknown, missing, of another type or out of range.
    """
    try:
        absent, settings = sorted(OmegaConf.missing_keys(cfg)), plain(cfg)
    except OmegaConfBaseException as error:
        allowed = "values, and references to settings that there are"
        raise NotAllowed(str(error.full_key), "${…}", allowed, str(error).partition("\n")[0]) from error
    if absent:
        raise missing(absent[0])
    out = OmegaConf.create(_parts_typed(held(StudyConfig, settings)))
    assert isinstance(out, DictConfig)
    OmegaConf.set_struct(out, True)
    return out


def _parts_typed(node: Any, key: str = "") -> Any:
    """A plain node in which the settings of every `_target_` have the types of its parameters."""
    if isinstance(node, list):
        return [_parts_typed(item, f"{key}.{place}") for place, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    node = {name: _parts_typed(item, f"{key}.{name}".lstrip(".")) for name, item in node.items()}
    if "_target_" not in node:
        return node
    settings = {name: value for name, value in node.items() if not name.startswith("_")}
    return node | held(_target(node["_target_"], key), settings, key)


def _target(name: str, key: str) -> Callable[..., Any]:
    try:
        return pkgutil.resolve_name(name)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        allowed = "classes and functions that can be imported"
        raise NotAllowed(f"{key}._target_", name, allowed, reason) from error


def made(node: DictConfig, **given: Any) -> Any:
    """The object that a node describes.

    Raises:
        NotAllowed: a setting is not, or is missing; the message names it by its whole key.
    """
    key = node._get_full_key(None)
    if not node.get("_partial_") and (absent := _needed(node) - set(node) - set(given)):
        raise missing(f"{key}.{min(absent)}")
    try:
        return instantiate(node, _convert_="all", **given)
    except InstantiationException as error:
        if isinstance(error.__cause__, NotAllowed):
            raise error.__cause__.under(key) from error
        raise


def _needed(node: DictConfig) -> set[Any]:
    """The parameters of a node's target that have no default."""
    parameters = inspect.signature(pkgutil.resolve_name(node._target_)).parameters.values()
    return {p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}


def tried(node: DictConfig, use: Callable[[Any], Any], allowed: str) -> None:
    """Use once what a library makes of its settings.

    Args:
        node: of settings whose ranges only the library knows.
        use: what is done with the object.
        allowed: what is said of a setting that is refused.

    Raises:
        NotAllowed: the library raised; the setting is the first without which it does not, if there is one.
    """
    try:
        use(instantiate(node))
    except Exception as error:
        key, reason = node._get_full_key(None), str(error).partition("\n")[0]
        setting = _culprit(node, use)
        if setting is None:
            raise NotAllowed(key, node, allowed, reason) from error
        raise NotAllowed(f"{key}.{setting}", node[setting], allowed, reason) from error


def _culprit(node: DictConfig, use: Callable[[Any], Any]) -> str | None:
    settings = [str(name) for name in node]
    for setting in settings:
        if not setting.startswith("_"):
            with suppress(Exception):
                use(instantiate(OmegaConf.masked_copy(node, [name for name in settings if name != setting])))
                return setting
    return None
