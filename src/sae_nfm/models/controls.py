"""What an NFM is held against: simpler predictions of the SAE's residual, and SAEs and MLPs of its size.

Linear controls are solved exactly, by least squares from streamed normal equations, so that no learning rate
stands between them and their best.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.codes import Codes, transposed_sum, weighted_sum
from sae_nfm.models.nfm import NFMOutput

_SCATTER_COST = 32  # of one scattered addition, in multiply-adds of a matrix product


class LinearControl(nn.Module):
    """Predicts the residual x − x̂ linearly from features φ of the activation or its codes: r̂ = Wᵀ φ + b."""

    def build(self, d_in: int, d_sae: int, num_parameters: int) -> None:
        """Make weights and bias, once the sizes are known."""
        self.weight = nn.Parameter(torch.zeros(self.num_features(d_in, d_sae), d_in), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(d_in), requires_grad=False)

    def num_features(self, d_in: int, d_sae: int) -> int:
        """Length of φ."""
        raise NotImplementedError

    def features(self, x: Float[Tensor, "token d_in"], codes: Codes) -> Codes:
        """φ in sparse form."""
        raise NotImplementedError

    def residual(self, x: Float[Tensor, "... d_in"], codes: Codes) -> Float[Tensor, "... d_in"]:
        """r̂, all in the normaliser's units."""
        raise NotImplementedError


class OutputBias(LinearControl):
    """The mean residual: the output bias that the SAE might lack."""

    def num_features(self, d_in: int, d_sae: int) -> int:
        """None."""
        return 0

    def features(self, x: Float[Tensor, "token d_in"], codes: Codes) -> Codes:
        """None."""
        return Codes(x[:, :0], codes.indices[:, :0])

    def residual(self, x: Float[Tensor, "... d_in"], codes: Codes) -> Float[Tensor, "... d_in"]:
        """The same vector everywhere."""
        return self.bias.expand_as(x)


class DecoderRefit(LinearControl):
    """The decoder and its bias fitted anew to frozen codes: all that an NFM's linear part can do."""

    def num_features(self, d_in: int, d_sae: int) -> int:
        """One a latent."""
        return d_sae

    def features(self, x: Float[Tensor, "token d_in"], codes: Codes) -> Codes:
        """The codes."""
        return codes

    def residual(self, x: Float[Tensor, "... d_in"], codes: Codes) -> Float[Tensor, "... d_in"]:
        """What the refitted decoder adds to the SAE's own."""
        return weighted_sum(codes, self.weight) + self.bias


class AffineMap(LinearControl):
    """An affine map of the activation itself: the linearly predictable error of Engels et al. (2024)."""

    def num_features(self, d_in: int, d_sae: int) -> int:
        """One a dimension."""
        return d_in

    def features(self, x: Float[Tensor, "token d_in"], codes: Codes) -> Codes:
        """The activation."""
        return Codes(x, torch.arange(x.shape[1], device=x.device).expand_as(x))

    def residual(self, x: Float[Tensor, "... d_in"], codes: Codes) -> Float[Tensor, "... d_in"]:
        """Wᵀ x + b."""
        return x @ self.weight + self.bias


class CodesMLP(nn.Module):
    """A plain MLP on the codes with the NFM's number of parameters: r̂ = W_2 relu(W_1 f + b_1) + b_2.

    It stands where an NFM does in an `Autoencoder`, and is trained as one.
    """

    def build(self, d_in: int, d_sae: int, num_parameters: int) -> None:
        """As many hidden units as the parameters allow."""
        hidden = max(1, round((num_parameters - d_in) / (d_sae + d_in + 1)))
        self.W_1 = nn.Parameter(torch.randn(d_sae, hidden) / d_in**0.5)
        self.b_1 = nn.Parameter(torch.zeros(hidden))
        self.out = nn.Linear(hidden, d_in)

    def forward(self, codes: Codes) -> NFMOutput:
        """The prediction, counted as one part."""
        out = self.out(torch.relu(weighted_sum(codes, self.W_1) + self.b_1))
        return NFMOutput(out, torch.zeros_like(out))

    def residual(self, x: Float[Tensor, "... d_in"], codes: Codes) -> Float[Tensor, "... d_in"]:
        """r̂, all in the normaliser's units."""
        return self(codes).total


class NormalEquations:
    """Φᵀ Φ and Φᵀ R of a linear control, with a constant feature for the bias, in float64.

    Args:
        control: built, and solved by `solve_`.
    """

    def __init__(self, control: LinearControl) -> None:
        self.control = control
        num, d_out = control.weight.shape
        self.gram = control.weight.new_zeros(num + 1, num + 1, dtype=torch.float64)
        self.cross = control.weight.new_zeros(num + 1, d_out, dtype=torch.float64)

    def add(
        self, x: Float[Tensor, "token d_in"], codes: Codes, residual: Float[Tensor, "token d_in"]
    ) -> None:
        """Add tokens, by the products of the k active features alone where that is less work."""
        features = self.control.features(x, codes)
        num = len(self.gram)
        values = nn.functional.pad(features.values.double(), (0, 1), value=1.0)
        indices = nn.functional.pad(features.indices, (0, 1), value=num - 1)
        if _SCATTER_COST * values.shape[1] ** 2 > num**2:
            dense = Codes(values, indices).dense(num)
            self.gram += dense.T @ dense
            self.cross += dense.T @ residual.double()
            return
        pairs = (indices.unsqueeze(2) * num + indices.unsqueeze(1)).flatten()
        products = (values.unsqueeze(2) * values.unsqueeze(1)).flatten()
        self.gram.view(-1).index_add_(0, pairs, products)
        self.cross += transposed_sum(values.to(residual.dtype), indices, residual, num)

    @torch.no_grad()
    def solve_(self, ridge: float = 1e-6) -> None:
        """Set the control's weights; `ridge`, relative to the mean diagonal, settles dead latents."""
        scale = self.gram.diagonal().mean()
        regularised = self.gram + ridge * scale * torch.eye(len(self.gram), device=self.gram.device)
        solution = torch.linalg.solve(regularised, self.cross)
        self.control.weight.copy_(solution[:-1])
        self.control.bias.copy_(solution[-1])
