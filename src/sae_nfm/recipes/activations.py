"""The activations of a study's site: the model, its tokens, and every way in which activations are read."""

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from sae_nfm.data.activations import ActivationModule, ActivationSequence, ActivationStream, Pool
from sae_nfm.data.cache import ActivationCache, CachedActivations
from sae_nfm.data.corpora import Corpus
from sae_nfm.data.tokens import TokenBlocks, TokenSplits, prepare_tokens
from sae_nfm.data.training_blocks import BlockModule
from sae_nfm.lm.checks import are_close
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.settings.schema import plain
from sae_nfm.settings.values import NotAllowed
from sae_nfm.store.company import ALONE, Company
from sae_nfm.store.store import Store, fingerprint

_USUAL = {"skip_positions": 0, "matmul_precision": "highest"}
"""Of a fingerprint only where they are not so: there were others before there were these settings."""
_CUT = ("splits", "max_tokens", "skip_positions")
"""Beside the context, how a corpus becomes blocks."""
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
        text = fingerprint({name: plain(self.cfg[name]) for name in ("corpus", "context", *_CUT)})
        prepare = partial(_prepared, self, self.corpus, self.cfg.context)
        return self.company.kept(("tokens", id(self.lm), self.store.root, text), prepare)

    def others(self, corpus: Corpus | None, context: int | None) -> TokenSplits:
        """Another corpus as token blocks, or this one in blocks of another length; None is as it is."""
        if corpus is None and context is None:
            return self.splits
        return _prepared(self, corpus or self.corpus, context or self.cfg.context)[0]

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

    def spec(self) -> dict[str, Any]:
        """What determines the activations, and the order they come in."""
        cfg = self.cfg
        return {
            "lm": self.lm.signature(),
            "tokens": fingerprint(self._tokens[1]),
            **{name: cfg[name] for name in ("layer", "hook", "context", "seed")},
            **{name: cfg[name] for name, usual in _USUAL.items() if cfg[name] != usual},
        }

    def training_spec(self) -> dict[str, Any]:
        """The same, how they are kept until they are trained on, and how many: these are permuted."""
        spec = self.spec() | {"activations": plain(self.cfg.activations)}
        return spec if self.kept is None else spec | {"num_tokens": self.kept.num_tokens}

    @cached_property
    def kept(self) -> "Kept | None":
        """The training activations on disk; None where they are computed anew."""
        return None if self.cache is None else Kept(self, self.cache)

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
        """What a stage trains on and is validated on; layers behind the site leave the device."""
        if self.company is ALONE:  # others may be behind the site
            self.lm.to(self.lm.device, reading=self.site)
        validation_tokens = self.cfg.validation_tokens
        return ActivationModule(self._training, self.validation(0), self.pool, validation_tokens, self.seed)

    def block_module(self, per_step: int) -> BlockModule:
        """Whole blocks to train through the model on, so many a step."""
        train, validation, _ = self.splits
        return BlockModule(train, validation, per_step, self.cfg.validation_tokens, self.seed)

    def stream(self) -> ActivationStream:
        """The training activations, computed anew."""
        return self._stream(self.splits.train, self.seed)

    def unordered(self) -> ActivationStream:
        """The training activations in an order that is the same in every study."""
        return self._stream(self.splits.train, 0)

    def validation(self, seed: int) -> ActivationStream:
        """Activations of held-out documents; with seed 0 the same tokens in every study."""
        return self._stream(self.splits.validation, seed)

    @cached_property
    def _training(self) -> ActivationSequence:
        """The training activations, from disk where they are cached: the cache is hashed once a study."""
        return self.stream() if self.kept is None else self.kept.sequence()

    def _stream(self, split: TokenBlocks, seed: int) -> ActivationStream:
        return ActivationStream(self.lm, self.site, split, self.cfg.lm_batch, seed, self.company)


def check_model(at: SiteActivations) -> None:
    """Look at one block before hours are spent.

    Raises:
        NotAllowed: NaN or infinity is in it, or the model cut at the site is not the whole one.
    """
    tokens = at.splits.test.tokens([0])
    prefix = at.lm.prefix(tokens, at.site)
    logits = at.lm.suffix(prefix.activation, prefix.resid, at.site)
    at.lm.check_finite(logits, f"its logits, after activations at {at.site.name} that are finite,")
    if not are_close(logits, at.lm.logits(tokens)):
        because = f"run on from {at.site.name}, {type(at.lm.model).__name__} gives other logits"
        allowed = "models whose layers read the residual stream, and nothing else of the tokens"
        raise NotAllowed("lm.path", at.lm.path, allowed, because)


class Kept:
    """Training activations on disk, which all seeds share, and permute.

    Args:
        activations: of the site.
        cache: how they are kept.
    """

    def __init__(self, activations: SiteActivations, cache: ActivationCache) -> None:
        self.activations, self.cache = activations, cache
        cfg, self._stream = activations.cfg, activations.unordered()
        wanted = cache.tokens or max(cfg.train_tokens, cfg.nfm_train_tokens)
        self.num_tokens = min(wanted, self._stream.tokens_per_round)

    def spec(self) -> dict[str, Any]:
        """What determines them."""
        spec = self.activations.training_spec()
        del spec["seed"]
        return spec

    def sequence(self) -> CachedActivations:
        """They, written first where they are not there."""
        at = self.activations

        def make(folder: Path) -> None:
            self.cache.write(self._stream, self.num_tokens, folder)

        folder = at.store.fetch("activations", self.spec(), make, about=at.about)
        where = (at.lm.device, at.company)
        return CachedActivations(self.cache, folder, self.num_tokens, at.lm.d_model, at.seed, *where)


def _prepared(at: SiteActivations, corpus: Corpus, context: int) -> tuple[TokenSplits, dict[str, Any]]:
    how = (at.cfg[name] for name in _CUT)
    return prepare_tokens(at.store, corpus, at.lm.tokenizer, context, *how)


def sample(activations: ActivationSequence) -> torch.Tensor:
    """The first activations, on the CPU."""
    return activations.read(0, min(SAMPLE_TOKENS, activations.tokens_per_round)).float().cpu()
