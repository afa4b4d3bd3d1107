"""What a pair makes of the next token, against the model run twice."""

import torch

from sae_nfm.attribution.effects import moved_tokens
from small_attribution import D_SAE, SITE, small_task


def log_probabilities(task, replacement, block, position):
    """Of the next token, where a block's scored positions are replaced."""
    tokens = task.scored.blocks.all[block : block + 1]
    prefix = task.lm.prefix(tokens, SITE)
    replaced = prefix.activation.masked_scatter((tokens != 0).unsqueeze(-1), replacement)
    return task.lm.splice(replaced, prefix.resid, SITE).log_softmax(-1)[0, position]


@torch.no_grad()
def test_moved_tokens_are_those_of_the_model_with_the_pair_and_without(tmp_path):
    task, _ = small_task(tmp_path, dropout=0.5)
    autoencoder, nfm, block, position = task.autoencoder, task.autoencoder.nfm, 1, 4
    tokens = task.scored.blocks.all[block : block + 1]
    parts = autoencoder(task.lm.prefix(tokens, SITE).activation[tokens != 0])
    i, j = parts.codes.indices[position - 1, :2].tolist()  # the block's first token is not scored
    codes = parts.codes.dense(D_SAE)
    c_ij = nfm.head.width_factor * (nfm.V[i] * nfm.V[j] * nfm.pool_scale) @ nfm.head.W_out
    pair = parts.explained.units.inverse_difference((codes[:, i] * codes[:, j]).unsqueeze(1) * c_ij)
    log_p, log_q = (log_probabilities(task, x, block, position) for x in (parts.whole, parts.whole - pair))
    moved = log_p.exp() - log_q.exp()
    task.train()  # as it was before the pass
    found = moved_tokens(task, (i, j), [{"block": block, "peak": position}])
    for name, order in (("up", moved.argsort(descending=True)), ("down", moved.argsort())):
        assert [one.token for one in found[name]] == order[:6].tolist()
        for one in found[name]:
            torch.testing.assert_close(one.probability, float(moved[one.token]), rtol=1e-6, atol=0)
            torch.testing.assert_close(one.logit, float((log_p - log_q)[one.token]), rtol=1e-6, atol=0)
