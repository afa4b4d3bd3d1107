"""GPT-2s of random weights, so narrow that little but their vocabulary costs anything."""

from pathlib import Path

from transformers import AutoModelForCausalLM, GPT2Config

from sae_nfm.settings.schema import ASSETS

VOCABULARY = 50257


def save_narrow_gpt2(
    folder: Path, width: int = 64, layers: int = 6, vocabulary: int = VOCABULARY, context: int = 128
) -> None:
    """Random weights, and the embedded model's tokenizer, whose tokens the vocabulary has to hold."""
    config = GPT2Config(n_embd=width, n_layer=layers, n_head=4, vocab_size=vocabulary, n_positions=context)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in ASSETS.joinpath("docs_lm").glob("tokenizer*"):
        Path(folder, file.name).write_bytes(file.read_bytes())
