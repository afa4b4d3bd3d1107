"""A study's configuration, without what it configures: processes that only wait need no more."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from sae_nfm.jobs import folder_name

ASSETS = Path(__file__).parent / "assets"


@dataclass
class Splits:
    """Fractions of the documents that are held out."""

    validation: float = MISSING
    test: float = MISSING


@dataclass
class StudyConfig:
    """Everything a study is made of; `conf/study.yaml` gives the values and says what they mean."""

    name: str = MISSING
    seed: int = MISSING
    lm: Any = MISSING
    corpus: Any = MISSING
    activations: Any = MISSING
    splits: Splits = MISSING
    max_tokens: int | None = MISSING
    layer: int = MISSING
    hook: str = MISSING
    context: int = MISSING
    normalizer: str = MISSING
    sae: Any = MISSING
    nfm: Any = MISSING
    objective: Any = MISSING
    sae_optimizer: Any = MISSING
    nfm_optimizer: Any = MISSING
    train_tokens: int = MISSING
    nfm_train_tokens: int = MISSING
    batch_tokens: int = MISSING
    pool_tokens: int = MISSING
    validation_tokens: int = MISSING
    lm_batch: int = MISSING
    warmup: float = MISSING
    decay: float = MISSING
    gradient_clip: float = MISSING
    dead_after: int = MISSING
    checkpoint_every: int = MISSING
    validations: int = MISSING
    plant: Any = MISSING
    linear_tokens: int = MISSING
    evaluation: Any = MISSING
    eval_tokens: int = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    artifacts: str = MISSING
    verify: bool = MISSING
    optimize: str = MISSING


def register() -> None:
    """Make the schema known to Hydra, and the interpolations `asset` and `folder_name` to OmegaConf."""
    ConfigStore.instance().store(name="schema", node=StudyConfig)
    OmegaConf.register_new_resolver("asset", lambda name: str(ASSETS / name), replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)


def plain(node: Any) -> Any:
    """A config node as plain resolved containers."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
