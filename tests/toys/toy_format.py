"""A file format in one file: a text of numbers, decoder rows that are encoder rows too."""

from pathlib import Path

import numpy as np
import torch

from sae_nfm.interop.published import Claims, Published, make_sae
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.saes.topk import TopKSAE


def read(path: str, k: int) -> Published:
    rows = torch.from_numpy(np.loadtxt(path)).float()
    d_sae, d_in = rows.shape
    state = {"W_dec": rows, "W_enc_rows": rows, "b_enc": torch.zeros(d_sae), "b_dec": torch.zeros(d_in)}
    sae, node = make_sae(TopKSAE, {"d_in": d_in, "d_sae": d_sae, "k": k}, state, Path(path))
    return Published(Normalizer(d_in, "none"), sae, node, Claims(layer=1, hook="resid_post"), (Path(path),))
