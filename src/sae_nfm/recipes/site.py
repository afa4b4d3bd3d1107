"""The activations of a study's site: the model, its tokens, and every way in which activations are read."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from sae_nfm import config
from sae_nfm.baselines import surroundings
from sae_nfm.baselines.surroundings import Surroundings
from sae_nfm.data.activations import ActivationModule, ActivationSequence, ActivationStream
from sae_nfm.data.cache import CachedActivations
from sae_nfm.data.tokens import TokenBlocks, TokenSplits, prepare_tokens
from sae_nfm.store.store import Store, fingerprint

SAMPLE_TOKENS = 32768
"""Training activations that normalisers, decoder biases and plants are fitted on."""


class SiteActivations:
    """Reads activations for training, for controls and for baselines.

    Args:
        cfg: the composed configuration.
        store: where tokens, cached activations and surroundings are kept.
        device: where the model computes.
    """

    def __init__(self, cfg: DictConfig, store: Store, device: Any) -> None:
        self.cfg, self.store = cfg, store
        self.site = config.site(cfg)
        self.lm = config.language_model(cfg).to(device)

    @cached_property
    def _tokens(self) -> tuple[TokenSplits, dict[str, Any]]:
        cfg = self.cfg
        corpus = config.corpus(cfg)
        return prepare_tokens(self.store, corpus, self.lm.tokenizer, cfg.context, cfg.splits, cfg.max_tokens)

    @property
    def splits(self) -> TokenSplits:
        """The corpus as token blocks, split by document."""
        return self._tokens[0]

    def check_finite(self) -> None:
        """Look at one block before hours are spent: a broken model shows in its activations or its logits.

        Raises:
            ValueError: NaN or infinity is among them.
        """
        prefix = self.lm.prefix(self.splits.test.tokens([0]), self.site)
        logits = self.lm.suffix(prefix.activation, prefix.resid, self.site)
        self.lm.check_finite(logits, f"its logits, after activations at {self.site.name} that are finite,")

    def spec(self) -> dict[str, Any]:
        """What determines the activations, and the order they come in."""
        cfg = self.cfg
        return {
            "lm": self.lm.signature(),
            "tokens": fingerprint(self._tokens[1]),
            **{name: cfg[name] for name in ("layer", "hook", "context", "seed")},
        }

    def module(self) -> ActivationModule:
        """What a stage trains on and is validated on."""
        cfg = self.cfg
        validation = self._stream(self.splits.validation, 0)  # the same tokens for every seed
        return ActivationModule(self._training, validation, config.pool(cfg), cfg.validation_tokens, cfg.seed)

    def stream(self) -> ActivationStream:
        """The training activations, computed anew."""
        return self._stream(self.splits.train, self.cfg.seed)

    def surroundings(self) -> Surroundings:
        """Mean, covariance and a bank of activations."""
        num_tokens, bank_size = self.cfg.evaluation.covariance_tokens, self.cfg.evaluation.bank_tokens
        sizes = {"covariance_tokens": num_tokens, "bank_tokens": bank_size}

        def make(folder: Path) -> None:
            validation = self._stream(self.splits.validation, self.cfg.seed)
            surroundings.measure(self.stream(), validation, num_tokens, bank_size, folder)

        return surroundings.load(self.store.fetch("surroundings", self.spec() | sizes, make))

    @cached_property
    def _training(self) -> ActivationSequence:
        """The training activations, from disk where they are cached: the cache is hashed once a study."""
        cfg, cache = self.cfg, config.activation_cache(self.cfg)
        if cache is None:
            return self.stream()
        any_seed = self._stream(self.splits.train, 0)  # all seeds share the cache, and permute it
        wanted = cache.tokens or max(cfg.train_tokens, cfg.nfm_train_tokens)
        num_tokens = min(wanted, any_seed.tokens_per_round)
        spec = self.spec() | {"activations": config.plain(cfg.activations), "num_tokens": num_tokens}
        del spec["seed"]
        folder = self.store.fetch("activations", spec, lambda f: cache.write(any_seed, num_tokens, f))
        return CachedActivations(cache, folder, num_tokens, self.lm.d_model, cfg.seed, self.lm.device)

    def _stream(self, split: TokenBlocks, seed: int) -> ActivationStream:
        return ActivationStream(self.lm, self.site, split, self.cfg.lm_batch, seed)


def sample(activations: ActivationSequence) -> torch.Tensor:
    """The first activations, on the CPU."""
    return activations.read(0, min(SAMPLE_TOKENS, activations.tokens_per_round)).float().cpu()
