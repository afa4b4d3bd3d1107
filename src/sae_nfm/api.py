"""The public face: run a study, and look at what it made."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from jaxtyping import Float, Int64
from omegaconf import OmegaConf
from torch import Tensor

from sae_nfm.export import artifacts_of
from sae_nfm.interop import sae_nfm as own_format
from sae_nfm.interop.fits import check_fits
from sae_nfm.interop.loading import load as load_published
from sae_nfm.interop.published import Published
from sae_nfm.launch import study as one_study
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.measures.divergence import Clean, divergence
from sae_nfm.models.autoencoder import Autoencoder, Parts
from sae_nfm.models.codes import Codes
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.models.saes.base import SparseAutoencoder
from sae_nfm.settings.schema import CONFIG_DIR, register
from sae_nfm.settings.values import NotAllowed

CONDITIONS = ("clean", "sae", "sae_linear", "sae_interaction", "sae_nfm")
"""What `Dictionary.kl` splices in; without an NFM the first two."""
_NFM_PARTS = {"sae": (), "sae_linear": ("linear",), "sae_interaction": ("interaction",)}
_NFM_PARTS |= {"sae_nfm": ("linear", "interaction")}


class Dictionary:
    """An SAE, with an NFM or without, at its site of its language model.

    Args:
        autoencoder: normaliser, SAE and NFM.
        site: where it reads and writes.
        lm: name or folder of the model, which is loaded when it is first needed.
        dtype: of the model.
    """

    def __init__(self, autoencoder: Autoencoder, site: Site, lm: str, dtype: str = "float32") -> None:
        self.autoencoder, self.site = autoencoder.eval(), site
        self._lm, self._dtype = lm, dtype

    @property
    def sae(self) -> SparseAutoencoder:
        """The SAE, which works in the normaliser's units."""
        return self.autoencoder.sae

    @property
    def nfm(self) -> ResidualModel | None:
        """The NFM, which predicts the SAE's residual; None where there is none."""
        return self.autoencoder.nfm

    @cached_property
    def lm(self) -> LanguageModel:
        """The frozen model."""
        lm = LanguageModel(self._lm, self._dtype)  # type: ignore[arg-type]
        lm.check(self.site, 2)
        return lm

    def tokens(self, text: str) -> Int64[Tensor, " pos"]:
        """A text's tokens, BOS first, as many as the model takes."""
        tokenizer = self.lm.tokenizer
        bos = tokenizer.bos_token_id
        bos = tokenizer.eos_token_id if bos is None else bos
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([bos, *ids][: self.lm.n_ctx])

    def encode(self, text: str | Int64[Tensor, " pos"]) -> Codes:
        """Active latents at every position of a text, BOS included.

        Args:
            text: a text, or its tokens.

        Returns:
            `values` and `indices`, both [pos, k]; an entry whose value is 0 is inactive.
        """
        return self.parts(text).codes

    def parts(self, text: str | Int64[Tensor, " pos"]) -> Parts:
        """Activations at the site, [pos, d_model], and what the dictionary makes of them."""
        activation = self.lm.prefix(self._block(text), self.site).activation[0]
        with torch.no_grad():
            return self.autoencoder(activation.float())

    @torch.no_grad()
    def reconstruct(
        self, x: Float[Tensor, "... d_model"], condition: str = "sae"
    ) -> Float[Tensor, "... d_model"]:
        """What stands in for activations of the site, in the model's units.

        Args:
            x: activations.
            condition: `sae`, or `sae_linear`, `sae_interaction` or `sae_nfm` where there is an NFM.
        """
        return self._replacement(self.autoencoder(x.float()), condition)

    @torch.no_grad()
    def kl(self, text: str | Int64[Tensor, " pos"], condition: str = "sae") -> Float[Tensor, " pos"]:
        """KL(clean‖spliced) of the next token at every position of a text, in nats/token.

        All positions but BOS are replaced, as in an evaluation.

        Args:
            text: a text, or its tokens.
            condition: one of `CONDITIONS`.
        """
        tokens = self._block(text)
        prefix = self.lm.prefix(tokens, self.site)
        replacement = self._replacement(self.autoencoder(prefix.activation.float()), condition)
        is_first = torch.arange(tokens.shape[1]) == 0
        spliced = torch.where(is_first.view(1, -1, 1), prefix.activation, replacement)
        clean = self.lm.suffix(prefix.activation, prefix.resid, self.site)
        logits = self.lm.suffix(spliced, prefix.resid, self.site)
        return divergence(Clean.of(clean, tokens, top_n=0), logits)[0, 0]

    def _block(self, text: str | Int64[Tensor, " pos"]) -> Int64[Tensor, "block pos"]:
        tokens = self.tokens(text) if isinstance(text, str) else text
        return tokens.unsqueeze(0)

    def _replacement(self, parts: Parts, condition: str) -> Float[Tensor, "... d_model"]:
        allowed = CONDITIONS if self.nfm is not None else CONDITIONS[:2]
        if condition not in allowed:
            raise NotAllowed("condition", condition, allowed)
        if condition == "clean":
            return parts.x
        added = (getattr(parts, name) for name in _NFM_PARTS[condition])
        return sum(added, start=parts.sae)


