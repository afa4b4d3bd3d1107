"""Lay out a W&B project for comparing studies: curves over tokens, KLs and ratios, the table and the report.

    pip install 'sae-nfm[workspace]'
    python scripts/wandb_workspace.py ENTITY sae-nfm

The names are those of `sae_nfm.tracking.wandb_names.summary` and of the training stages' curves.
"""

import argparse
from collections.abc import Sequence

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

TOKENS = "tokens"
TRAINING = ("train/loss", "train/fvu", "train/l0", "train/lr", "train/grad_norm")
VALIDATION = ("validation/explained_variance", "validation/residual_explained", "validation/l0")
KL = ("kl/sae", "kl/sae_linear", "kl/sae_nfm", "kl/eps.sae", "kl/eps.sae_nfm")
GAINS = ("reduction", "marginal_interaction", "mse_reduction", "pathology_change")
MULTIPLES = ("pathology/sae", "pathology/sae_nfm")


def workspace(entity: str, project: str) -> ws.Workspace:
    """The layout, not saved yet.

    Args:
        entity: user or team.
        project: of the studies.
    """
    findings = [
        wr.BarPlot(title="KL(clean‖spliced), nats/token", metrics=list(KL)),
        wr.BarPlot(title="What the NFM takes off, shares", metrics=list(GAINS)),
        wr.BarPlot(title="KL against ε-random errors of the same size", metrics=list(MULTIPLES)),
        wr.ScatterPlot(
            title="Gain against the quality of the SAE", x="sae/explained_variance", y="marginal_interaction"
        ),
    ]
    media = [wr.MediaBrowser(media_keys=[key]) for key in ("conditions", "figures/kl_by_condition", "report")]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="SAE faithfulness",
        sections=[
            ws.Section(name="Findings", panels=findings, is_open=True),
            ws.Section(name="Studies", panels=media, is_open=True),
            ws.Section(name="Validation", panels=_curves(VALIDATION), is_open=True),
            ws.Section(name="Training", panels=_curves(TRAINING), is_open=False),
        ],
        settings=ws.WorkspaceSettings(x_axis=TOKENS),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group"), ws.Metric("JobType")]),
    )


def _curves(names: Sequence[str]) -> list[wr.LinePlot]:
    return [wr.LinePlot(title=name, x=TOKENS, y=[name]) for name in names]


def main(arguments: Sequence[str] | None = None) -> None:
    """Save the layout, and print where it is."""
    parser = argparse.ArgumentParser(description="Lay out a W&B project for comparing studies.")
    parser.add_argument("entity", help="user or team")
    parser.add_argument("project", help="of the studies, as in logger.project")
    given = parser.parse_args(arguments)
    print(workspace(given.entity, given.project).save().url)


if __name__ == "__main__":
    main()
