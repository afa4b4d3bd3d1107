"""Floating-point operations of a KL evaluation, counted by formula: what its two procedures differ in.

Counted are matrix products, a multiplication and an addition as two operations; normalisations, activation
functions, softmax and the KL itself are not. All counts are per token position. With d = d_model, F = d_sae,
m = d_embed, T = tokens per block, V = vocabulary:

- a GPT-2 layer: query, key, value and output projections 4 · 2d², an MLP of width 4d 2 · 2 · 4d²: 24d²;
- a LLaMA layer: the projections 8d², a gated MLP of width w 3 · 2dw;
- attention, in either: scores and weighted values over all T positions, 2 · 2Td;
- unembedding: 2dV;
- SAE: encode 2dF; decode 2Fd with all latents written out, 2kd from the active ones;
- NFM of order 2: linear part, Σ f v and Σ (f v)²: 2F(d + 2m), or 2k(d + 2m); then the MLP 2m(m + d).
"""

from typing import NamedTuple


class Shape(NamedTuple):
    """Sizes of a model, its dictionaries and the spliced layer (from 0, after which the splice is)."""

    name: str
    n_layers: int
    d_model: int
    d_vocab: int
    gated_mlp: int | None
    """Width of a gated MLP; None is GPT-2's plain one."""
    layer: int
    d_sae: int
    k: int
    d_embed: int
    context: int = 128

    def layers(self, number: int) -> int:
        """That many transformer layers, attention included."""
        d = self.d_model
        weights = 24 * d**2 if self.gated_mlp is None else 8 * d**2 + 6 * d * self.gated_mlp
        return number * (weights + 4 * self.context * d)

    def unembedding(self) -> int:
        """Logits."""
        return 2 * self.d_model * self.d_vocab

    def encode(self) -> int:
        """Pre-activations."""
        return 2 * self.d_model * self.d_sae

    def nfm(self, latents: int) -> int:
        """Both parts of the residual, from so many latents."""
        d, m = self.d_model, self.d_embed
        return 2 * latents * (d + 2 * m) + 2 * m * (m + d)


GPT2_SMALL = Shape("GPT-2 small", 12, 768, 50257, None, layer=6, d_sae=24576, k=32, d_embed=64)
OPENLLAMA_3B = Shape("OpenLLaMA-3B", 26, 3200, 32000, 8640, layer=16, d_sae=50000, k=1024, d_embed=300)


def published(shape: Shape, draws: int) -> int:
    """A clean pass, and a full pass with an SAE in it for the SAE, the SAE with its NFM, and every draw."""
    passes = 3 + draws
    model = shape.layers(shape.n_layers) + shape.unembedding()
    sae = 2 * shape.encode()  # encode and a dense decode of the same size
    return passes * model + (passes - 1) * sae + shape.nfm(shape.d_sae)


def ours(shape: Shape, draws: int) -> int:
    """One prefix, one encoding and one sparse decoding; a suffix for the clean run and every condition."""
    passes = 3 + draws
    suffix = shape.layers(shape.n_layers - shape.layer - 1) + shape.unembedding()
    dictionaries = shape.encode() + 2 * shape.k * shape.d_model + shape.nfm(shape.k)
    return shape.layers(shape.layer + 1) + passes * suffix + dictionaries


def allowed_speedup(shape: Shape, draws: int) -> float:
    """How many times fewer operations ours takes."""
    return published(shape, draws) / ours(shape, draws)