def load(
    path: str | Path,
    *,
    lm: str | None = None,
    layer: int | None = None,
    hook: str | None = None,
    file: str | None = None,
    format: str = "auto",
) -> Dictionary:
    """What a study made, an artifact, or an SAE of any format that is read here.

    Args:
        path: folder of a finished study (its SAE and its NFM), of an artifact (an SAE, or an NFM with the SAE
            that it is on), or a published SAE: a folder, a file of weights, a name on the Hugging Face hub.
        lm: name or folder of the model, where the files do not say it or it is elsewhere now.
        layer: from 0, where the files do not say it.
        hook: `resid_post`, `resid_pre`, `mlp_out` or `attn_out`, likewise.
        file: a folder or a file below `path`.
        format: of a published SAE.

    Raises:
        NotAllowed: there is no such thing, or it lacks what only you can say.
    """
    folders = artifacts_of(Path(path)) or _of_an_nfm(Path(path))
    published = load_published(folders.get("sae", path), file, format)
    autoencoder = published.autoencoder
    if "nfm" in folders:
        autoencoder.nfm = own_format.read_residual(folders["nfm"])[0]
    claims = published.claims
    model = _said("lm", lm, claims.model)
    site = Site(_said("layer", layer, claims.layer), _said("hook", hook, claims.hook))
    check_fits(published, published.sae.d_in, site)
    return Dictionary(autoencoder, site, model, _dtype(published))


def study(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run a study as `python -m sae_nfm` does, and return what its `result.json` holds.

    Args:
        overrides: as on the command line, `["experiment=quickstart", "sae.k=16"]`.

    Raises:
        NotAllowed: a setting is not.
    """
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        cfg = compose("study", list(overrides), return_hydra_config=True)
        hydra = cfg.hydra
        folder = Path(hydra.run.dir).resolve()
        choices = {name: choice for name, choice in hydra.runtime.choices.items() if "hydra" not in name}
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    folder.mkdir(parents=True, exist_ok=True)
    command = f"sae_nfm.study({list(overrides)!r})"
    return one_study.run(cfg, folder, {"command": command, "choices": choices})


def _of_an_nfm(folder: Path) -> dict[str, Path]:
    """The folders of an NFM that is an artifact and of the SAE that it is on; none for anything else."""
    config = folder / own_format.CONFIG
    if not config.is_file() or "residual" not in (said := json.loads(config.read_text())):
        return {}
    on = said.get("on", {}).get("sae")
    kinds = [kind for kind in ("sae", "published") if (folder.parents[1] / kind / str(on)).is_dir()]
    if not kinds:
        raise NotAllowed("path", folder, "NFMs beside the SAE that they are on", f"its SAE {on} is not there")
    return {"sae": folder.parents[1] / kinds[0] / str(on), "nfm": folder}


def _said(setting: str, given: Any, claimed: Any) -> Any:
    if given is None and claimed is None:
        raise NotAllowed(setting, None, "a value that only you can give", "the files do not say it")
    return claimed if given is None else given


def _dtype(published: Published) -> str:
    return (published.about.get("lm") or {}).get("dtype", "float32")
