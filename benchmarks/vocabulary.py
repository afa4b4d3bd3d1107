"""A GPT-2 whose logits outweigh everything else: what they take is what is measured of it."""

from pathlib import Path

from transformers import AutoModelForCausalLM, GPT2Config

from sae_nfm.settings.schema import ASSETS

VOCABULARY = 50257


def save_narrow_gpt2(folder: Path) -> None:
    """Random weights of width 64 with GPT-2's vocabulary, and the embedded model's tokenizer."""
    config = GPT2Config(n_embd=64, n_layer=6, n_head=4, vocab_size=VOCABULARY, n_positions=128)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in ASSETS.joinpath("docs_lm").glob("tokenizer*"):
        Path(folder, file.name).write_bytes(file.read_bytes())
