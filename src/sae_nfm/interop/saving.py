"""`save`: an SAE in the format of another tool, which then reads and returns the model's own activations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sae_nfm.interop import dictionary_learning, sae_lens, sae_nfm, sparsify
from sae_nfm.interop.about import model_card
from sae_nfm.interop.published import family_of
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.settings.values import NotAllowed

CARD = "README.md"
_OWN_USE = "import sae_nfm\n\ndictionary = sae_nfm.load(FOLDER)"


class WritableFormat(Protocol):
    """What the file has of a format that can be written."""

    @property
    def USE(self) -> str:
        """Python that loads a FOLDER with the tool itself."""
        ...

    @property
    def FAMILIES(self) -> tuple[str, ...]:
        """Our families that the tool can hold."""
        ...

    @property
    def NORMALIZERS(self) -> tuple[str, ...]:
        """Kinds of normaliser that can be folded in or that the tool has."""
        ...

    def write(self, autoencoder: Autoencoder, family: str, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the files."""
        ...


WRITABLE: Mapping[str, WritableFormat] = {
    "sae_lens": sae_lens,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
}


def save(
    autoencoder: Autoencoder,
    node: Mapping[str, Any],
    folder: str | Path,
    format: str,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write an SAE with a model card.

    What the other tool then encodes and decodes are the model's own activations: an affine normaliser is
    folded into the weights. Latents keep their order, but not always their scale.

    Args:
        autoencoder: its normaliser and itself.
        node: its class as `_target_`, and its settings.
        folder: is made where it is not there.
        format: `sae_lens`, `dictionary_learning`, `sparsify`, or `sae_nfm`, our own.
        about: `lm`, `site`, `corpus`, `context` and figures, as in `sae_nfm.interop.sae_nfm`.

    Raises:
        NotAllowed: the format has no such family or normaliser, or the folder cannot be written to.
    """
    folder, about, family = Path(folder), about or {}, family_of(node["_target_"])
    if format not in (*WRITABLE, sae_nfm.NAME):
        raise NotAllowed("format", format, [*WRITABLE, sae_nfm.NAME])
    if format in WRITABLE:
        _check(autoencoder, family, format)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if format == sae_nfm.NAME:
            use = _OWN_USE
            sae_nfm.write(autoencoder, sae_nfm.sae_config(autoencoder, node, about), folder)
        else:
            use = WRITABLE[format].USE
            WRITABLE[format].write(autoencoder, family, folder, about)
        sizes = (autoencoder.sae.d_in, autoencoder.sae.d_sae)
        card = model_card(format, use, family, sizes, about)
        (folder / CARD).write_text(card, encoding="utf-8")
    except OSError as error:
        raise NotAllowed("out", folder, "folders that can be written to", str(error)) from error


def _check(autoencoder: Autoencoder, family: str, format: str) -> None:
    known, kind = WRITABLE[format], autoencoder.normalizer.kind
    if family not in known.FAMILIES:
        raise NotAllowed("family", family, list(known.FAMILIES), f"{format} has no such SAE")
    if kind not in known.NORMALIZERS:
        raise NotAllowed("normalizer", kind, list(known.NORMALIZERS), f"{format} has no such normaliser")
