"""The TopK sparse autoencoder (Gao et al. 2024, "Scaling and evaluating sparse autoencoders")."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_nfm.models.codes import Codes, encode_topk, weighted_sum
from sae_nfm.settings import Count, NotAllowed, checked


@checked
class TopKSAE(nn.Module):
    """x̂ = W_dec f + b_dec with f = relu(TopK_k(W_enc (x − b_dec) + b_enc)) and unit-norm decoder rows.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
        k: active latents per token.
        b_dec_init: where `initialize_` puts the decoder bias.

    Raises:
        NotAllowed: `k` is not between 1 and `d_sae`, or `b_dec_init` is unknown.
    """

    def __init__(
        self, d_in: Count, d_sae: Count, k: Count, b_dec_init: Literal["geometric_median", "mean", "zero"]
    ) -> None:
        super().__init__()
        if k > d_sae:
            raise NotAllowed("k", k, f"1 to d_sae={d_sae}")
        self.d_in, self.d_sae, self.k, self.b_dec_init = d_in, d_sae, k, b_dec_init
        directions = nn.functional.normalize(torch.randn(d_sae, d_in), dim=1)
        self.W_dec = nn.Parameter(directions)
        # One row per latent in memory, as the sparse gradient is: [d_in, d_sae] is a view of it.
        self.W_enc_rows = nn.Parameter(directions.clone())
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """The encoder in the field's usual orientation."""
        return self.W_enc_rows.t()

    @torch.no_grad()
    def initialize_(self, sample: Float[Tensor, "token d_in"]) -> None:
        """Fit what is not random to a sample of normalised training activations.

        `b_dec` goes to their centre, and the encoder, which starts as the decoder's transpose, is scaled so
        that the first reconstructions have the best norm: k unit directions that overlap would overshoot.
        """
        if self.b_dec_init == "geometric_median":
            self.b_dec.copy_(geometric_median(sample))
        elif self.b_dec_init == "mean":
            self.b_dec.copy_(sample.mean(0))
        centred, decoded = sample - self.b_dec, self(sample) - self.b_dec
        self.W_enc_rows.mul_((centred * decoded).sum() / decoded.pow(2).sum().clamp_min(1e-12))

    def encode(self, x: Float[Tensor, "... d_in"]) -> Codes:
        """The k active latents of every token."""
        centred = (x - self.b_dec).flatten(0, -2)
        codes = encode_topk(centred, self.W_enc_rows, self.b_enc, self.k)
        return Codes(*(part.unflatten(0, x.shape[:-1]) for part in codes))

    def decode(self, codes: Codes) -> Float[Tensor, "... d_in"]:
        """x̂ of given codes."""
        return weighted_sum(codes, self.W_dec) + self.b_dec

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Encode and decode."""
        return self.decode(self.encode(x))

    def reconstruct_with(
        self, x: Float[Tensor, "token d_in"], latents: Bool[Tensor, " d_sae"], k: int
    ) -> Float[Tensor, "token d_in"]:
        """The sum W_dec f, without `b_dec`, over the k largest of the given latents only: AuxK's prediction.

        The pre-activations are computed for these latents alone, and the gradient reaches their encoder rows.
        """
        chosen = latents.nonzero().squeeze(1)
        pre = torch.addmm(self.b_enc[chosen], x - self.b_dec, self.W_enc_rows[chosen].t())
        values, indices = pre.topk(min(k, len(chosen)), dim=-1, sorted=False)
        return weighted_sum(Codes(values.relu(), indices), self.W_dec[chosen])

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        """Scale every decoder row to unit norm."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def project_decoder_gradient_(self) -> None:
        """Take the part along each decoder row out of its gradient, which renormalising would undo anyway."""
        if self.W_dec.grad is not None:
            along = torch.linalg.vecdot(self.W_dec.grad, self.W_dec).unsqueeze(1)
            self.W_dec.grad.addcmul_(along, self.W_dec, value=-1)


def geometric_median(
    points: Float[Tensor, "token d_in"], iterations: int = 50, tolerance: float = 1e-5
) -> Float[Tensor, " d_in"]:
    """The point of least summed distance to all points, by Weiszfeld's iteration from their mean."""
    median = points.mean(0)
    for _ in range(iterations):
        weights = 1 / (points - median).norm(dim=1, keepdim=True).clamp_min(1e-8)
        previous, median = median, (points * weights).sum(0) / weights.sum()
        if (median - previous).norm() <= tolerance * median.norm():
            break
    return median
