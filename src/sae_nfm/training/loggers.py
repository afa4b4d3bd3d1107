"""Where curves go: a CSV file or Weights & Biases, one run per stage."""

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, WandbLogger


def csv(folder: Path, stage: str, config: dict[str, Any]) -> CSVLogger:
    """`<folder>/logs/<stage>/metrics.csv`."""
    return CSVLogger(folder, name="logs", version=stage)


def wandb(
    folder: Path,
    stage: str,
    config: dict[str, Any],
    project: str,
    entity: str | None,
    group: str | None,
    tags: list[str],
    offline: bool,
) -> WandbLogger:
    """A W&B run with the study's resolved configuration; job type is the stage."""
    return WandbLogger(
        name=f"{config['name']}-{stage}",
        save_dir=folder,
        project=project,
        entity=entity,
        group=group,
        job_type=stage,
        tags=list(tags),
        offline=offline,
        config=config,
    )
