"""A training step for KL through the frozen model: ours against the plain loop; and what the logits take.

The plain loop is what one writes down first: the whole clean model, the whole spliced model with a graph,
both log-softmaxes of all tokens at once, and `backward`. Both train the linear part and interactions of the
same NFM with Adam.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory import peak_of
from operations import Shape
from timing import Bar, Report, arguments, interleaved, parsed, speedup
from torch import Tensor
from transformers import AutoModelForCausalLM
from vocabulary import VOCABULARY, save_narrow_gpt2

from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.passage import Passage
from sae_nfm.lm.site import Site
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.residuals.nfm import NeuralFactorizationMachine
from sae_nfm.models.saes.topk import TopKSAE
from sae_nfm.settings.schema import ASSETS
from sae_nfm.training.objectives.kl import KL
from sae_nfm.training.parts import make, train_only
from sae_nfm.training.through_model import SiteBatch, ThroughModel

MINE, PLAIN = "sae_nfm", "plain loop"
PARTS = ("linear", "interaction")


def dictionary(lm: LanguageModel, args: argparse.Namespace, x: Tensor) -> Autoencoder:
    """An SAE and an NFM of order 2 on it, which has learnt nothing yet but predicts something."""
    torch.manual_seed(0)
    sae = TopKSAE(lm.d_model, args.d_sae, args.k, b_dec_init="mean")
    nfm = NeuralFactorizationMachine(
        args.d_sae, lm.d_model, order=2, d_embed=args.d_embed, embed_std=0.03, linear=True, bias=True,
        interaction=True, mlp=False, dropout=0.0, fit="linear_then_interaction", fit_k=None,
    )  # fmt: skip
    autoencoder = Autoencoder(Normalizer(lm.d_model), sae, nfm)
    autoencoder.normalizer.fit(x)
    sae.initialize_(autoencoder.normalizer(x))
    nfm.initialize_(autoencoder.explain(x).codes)
    torch.nn.init.normal_(nfm.head.W_out, std=0.01)
    train_only(autoencoder, PARTS)
    return autoencoder


class Step:
    """One training step of the linear part and the interactions."""

    def __init__(self, lm: LanguageModel, site: Site, tokens: Tensor, autoencoder: Autoencoder) -> None:
        self.lm, self.site, self.tokens, self.autoencoder = lm, site, tokens, autoencoder
        trained = [p for p in autoencoder.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=1e-6, fused=True)
        self.scored = tokens != 0

    def __call__(self) -> float:
        """Its loss."""
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def loss(self) -> Tensor:
        """Mean KL over the scored tokens."""
        raise NotImplementedError

    def replacement(self, x: Tensor) -> Tensor:
        """What the dictionary makes of the scored tokens."""
        firing: Any = None  # of an SAE that is not trained nothing is counted
        made = make(self.autoencoder, x, PARTS, firing)
        return made.units.inverse(made.reconstruction)


class Ours(Step):
    """Prefix once, two suffixes up to the unembedding, logits some tokens at a time."""

    def loss(self) -> Tensor:
        """Mean KL over the scored tokens."""
        passage = Passage(self.lm, self.site)
        prefix = passage.prefix(self.tokens)
        batch = SiteBatch(prefix.activation, prefix.resid, self.tokens, self.scored)
        through = ThroughModel(passage, KL(), len(self.tokens))
        return through(self.replacement(prefix.activation[self.scored]), batch) / self.scored.sum()


class Plain(Step):
    """Both runs in full, by Hugging Face's model with a hook."""

    def __init__(self, lm: LanguageModel, site: Site, tokens: Tensor, autoencoder: Autoencoder) -> None:
        super().__init__(lm, site, tokens, autoencoder)
        self.model = AutoModelForCausalLM.from_pretrained(lm.path, dtype=torch.float32).eval()
        self.model.requires_grad_(False)
        self.layer = self.model.base_model.h[site.layer]

    def loss(self) -> Tensor:
        """Mean KL over the scored tokens."""
        with torch.no_grad():
            log_p = self.model(self.tokens).logits.log_softmax(-1)
        with self.layer.register_forward_hook(self._splice):
            log_q = self.model(self.tokens).logits.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)[self.scored].mean()

    def _splice(self, module: Any, args: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        spliced = x.masked_scatter(self.scored.unsqueeze(-1), self.replacement(x[self.scored]))
        return (spliced, *output[1:]) if isinstance(output, tuple) else spliced


def operations(shape: Shape, plain: bool) -> int:
    """Of a step per token, as `operations.py` counts: weights are frozen, so that a backward pass costs as
    much as a forward one, but twice in the attention, whose factors are both activations."""
    behind = shape.n_layers - shape.layer - 1
    backward = shape.layers(behind) + behind * 4 * shape.context * shape.d_model + shape.unembedding()
    forward = 2 * (shape.layers(shape.n_layers if plain else behind) + shape.unembedding())
    own = 0 if plain else shape.layers(shape.layer + 1)
    dictionary = shape.encode() + 3 * (2 * shape.k * shape.d_model + shape.nfm(shape.k))
    return own + forward + backward + dictionary


def tokens_of(lm: LanguageModel, blocks: int) -> Tensor:
    """Random tokens, BOS first."""
    tokens = torch.randint(1, lm.d_vocab, (blocks, 128), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    return tokens


def steps(lm: LanguageModel, args: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Both contestants on the same blocks, each with a dictionary of its own."""
    site, tokens = Site(args.layer, "resid_post"), tokens_of(lm, args.blocks)
    x = lm.prefix(tokens, site).activation[tokens != 0]
    kinds: dict[str, type[Step]] = {MINE: Ours, PLAIN: Plain}
    return {name: kind(lm, site, tokens, dictionary(lm, args, x)) for name, kind in kinds.items()}


def copies_of_logits(name: str, args: argparse.Namespace) -> float:
    """Peak memory of a step in a process of its own, in sizes of the logits, at a vocabulary of 50,257."""
    command = [sys.executable, __file__, "--peak", name, "--blocks", str(args.blocks)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1]) / (args.blocks * 128 * VOCABULARY * 4)


def peak(name: str, args: argparse.Namespace) -> int:
    """Bytes that a first step takes beside what is there before it."""
    with tempfile.TemporaryDirectory() as folder:
        save_narrow_gpt2(Path(folder))
        step = steps(LanguageModel(folder, "float32"), args)[name]
        return peak_of(step)


def main() -> None:
    """Time the steps in turn, measure their memory, and write the table."""
    parser = arguments(__doc__, layer=3, d_sae=2048, k=32, d_embed=64, blocks=16, rounds=15)
    parser.add_argument("--peak", choices=[MINE, PLAIN], help=argparse.SUPPRESS)
    args = parsed(parser)
    if args.peak:
        print(peak(args.peak, args))
        return
    lm = LanguageModel(str(ASSETS / "docs_lm"), "float32")
    contestants = steps(lm, args)
    losses = {name: step() for name, step in contestants.items()}
    seconds = interleaved(contestants, args.rounds)
    copies = {name: copies_of_logits(name, args) for name in contestants}
    shape = Shape(
        "docs_lm", lm.n_layers, lm.d_model, lm.d_vocab, None, args.layer, args.d_sae, args.k, args.d_embed
    )
    allowed = operations(shape, plain=True) / operations(shape, plain=False)
    measured = statistics.median(b / a for a, b in zip(seconds[MINE], seconds[PLAIN], strict=True))
    positions = args.blocks * 128
    Report(
        name="kl_training",
        title=f"A training step for KL: docs_lm, layer {args.layer}, {args.blocks} blocks of 128, NFM on "
        f"d_sae {args.d_sae}, k {args.k}, d_embed {args.d_embed}, float32",
        columns=("", "ms/step", "tokens/s", "sae_nfm is faster by", "peak, copies of the logits at 50,257"),
        rows=[
            [name, 1e3 * min(each), round(positions / min(each)), speedup(seconds, MINE, name), copies[name]]
            for name, each in seconds.items()
        ],
        bars=[
            Bar("speed against the plain loop", measured, 1.5),
            Bar("cost over what operation counts allow", allowed / measured, 1.15, at_least=False),
            Bar("peak memory in copies of the logits", copies[MINE], 2.5, at_least=False),
            Bar("relative difference of the losses", abs(losses[MINE] / losses[PLAIN] - 1), 1e-5, False),
        ],
        notes=[
            "Forward, backward and Adam of the linear part and the interactions; the SAE and the model are "
            f"frozen. Operation counts alone allow {allowed:.2f} ×: the clean prefix is shared, and nothing "
            "else of the plain loop can be left out; the rest is memory, which the plain loop fills with the "
            "logits and their softmaxes. Peaks are of a step of a GPT-2 of width 64 with 50,257 tokens, "
            "beside what the process had before it.",
        ],
        figures={"seconds": seconds, "allowed": allowed, "copies": copies},
    ).publish()  # fmt: skip


if __name__ == "__main__":
    main()
