"""The activations of a study's site: the model, its tokens, and every way in which activations are read."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from sae_nfm.data.activations import ActivationModule, ActivationSequence, ActivationStream, Pool
from sae_nfm.data.cache import ActivationCache, CachedActivations
from sae_nfm.data.corpora import Corpus
from sae_nfm.data.tokens import TokenBlocks, TokenSplits, prepare_tokens
from sae_nfm.data.training_blocks import BlockModule
from sae_nfm.lm.model import DTYPES, LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.settings.schema import plain
from sae_nfm.store.company import ALONE, Company
from sae_nfm.store.store import Store, fingerprint

SAMPLE_TOKENS = 32768
"""Training activations that normalisers, decoder biases and plants are fitted on."""


class SiteActivations:
    """Reads activations for training, for controls and for baselines.

    Args:
        cfg: the composed configuration.
        store: where tokens and cached activations are kept.
        lm: the model, where it computes.
        site: where activations are read.
        corpus: the documents.
        cache: how training activations are kept on disk; None where they are not.
        pool: how they are mixed.
        company: the studies of this process.
    """

    def __init__(
        self,
        cfg: DictConfig,
        store: Store,
        lm: LanguageModel,
        site: Site,
        corpus: Corpus,
        cache: ActivationCache | None,
        pool: Pool,
        company: Company = ALONE,
    ) -> None:
        self.cfg, self.store, self.lm, self.site = cfg, store, lm, site
        self.corpus, self.cache, self.pool, self.company = corpus, cache, pool, company

    @cached_property
    def _tokens(self) -> tuple[TokenSplits, dict[str, Any]]:
        cfg, tokenizer = self.cfg, self.lm.tokenizer
        return prepare_tokens(self.store, self.corpus, tokenizer, cfg.context, cfg.splits, cfg.max_tokens)

    def others(self, corpus: Corpus | None, context: int | None) -> TokenSplits:
        """Another corpus as token blocks, or this one in blocks of another length; None is as it is."""
        if corpus is None and context is None:
            return self.splits
        sizes = (context or self.cfg.context, self.cfg.splits, self.cfg.max_tokens)
        return prepare_tokens(self.store, corpus or self.corpus, self.lm.tokenizer, *sizes)[0]

    @property
    def splits(self) -> TokenSplits:
        """The corpus as token blocks, split by document."""
        return self._tokens[0]

    @property
    def seed(self) -> int:
        """Of the order of the tokens, and of all else that is random in a study."""
        return self.cfg.seed

    def reseeded(self, seed: int) -> "SiteActivations":
        """The same activations in the order of another seed."""
        cfg = OmegaConf.create({**self.cfg, "seed": seed})
        how = (self.corpus, self.cache, self.pool, self.company)
        return SiteActivations(cfg, self.store, self.lm, self.site, *how)

    def check_finite(self) -> None:
        """Look at one block before hours are spent; raise a `NotAllowed` where NaN or infinity is in it."""
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

    def training_spec(self) -> dict[str, Any]:
        """The same, and how they are kept until they are trained on."""
        return self.spec() | {"activations": plain(self.cfg.activations)}

    def about(self) -> dict[str, Any]:
        """Model, site and text, in the words of the configuration."""
        revision = self.lm.signature().get("revision")
        return {
            "lm": {"path": self.lm.path, "revision": revision, "dtype": self.lm.dtype},
            "site": {"layer": self.site.layer, "hook": self.site.hook},
            "context": self.cfg.context,
            "corpus": plain(self.cfg.corpus),
        }

    def module(self) -> ActivationModule:
        """What a stage trains on and is validated on."""
        validation_tokens = self.cfg.validation_tokens
        return ActivationModule(self._training, self.validation(0), self.pool, validation_tokens, self.seed)

    def block_module(self, per_step: int) -> BlockModule:
        """Whole blocks to train through the model on, so many a step."""
        train, validation, _ = self.splits
        return BlockModule(train, validation, per_step, self.cfg.validation_tokens, self.seed)

    def stream(self) -> ActivationStream:
        """The training activations, computed anew."""
        return self._stream(self.splits.train, self.seed)

    def validation(self, seed: int) -> ActivationStream:
        """Activations of held-out documents; with seed 0 the same tokens in every study."""
        return self._stream(self.splits.validation, seed)

    @property
    def itemsize(self) -> int:
        """Bytes of a number of an activation as it is read."""
        return (self.cache.dtype if self.cache is not None else DTYPES[self.lm.dtype]).itemsize

    def uncached_bytes(self) -> int:
        """What is to be written before activations are read; 0 where they are cached, or need not be."""
        if self.cache is None:
            return 0
        if (self.store.root / "activations" / fingerprint(self._cached_spec())).exists():
            return 0
        return self._cached_tokens() * self.lm.d_model * self.itemsize

    def _cached_tokens(self) -> int:
        assert self.cache is not None
        wanted = self.cache.tokens or max(self.cfg.train_tokens, self.cfg.nfm_train_tokens)
        return min(wanted, self._stream(self.splits.train, 0).tokens_per_round)

    def _cached_spec(self) -> dict[str, Any]:
        spec = self.training_spec() | {"num_tokens": self._cached_tokens()}
        del spec["seed"]
        return spec

    @cached_property
    def _training(self) -> ActivationSequence:
        """The training activations, from disk where they are cached: the cache is hashed once a study."""
        cache = self.cache
        if cache is None:
            return self.stream()
        any_seed = self._stream(self.splits.train, 0)  # all seeds share the cache, and permute it
        num_tokens, spec = self._cached_tokens(), self._cached_spec()

        def make(folder: Path) -> None:
            cache.write(any_seed, num_tokens, folder)

        folder = self.store.fetch("activations", spec, make, about=self.about)
        where = (self.lm.device, self.company)
        return CachedActivations(cache, folder, num_tokens, self.lm.d_model, self.seed, *where)

    def _stream(self, split: TokenBlocks, seed: int) -> ActivationStream:
        return ActivationStream(self.lm, self.site, split, self.cfg.lm_batch, seed, self.company)


def sample(activations: ActivationSequence) -> torch.Tensor:
    """The first activations, on the CPU."""
    return activations.read(0, min(SAMPLE_TOKENS, activations.tokens_per_round)).float().cpu()
