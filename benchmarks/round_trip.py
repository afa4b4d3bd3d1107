"""SAEs that we write, loaded by the tools whose formats they are in: the same reconstructions?

`make -C benchmarks round_trip` runs it in the peers' environment. Every family under every normaliser that a
tool can hold is written by us and loaded and run by the tool, on raw activations in float32. The weights are
random, none of them 0, and decoder rows are of unequal norm where the family allows it.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from dictionary_learning.utils import load_dictionary
from sae_lens import SAE
from saes_of_all_families import ABOUT, activations, make_family
from sparsify import Sae
from timing import Bar, Report, arguments, parsed
from torch import Tensor

from sae_nfm.interop.saving import WRITABLE, save

MOST = 1e-5


def by_sae_lens(folder: Path) -> Callable[[Tensor], Tensor]:
    """`decode(encode(x))` of SAELens."""
    sae = SAE.load_from_disk(folder)
    return lambda x: sae.decode(sae.encode(x))


def by_dictionary_learning(folder: Path) -> Callable[[Tensor], Tensor]:
    """`decode(encode(x))` of dictionary_learning."""
    sae, _ = load_dictionary(str(folder), "cpu")
    return lambda x: sae.decode(sae.encode(x))


def by_sparsify(folder: Path) -> Callable[[Tensor], Tensor]:
    """`decode(encode(x))` of sparsify."""
    sae = Sae.load_from_disk(folder)

    def reconstruct(x: Tensor) -> Tensor:
        codes = sae.encode(x)
        return sae.decode(codes.top_acts, codes.top_indices)

    return reconstruct


LOADERS = {
    "sae_lens": by_sae_lens,
    "dictionary_learning": by_dictionary_learning,
    "sparsify": by_sparsify,
}


@torch.no_grad()
def difference(format: str, family: str, normalizer: str, subtracts_b_dec: bool, x: Tensor) -> float:
    """Largest ‖theirs − ours‖/‖ours‖ of a token."""
    autoencoder, node = make_family(family, normalizer, subtracts_b_dec)
    with tempfile.TemporaryDirectory() as folder:
        save(autoencoder, node, folder, format, ABOUT)
        theirs = LOADERS[format](Path(folder))(x)
    ours = autoencoder(x).sae
    return float(((theirs - ours).norm(dim=1) / ours.norm(dim=1)).max())


def main() -> None:
    """All of them."""
    args = parsed(arguments(__doc__, tokens=1000))
    x, rows = activations(args.tokens), []
    for format, known in WRITABLE.items():
        for family in known.FAMILIES:
            for normalizer in known.NORMALIZERS:
                found = [difference(format, family, normalizer, subtracts, x) for subtracts in (True, False)]
                rows.append([format, family, normalizer, *found])
    largest = max(max(row[3:]) for row in rows)
    Report(
        name="round_trip",
        title=f"Written by us, read by others: largest relative difference over {args.tokens} tokens",
        columns=("format", "family", "normaliser", "encoder reads x − b_dec", "encoder reads x"),
        rows=rows,
        bars=[Bar("largest relative difference", largest, MOST, at_least=False)],
        notes=["‖theirs − ours‖/‖ours‖ of the reconstruction of raw activations, the worst token, float32."],
        figures={"d_in": x.shape[1]},
    ).publish()


if __name__ == "__main__":
    main()
