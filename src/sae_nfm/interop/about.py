"""What an artifact's `config.json` says of an SAE, in the words of other formats, and as a model card."""

from collections.abc import Mapping
from typing import Any

from sae_nfm.interop.published import Claims, Published

_FIGURES = {
    "explained_variance": "explained variance",
    "l0": "L0, active latents per token",
    "dead_fraction": "latents that never fire",
    "kl": "mean KL(clean‖spliced), nats per token",
}


def about_model(about: Mapping[str, Any]) -> str | None:
    """The LM's name."""
    lm = about.get("lm") or {}
    return lm.get("name") or lm.get("path")


def about_text(about: Mapping[str, Any]) -> str | None:
    """The corpus's name."""
    corpus = about.get("corpus") or {}
    found = corpus.get("name") or corpus.get("path")
    return None if found is None else str(found)


def hook_name(about: Mapping[str, Any]) -> str | None:
    """TransformerLens's name of the site."""
    site = about.get("site") or {}
    return f"blocks.{site['layer']}.hook_{site['hook']}" if site.get("hook") else None


def claims_of(about: Mapping[str, Any]) -> Claims:
    """What it claims, as of any other format."""
    site = about.get("site") or {}
    return Claims(
        model=about_model(about),
        layer=site.get("layer"),
        hook=site.get("hook"),
        **{name: about.get(name) for name in ("context", "prepend_bos", "l0", "explained_variance")},
    )


def about_published(published: Published) -> dict[str, Any]:
    """The same of an SAE of any format."""
    if published.about:
        return dict(published.about)
    claims = published.claims
    return {
        "lm": {"name": claims.model},
        "site": {"layer": claims.layer, "hook": claims.hook},
        "context": claims.context,
        "prepend_bos": claims.prepend_bos,
        "l0": claims.l0,
        "explained_variance": claims.explained_variance,
    }


def model_card(format: str, use: str, family: str, sizes: tuple[int, int], about: Mapping[str, Any]) -> str:
    """`README.md` of a folder that is published.

    Args:
        format: of its files.
        use: Python that loads them.
        family: of the SAE.
        sizes: d_in and d_sae.
        about: its study's figures.
    """
    rows = {
        "language model": about_model(about),
        "site": hook_name(about),
        "corpus": about_text(about),
        "context": about.get("context"),
        "family": family,
        "d_in, d_sae": f"{sizes[0]}, {sizes[1]}",
        **{words: _shown(about.get(name)) for name, words in _FIGURES.items()},
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value is not None)
    where = hook_name(about) or "a language model"
    return (
        f"---\ntags: [sparse-autoencoder, {format}]\n---\n"
        f"# Sparse autoencoder of {where}\n\n"
        f"Reads and returns activations in the model's own units; written by `sae_nfm` in the format of "
        f"`{format}`.\n\n| | |\n|---|---|\n{table}\n\n```python\n{use}\n```\n"
    )


def _shown(figure: Any) -> str | None:
    return f"{figure:.4g}" if isinstance(figure, int | float) else None
