"""Train the embedded language model, `src/sae_nfm/assets/docs_lm`, from docstrings.

    python scripts/make_docs_lm.py --out /tmp/docs_lm

takes about 75 minutes on two CPU cores. Text, tokenizer and weights depend on the versions of the installed
packages, so that another installation makes a sibling of the model, not the same bytes.
"""

import argparse
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from tqdm import trange
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sae_nfm.data.docstrings import DocstringCorpus

BOS = "<|endoftext|>"
CONTEXT, VOCABULARY, BATCH, STEPS, WARMUP, LEARNING_RATE = 128, 4096, 64, 2951, 100, 2e-3
PACKAGES = ["stdlib", "torch", "transformers", "scipy", "numpy", "lightning", "datasets", "wandb"]
PACKAGES += ["torchmetrics", "matplotlib", "huggingface_hub", "pandas"]


def documents() -> tuple[list[str], list[str]]:
    """Docstrings to train on, and those of the held-out twentieth of the files."""
    training, held_out = [], []
    for document in DocstringCorpus(PACKAGES, min_chars=200).documents():
        path = document.key.partition(":")[0].partition("/")[2]
        is_held_out = int(hashlib.sha1(path.encode()).hexdigest(), 16) % 20 == 0
        (held_out if is_held_out else training).append(document.text)
    return training, held_out


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose token 0 opens and separates documents."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=VOCABULARY, special_tokens=[BOS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, bos_token=BOS, eos_token=BOS)


def stream(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """All documents, each after a BOS."""
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return torch.tensor([token for document in ids for token in (0, *document)])


def windows(tokens: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """Random windows whose first token is replaced by BOS."""
    starts = torch.randint(len(tokens) - CONTEXT, (num,), generator=generator)
    batch = tokens[starts.unsqueeze(1) + torch.arange(CONTEXT)]
    batch[:, 0] = 0
    return batch


def learning_rate(step: int) -> float:
    """Linear warm-up, then a cosine to 3%."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / (STEPS - WARMUP)
    return 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress))


def groups(model: GPT2LMHeadModel) -> Iterator[dict[str, object]]:
    """Weight decay on matrices only."""
    for decay, is_matrix in ((0.1, True), (0.0, False)):
        chosen = [p for p in model.parameters() if (p.dim() > 1) == is_matrix]
        yield {"params": chosen, "weight_decay": decay}


def train(tokens: Tensor) -> GPT2LMHeadModel:
    """Train on random windows."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=128, n_layer=6, n_head=4,
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(groups(model), lr=LEARNING_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)
    for _ in (bar := trange(STEPS)):
        batch = windows(tokens, BATCH, generator)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(nats=f"{loss.item():.3f}")
    return model


@torch.no_grad()
def held_out_nats(model: GPT2LMHeadModel, tokens: Tensor) -> float:
    """Mean next-token cross-entropy on 128 held-out windows, nats/token."""
    batch = windows(tokens, 128, torch.Generator().manual_seed(1))
    return model.eval()(input_ids=batch, labels=batch).loss.item()


def main() -> None:
    """Train, save in the Hugging Face format, and record the held-out loss beside the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    folder = parser.parse_args().out
    training, held_out = documents()
    tokenizer = train_tokenizer(training)
    model = train(stream(training, tokenizer))
    nats = held_out_nats(model, stream(held_out, tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "held_out.txt").write_text(
        f"{nats:.3f} nats/token on 128 held-out windows of {CONTEXT} tokens\n"
    )
    print(f"{folder}: {nats:.3f} nats/token held out")


if __name__ == "__main__":
    main()
