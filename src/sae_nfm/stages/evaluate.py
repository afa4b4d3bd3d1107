"""The stage that splices every condition into the model over held-out documents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Trainer

from sae_nfm.baselines.surroundings import Surroundings
from sae_nfm.evaluation.blocks import ScoredBlocks
from sae_nfm.evaluation.condition import Condition
from sae_nfm.evaluation.reconstructions import Reconstruction
from sae_nfm.evaluation.task import EvaluationTask, Settings
from sae_nfm.findings import result
from sae_nfm.findings.documents import write_documents
from sae_nfm.findings.summary import Summary
from sae_nfm.findings.warnings import warnings
from sae_nfm.recipes.workshop import Workshop
from sae_nfm.store.store import fingerprint
from sae_nfm.training.callbacks import PassLine, Reached


@dataclass
class Evaluate:
    """Evaluates a study's dictionaries.

    Args:
        scored: blocks and positions that count.
        asked: how many positions were asked for.
        conditions: what is spliced in; the first is `clean`.
        reconstructions: by name.
        settings: how it is done.
        reported: settings of the evaluation that the result repeats.
        folder: of the study.
    """

    scored: ScoredBlocks
    asked: int
    conditions: list[Condition]
    reconstructions: Mapping[str, Reconstruction]
    settings: Settings
    reported: dict[str, Any]
    folder: Path
    name = "evaluation"

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """Everything that is found out about the conditions."""
        task = self._task(workshop)
        self._trainer(workshop.run.trainer, task).test(task, verbose=False)
        return workshop.run.ranks.from_first(lambda: self._found(task, workshop))

    def obtain(self, workshop: Workshop) -> None:
        """Controls, and what the site's activations are like."""
        for name, each in self.reconstructions.items():
            each.build(name, workshop)
        self._surroundings(workshop)

    def _task(self, workshop: Workshop) -> EvaluationTask:
        replacements = {name: each.build(name, workshop) for name, each in self.reconstructions.items()}
        return EvaluationTask(
            workshop.activations.lm,
            workshop.activations.site,
            workshop.autoencoder,
            self.scored,
            self.conditions,
            replacements,
            self._surroundings(workshop),
            self.settings,
            workshop.activations.company,
        )

    def _trainer(self, trainer: Callable[..., Trainer], task: EvaluationTask) -> Trainer:
        line = PassLine(self.name, self.scored.num_tokens, "tokens", lambda: self._reached(task))
        return trainer(precision="32-true", logger=False, callbacks=[line], default_root_dir=self.folder)

    def _reached(self, task: EvaluationTask) -> Reached:
        """Tokens so far, and the mean KL over them with the NFM, or else of the SAE or what is there."""
        roles = [condition.role for condition in self.conditions]
        shown = next((roles.index(role) for role in ("nfm", "sae") if role in roles), len(roles) - 1)
        draws = int(task.sums.draws[shown])
        kl = f"KL {float(task.sums.kl_sum[shown]) / draws:.4f}" if draws else ""
        return Reached(int(task.sums.tokens_by_document.sum()), kl)

    def _surroundings(self, workshop: Workshop) -> Surroundings | None:
        """Read the site's surroundings if a condition asks for them."""
        asked = any("surroundings" in each.needs for each in self.reconstructions.values())
        asked = asked or any(
            c.baseline is not None and c.baseline.needs != "nothing" for c in self.conditions
        )
        return workshop.surroundings() if asked else None

    def _found(self, task: EvaluationTask, workshop: Workshop) -> dict[str, Any]:
        summary = Summary(self.conditions, task.sums.compute(), self.settings.top_n)
        write_documents(summary, fingerprint(self.scored.signature()), self.folder)
        found = result.findings(summary)
        for warning in warnings(found, workshop.curves, self.asked, workshop.activations.lm.dtype):
            workshop.warn(warning)
        entries = found["conditions"].values()
        measurements = sum(each["n"] for each in entries if each["role"] not in ("clean", "identity"))
        quality = task.quality.compute()
        of_sae = ("l0", "explained_variance", "mse", "dead_fraction")
        of_nfm = ("residual_explained", "interaction_share")
        return {
            "lm": {"clean_ce": found["conditions"][self.conditions[0].name]["ce"]},
            "measurements": measurements,
            "sae": {key: quality[key] for key in of_sae},
            "nfm": None if workshop.autoencoder.nfm is None else {key: quality[key] for key in of_nfm},
            "evaluation": self.reported | {"position": self.scored.single},
            **found,
            "planted": result.planted(summary, workshop.autoencoder.plant),
            "timing": {"eval_measurements_per_s": measurements / task.seconds},
        }
