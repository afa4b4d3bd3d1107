"""A study's configuration, without what it configures: processes that only wait need no more."""

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from pydantic import AfterValidator, Field

from sae_nfm.settings.values import Count, Fraction, Natural, NonNegative, Positive, Several

_PACKAGE = Path(__file__).resolve().parents[1]
ASSETS = _PACKAGE / "assets"
CONFIG_DIR = str(_PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf")
_LONGEST_NAME = 200  # bytes, of the 255 that file systems allow


def _whole(part: dict[str, Any]) -> dict[str, Any]:
    if "_target_" not in part:
        raise ValueError("settings of nothing")
    return part


Part = Annotated[
    dict[str, Any],
    AfterValidator(_whole),
    Field(
        description="settings with a _target_, as in the files of its folder of conf/ (what another choice, "
        "such as nfm=none, has taken away has no settings)"
    ),
]
"""What becomes an object."""


@dataclass
class Splits:
    """Fractions of the documents that are held out."""

    validation: Fraction
    test: Fraction


@dataclass
class StageConfig:
    """A stage that trains parts of the dictionary together; `conf/stage/` has those there are."""

    parts: list[Literal["sae", "linear", "interaction"]]
    objective: str
    tokens: Count
    from_scratch: bool
    optimizer: Part


@dataclass
class EvaluationConfig:
    """How dictionaries are judged; `conf/evaluation/default.yaml` says what the settings mean."""

    reconstructions: list[str]
    baselines: list[str]
    matched: list[str]
    draws: Count
    bos: Literal["keep", "patch"]
    replace: Literal["all", "single"]
    position: Count
    top_n: Natural
    save_tokens: bool
    batch_size: Count
    rows: Count | None
    covariance_tokens: Several
    bank_tokens: Several
    corpus: Part | None
    context: Several | None
    reconstruction: dict[str, Part]
    baseline: dict[str, Part]


@dataclass
class StudyConfig:
    """Everything a study is made of; `conf/study.yaml` gives the values and says what they mean."""

    name: str
    seed: Natural
    lm: Part
    corpus: Part
    activations: Part | None
    splits: Splits
    max_tokens: Count | None
    layer: Natural | None
    hook: str | None
    context: Several
    skip_positions: Natural
    l0: Positive
    normalizer: Literal["scalar", "per_dimension", "none"]
    sae: Part
    nfm: Part | None
    objectives: dict[str, Part]
    objective: str
    sae_objective: str
    nfm_objective: str
    stages: list[str]
    stage: dict[str, StageConfig]
    sae_tuning_tokens: Count
    tuning_tokens: Count
    tuning_optimizer: Part
    tuning_decay: Fraction
    sae_optimizer: Part
    nfm_optimizer: Part
    train_tokens: Count
    nfm_train_tokens: Count
    batch_tokens: Several
    pool_tokens: Count
    validation_tokens: Count
    lm_batch: Count
    warmup: Fraction
    decay: Fraction
    gradient_clip: NonNegative
    checkpoint_every: Count
    validations: Count
    plant: Part | None
    linear_tokens: Count
    evaluation: EvaluationConfig
    eval_tokens: Count
    attribution: Part | None
    trainer: Part
    matmul_precision: Literal["highest", "high", "medium"]
    callbacks: dict[str, Part]
    logger: Part | None
    artifacts: str | None
    verify: bool
    profile: bool
    plan: bool
    optimize: str


def register() -> None:
    """Make the interpolations `asset` and `folder_name` known to OmegaConf."""
    OmegaConf.register_new_resolver("asset", lambda name: str(ASSETS / name), replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)


def folder_name(overrides: str) -> str:
    """A job's overrides as a file name, without what shells and file systems stumble over."""
    name = re.sub(r"[^\w.,+@-]", "_", overrides) or "job"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    start = name.encode()[: _LONGEST_NAME - 9].decode(errors="ignore")
    return f"{start}-{sha256(overrides.encode()).hexdigest()[:8]}"


def given(overrides: Any) -> list[str]:
    """Overrides as they were typed: Hydra's list would resolve their interpolations, and against its own."""
    return [str(override) for override in OmegaConf.to_container(overrides) or []]


def plain(node: Any) -> Any:
    """A config node as plain resolved containers, their keys as text, as they come back of JSON."""
    return _keyed_by_text(OmegaConf.to_container(node, resolve=True)) if OmegaConf.is_config(node) else node


def _keyed_by_text(found: Any) -> Any:
    if isinstance(found, dict):
        return {str(name): _keyed_by_text(value) for name, value in found.items()}
    return [_keyed_by_text(value) for value in found] if isinstance(found, list) else found
