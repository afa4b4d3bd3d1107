"""The sparse sums against the same thing written out densely, in value and gradient."""

import pytest
import torch
from torch.autograd import gradcheck

from sae_nfm.models.codes import Codes, active_latents, encode_dense, encode_topk, weighted_sum

pytestmark = pytest.mark.usefixtures("way")
D_SAE, D_OUT, K = 12, 5, 4


def random_codes(*leading, seed=0, repeat=False):
    """Codes in float64; with `repeat` an index occurs twice in some tokens."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*leading, K, generator=generator, dtype=torch.float64)
    indices = torch.rand(*leading, D_SAE, generator=generator).topk(K, dim=-1).indices
    if repeat:
        indices[..., 1] = indices[..., 0]
    return Codes(values, indices)


def random_weight(seed=1):
    return torch.randn(D_SAE, D_OUT, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("leading", [(7,), (2, 3), (2, 1, 3)])
def test_weighted_sum_is_the_dense_product_in_value_and_gradient(leading, repeat):
    codes, weight = random_codes(*leading, repeat=repeat), random_weight().requires_grad_()
    codes = Codes(codes.values.requires_grad_(), codes.indices)
    upstream = torch.randn(*leading, D_OUT, dtype=torch.float64)

    sparse, dense = weighted_sum(codes, weight), codes.dense(D_SAE) @ weight

    assert sparse.shape == (*leading, D_OUT)
    torch.testing.assert_close(sparse, dense)
    for ours, theirs in zip(
        gradients((sparse * upstream).sum(), codes.values, weight),
        gradients((dense * upstream).sum(), codes.values, weight),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_weighted_sum_passes_gradcheck():
    codes = random_codes(3, repeat=True)
    assert gradcheck(
        lambda values, weight: weighted_sum(Codes(values, codes.indices), weight),
        (codes.values.requires_grad_(), random_weight().requires_grad_()),
    )


def test_weighted_sum_of_a_frozen_weight_or_of_frozen_values_has_the_gradient_of_the_other():
    codes, weight = random_codes(6), random_weight()
    values = codes.values.clone().requires_grad_()
    weighted_sum(Codes(values, codes.indices), weight).sum().backward()
    torch.testing.assert_close(values.grad, weight.sum(1)[codes.indices])

    weight = weight.clone().requires_grad_()
    weighted_sum(codes, weight).sum().backward()
    torch.testing.assert_close(weight.grad, codes.dense(D_SAE).sum(0).unsqueeze(1).expand(-1, D_OUT))


def test_dense_adds_what_is_repeated_and_leaves_the_rest_zero():
    codes = Codes(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[3, 3, 0]]))
    assert codes.dense(5).tolist() == [[4.0, 0.0, 0.0, 3.0, 0.0]]


def dense_encoder(x, weight, bias, k):
    """TopK over all pre-activations, written out by autograd as [token, d_sae]."""
    pre = x @ weight.t() + bias
    kept = torch.zeros_like(pre).scatter(-1, pre.topk(k, dim=-1).indices, 1.0)
    return (pre * kept).relu()


@pytest.fixture
def encoder():
    generator = torch.Generator().manual_seed(2)
    x, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((9, D_OUT), (D_SAE, D_OUT), (D_SAE,))
    )
    return x, weight, bias


# With k = 10 of 12, some of the k largest are negative and so rectified to 0.
@pytest.mark.parametrize("k", [1, K, 10, D_SAE])
def test_encode_topk_is_the_dense_encoder_in_value_and_gradient(encoder, k):
    codes, dense = encode_topk(*encoder, k), dense_encoder(*encoder, k)
    upstream = torch.randn(9, D_SAE, dtype=torch.float64)

    assert codes.values.shape == codes.indices.shape == (9, k)
    torch.testing.assert_close(codes.dense(D_SAE), dense)
    for ours, theirs in zip(
        gradients((codes.values * upstream.gather(1, codes.indices)).sum(), *encoder),
        gradients((dense * upstream).sum(), *encoder),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_encode_topk_passes_gradcheck(encoder):
    assert gradcheck(lambda x, weight, bias: encode_topk(x, weight, bias, K).values, encoder)


def test_what_is_not_active_gets_exactly_no_gradient(encoder):
    x, weight, bias = encoder
    k = 10
    codes = encode_topk(x, weight, bias, k)
    codes.values.sum().backward()

    rectified = codes.values == 0
    assert rectified.any()
    active = torch.zeros(D_SAE, dtype=torch.bool).index_fill_(0, codes.indices[~rectified], True)
    with torch.no_grad():
        bias[0] = -100.0  # out of every token's k largest
    again = encode_topk(x.detach(), weight, bias, 3)
    assert not (again.indices == 0).any()
    weight_grad, bias_grad = gradients(again.values.sum(), weight, bias)
    assert weight_grad[0].abs().max() == 0
    assert bias_grad[0] == 0
    assert (bias.grad > 0).tolist() == active.tolist()


def test_the_backward_pass_of_both_goes_from_output_to_encoder(encoder):
    """Encoder and decoder together, as in the SAE: loss(W_dec · topk(W_enc x)) against autograd."""
    x, weight, bias = encoder
    decoder = random_weight(seed=3).requires_grad_()
    target = torch.randn(9, D_OUT, dtype=torch.float64)
    sparse = weighted_sum(encode_topk(x, weight, bias, K), decoder)
    dense = dense_encoder(x, weight, bias, K) @ decoder
    for ours, theirs in zip(
        gradients((sparse - target).pow(2).sum(), x, weight, bias, decoder),
        gradients((dense - target).pow(2).sum(), x, weight, bias, decoder),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_active_latents_are_those_above_0_padded_to_the_most_active_token():
    latents = torch.tensor(
        [[0.0, 2.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    ).requires_grad_()
    codes = active_latents(latents)
    assert codes.values.shape == (3, 2)
    assert torch.equal(codes.dense(4), latents)
    upstream = torch.arange(12.0).view(3, 4)
    (codes.dense(4) * upstream).sum().backward()
    assert torch.equal(latents.grad, upstream * (latents > 0))


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
def test_where_no_latent_is_active_there_is_one_column_of_nothing(num_tokens):
    codes = active_latents(torch.zeros(num_tokens, D_SAE))
    assert codes.values.shape == (num_tokens, 1)
    assert (codes.values == 0).all()


def test_chunks_of_tokens_make_the_same_codes_and_are_no_larger_than_they_may_be(monkeypatch):
    monkeypatch.setattr("sae_nfm.models.codes.CHUNK", 3 * D_SAE + 1)
    x = torch.randn(2, 5, D_SAE, generator=torch.Generator().manual_seed(0)) - torch.arange(5.0).unsqueeze(1)
    sizes = []

    def latents(chunk):
        sizes.append(len(chunk))
        return chunk.relu()

    codes = encode_dense(latents, x, D_SAE)
    assert sizes == [3, 3, 3, 1]
    assert torch.equal(codes.dense(D_SAE), x.relu())
    assert codes.values.shape == (2, 5, (x > 0).sum(-1).max())
