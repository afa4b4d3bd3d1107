"""Small models of random weights, one of every architecture that is tested, with the embedded tokenizer."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, GPTNeoXConfig, LlamaConfig

from sae_nfm.lm.model import LanguageModel
from sae_nfm.settings.schema import ASSETS

D, LAYERS, VOCABULARY = 24, 3, 4096
_SIZES = {
    "hidden_size": D, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "vocab_size": VOCABULARY, "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS = {
    "gpt2": lambda: GPT2Config(
        n_embd=D, n_layer=LAYERS, n_head=2, vocab_size=VOCABULARY, n_positions=64,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
    ),
    "llama": lambda: LlamaConfig(**_SIZES, num_key_value_heads=2, bos_token_id=0, eos_token_id=0),
    "neox": lambda: GPTNeoXConfig(**_SIZES, use_parallel_residual=True, bos_token_id=0, eos_token_id=0),
    "gemma2": lambda: Gemma2Config(
        **_SIZES, num_key_value_heads=1, head_dim=12, final_logit_softcapping=2.0, query_pre_attn_scalar=12,
        sliding_window=64, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    ),
}  # fmt: skip


@cache
def folder_of(architecture: str) -> Path:
    """A Hugging Face folder of a random model."""
    folder = Path(mkdtemp()) / architecture
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # at its usual start such a model hardly looks at its input
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ASSETS / "docs_lm" / name, folder / name)
    return folder


@cache
def random_lm(architecture: str, dtype: str = "float64") -> LanguageModel:
    return LanguageModel(str(folder_of(architecture)), dtype)


@cache
def hugging_face(architecture: str) -> AutoModelForCausalLM:
    """The same model as `transformers` loads it, in float64.

    With torch's attention, but where that cannot do what the model asks for; the other has its softmax in
    float32, whatever the model is in.
    """
    attention = "eager" if architecture == "gemma2" else "sdpa"
    return AutoModelForCausalLM.from_pretrained(
        folder_of(architecture), dtype=torch.float64, attn_implementation=attention
    ).eval()
