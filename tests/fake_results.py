"""Results as a study would write them, with numbers made up near the published ones."""

import json
import re
from pathlib import Path

import numpy as np

CONTEXT = 128
KL = {  # mean KL, spread of log KL
    "sae": 2.211,
    "sae_linear": 1.5526,
    "sae_interaction": 2.1919,
    "sae_nfm": 1.5504,
    "bias": 2.18,
    "refit": 1.561,
    "affine": 1.91,
    "wide_sae": 2.02,
    "mlp": 1.88,
    "zero": 8.4,
    "mean": 7.9,
}
ROLES = {  # of the others: control
    "clean": "clean",
    "sae": "sae",
    "sae_linear": "linear",
    "sae_interaction": "interaction",
    "sae_nfm": "nfm",
    "sae_alone": "sae_alone",
    "linear_alone": "linear_alone",
    "refit": "refit",
    "zero": "zero",
    "mean": "mean",
}
BASELINES = {"eps": 0.335, "cov": 0.91, "theta": 0.37, "real": 0.97, "permuted": 0.88, "norm_only": 0.02}
OBJECTIVES = {  # KL and squared error of the SAE, with a linear part, with an NFM, with an MLP instead
    "reconstruction": ((0.381, 0.100), (0.262, 0.0712), (0.251, 0.0690), (0.259, 0.0705)),
    "kl": ((0.263, 0.112), (0.198, 0.0871), (0.182, 0.0884), (0.195, 0.0890)),
    "kl_reconstruction": ((0.291, 0.104), (0.213, 0.0743), (0.199, 0.0727), (0.208, 0.0751)),
    "top_n_kl": ((0.272, 0.115), (0.209, 0.0902), (0.194, 0.0921), (0.204, 0.0916)),
    "rank": ((0.352, 0.131), (0.301, 0.1150), (0.287, 0.1185), (0.296, 0.1174)),
    "ce": ((0.284, 0.121), (0.231, 0.0968), (0.219, 0.0995), (0.228, 0.0988)),
    "downstream": ((0.300, 0.106), (0.220, 0.0781), (0.204, 0.0770), (0.215, 0.0786)),
}
EDGES = np.logspace(-6, 1.5, 61)


def interval(value, width=0.01):
    return [value * (1 - width), value * (1 + width)]


def around(value, width=0.01):
    return {"value": value, "ci95": sorted(interval(value, width))}


def what(name):
    """What a condition is, as a result says it."""
    baseline, bracket, target = name.rstrip(")").rpartition("(")
    role = "baseline" if bracket else ROLES.get(name, "control")
    return {"role": role, "reconstruction": None if name == "clean" else target, "baseline": baseline or None}


def fake_condition(name, kl, draws, rng):
    decay = 0.75 + 1.2 / np.sqrt(np.arange(1, CONTEXT))
    position = kl * decay / decay.mean() * rng.normal(1, 0.02, CONTEXT - 1)
    samples = np.log(kl + 1e-12) - 0.35 + rng.normal(0, 0.9, 4000)
    counts = np.histogram(np.exp(samples), EDGES)[0]
    return {
        **what(name),
        "n": 20000 * draws,
        "draws": draws,
        "kl": {
            "mean": kl,
            "ci95": interval(kl, 0.02),
            "std": kl * 0.8,
            "median": kl * 0.7,
            "min": kl / 1e4,
            "max": kl * 8,
            "histogram": {"edges": EDGES.tolist(), "counts": counts.tolist()},
        },
        "ce": 3.1 + 0.8 * kl,
        "ce_increase": 0.8 * kl,
        "ce_increase_ci95": interval(0.8 * kl, 0.03),
        "top1_agreement": float(np.exp(-0.45 * kl)),
        "l2": 4 * kl**0.5,
        "mse": 0.11 * kl**0.7,
        "cosine": 0.9,
        "loss_recovered": 0.8,
        "by_position": {
            "kl": [None, *position.tolist()],
            "ci95": [None, *([0.93 * p, 1.07 * p] for p in position.tolist())],
        },
    }


def fake_settings():
    return {
        "name": "quickstart",
        "seed": 0,
        "layer": 3,
        "hook": "resid_post",
        "context": CONTEXT,
        "train_tokens": 200_000,
        "artifacts": "artifacts",
        "lm": {"_target_": "sae_nfm.lm.model.LanguageModel", "path": "docs_lm", "dtype": "float32"},
        "site": {"layer": 3, "hook": "resid_post"},
        "sae": {"_target_": "sae_nfm.models.saes.topk.TopK", "d_sae": 1024, "k": 32},
        "nfm": {
            "_target_": "sae_nfm.models.residuals.nfm.NFM",
            "order": 2,
            "d_embed": 64,
            "d_sae": 1024,
            "dropout": 0.15,
        },
        "evaluation": {"draws": 5, "baselines": ["eps"], "reconstructions": ["sae", "sae_nfm"]},
        "logger": {"save_dir": "runs/0"},
        "hydra": {"run": {"dir": "runs/0"}},
    }


def fake_tests(kl):
    return [
        {
            "a": a,
            "b": b,
            "difference": {"mean": kl[a] - kl[b], "ci95": sorted(interval(kl[a] - kl[b], 0.05))},
            "paired_t_clustered": {"t": 41.2, "df": 499, "p": 3e-160},
            "wilcoxon": {"statistic": 88.0, "p": 1e-80, "n_documents": 500},
            "cohens_d": 0.93,
            "p_holm": 6e-160,
            "unpaired_t_as_published": {"t": 1503.0, "p": 0.0},
        }
        for a, b in (("sae", "eps(sae)"), ("sae_nfm", "eps(sae_nfm)"), ("sae_nfm", "sae"))
        if a in kl and b in kl
    ]


def fake_along_context(kl):
    """What is taken off falls along the context, from half of its mean more to half of it less."""
    bins, along = [[1, 1], [2, 3], [4, 7], [8, 15], [16, 31], [32, 63], [64, 126]], np.linspace(1.5, 0.5, 7)
    pairs = [("sae", "eps(sae)"), ("sae_nfm", "eps(sae_nfm)"), ("sae_nfm", "sae"), ("sae_nfm", "sae_linear")]
    share = (1 - kl.get("sae_nfm", 0) / kl["sae"]) * along if "sae" in kl else along
    return {
        "bins": bins,
        "tokens": [160, 320, 640, 1280, 2560, 5000, 9000],
        "kl": {name: (value / along).tolist() for name, value in kl.items()},
        "differences": [
            {
                "a": a,
                "b": b,
                "value": ((kl[a] - kl[b]) * along).tolist(),
                "ci95": [sorted(interval(value, 0.2)) for value in (kl[a] - kl[b]) * along],
            }
            for a, b in pairs
            if a in kl and b in kl
        ],
        "reduction": {
            "value": share.tolist(),
            "ci95": [interval(value, 0.1) for value in share.tolist()],
            "early": {"positions": [1, 63], **around(float(share[:6].mean()), 0.1)},
            "late": {"positions": [64, 126], **around(float(share[6]), 0.1)},
            "change": around(float(share[6] - share[:6].mean()), 0.2),
        }
        if {"sae", "sae_nfm"} <= set(kl)
        else None,
    }


def fake_across_documents(kl):
    edges = np.linspace(-0.6, 0.2, 31)
    counts = np.round(40 * np.exp(-0.5 * ((edges[1:] + 0.2) / 0.12) ** 2)).astype(int)
    return [
        {
            "a": "sae_nfm",
            "b": other,
            "documents": int(counts.sum()),
            "lower": 0.94,
            "log_ratio": {
                "edges": edges.tolist(),
                "counts": counts.tolist(),
                "quartiles": [-0.28, -0.2, -0.12],
            },
            "top_tenth": {"fall": 0.22, "tokens": 0.15},
        }
        for other in ("sae", "sae_linear")
        if {"sae_nfm", other} <= set(kl)
    ]


def fake_curves(has_nfm):
    steps = np.arange(2, 201, 2)

    def curve(watched, loss, validation):
        return {
            "watched": watched,
            "tokens_per_step": 1000,
            "late_from": 150,
            "late_change": 0.02,
            "flat": True,
            "loss": [[int(step), float(value)] for step, value in zip(steps, loss, strict=True)],
            "validation": [[50 * i, value] for i, value in enumerate(validation)],
        }

    sae = curve("explained_variance", 0.19 + 0.6 * np.exp(-steps / 30), [0.3, 0.72, 0.79, 0.805, 0.81])
    nfm = curve("residual_explained", 0.71 + 0.02 * np.exp(-steps / 30), [0.25, 0.27, 0.28, 0.289, 0.29])
    return {"sae": sae, "nfm": nfm} if has_nfm else {"sae": sae}


def fake_result(
    reconstructions=("sae", "sae_linear", "sae_interaction", "sae_nfm"),
    baselines=("eps",),
    scale=1.0,
    seed=0,
    levels=KL,
):
    """A result with these reconstructions, each but the ablations with all of these baselines."""
    rng = np.random.default_rng(seed)
    kl = {name: levels.get(name, 1.0) * scale for name in reconstructions}
    kl |= {
        f"{baseline}({name})": kl[name] * BASELINES.get(baseline, 0.5) * rng.normal(1, 0.03)
        for name in reconstructions
        if name not in ("zero", "mean")
        for baseline in baselines
    }
    conditions = {"clean": fake_condition("clean", 0.0, 1, rng) | {"top1_agreement": 1.0, "by_position": {}}}
    conditions |= {
        name: fake_condition(name, value, 5 if "(" in name else 1, rng) for name, value in kl.items()
    }
    ratios = {f"{n}/eps({n})": around(kl[n] / kl[f"eps({n})"]) for n in reconstructions if f"eps({n})" in kl}
    has_nfm = "sae_nfm" in kl
    if has_nfm:
        ratios["sae_nfm/sae"] = around(kl["sae_nfm"] / kl["sae"])
    return {
        "schema": 1,
        "name": "quickstart",
        "seed": 0,
        "fingerprint": "0123456789abcdef",
        "command": "python -m sae_nfm experiment=quickstart",
        "lm": {"path": "docs_lm", "dtype": "float32", "n_layers": 6, "d_model": 128, "clean_ce": 3.1},
        "site": {"layer": 3, "hook": "resid_post"},
        "corpus": {"name": "docstrings", "documents": 812},
        "context": CONTEXT,
        "positions": 20000,
        "documents": 500,
        "measurements": 280000,
        "sae": {
            "family": "topk",
            "d_sae": 1024,
            "k": 32,
            "l0": 32.0,
            "explained_variance": 0.81,
            "mse": 0.2,
            "dead_fraction": 0.02,
        },
        "nfm": {"order": 2, "linear": True, "interaction": True, "interaction_share": 0.05}
        if has_nfm
        else None,
        "evaluation": {"draws": 5, "bos": "keep", "replace": "all"},
        "conditions": conditions,
        "ratios": ratios,
        "pathology": {
            name: {"eps": ratios[f"{name}/eps({name})"]} for name in kl if f"{name}/eps({name})" in ratios
        },
        "pathology_change": {"eps": around(-0.05, 0.4)} if has_nfm and "eps(sae_nfm)" in kl else {},
        "reduction": around(1 - kl["sae_nfm"] / kl["sae"], 0.02) if has_nfm else None,
        "mse_reduction": around(1 - (kl["sae_nfm"] / kl["sae"]) ** 0.7, 0.02) if has_nfm else None,
        "marginal_interaction": {"absolute": around(0.0022, 0.6), "share": around(0.0014, 0.6)}
        if has_nfm
        else None,
        "share_of_codes_bound": {"kl": around(0.48, 0.1)} if has_nfm else None,
        "validation": {"sae": {}, "nfm": {"residual_explained": 0.29}} if has_nfm else {"sae": {}},
        "along_context": fake_along_context(kl),
        "across_documents": fake_across_documents(kl),
        "curves": fake_curves(has_nfm),
        "warnings": [],
        "made_worse": {"sae_nfm vs sae": {"fraction": 0.31}} if has_nfm else {},
        "tests": fake_tests(kl),
        "timing": {"sae_tokens_per_s": 51000.0, "eval_measurements_per_s": 9100.0, "wall_s": 83.0},
        "environment": {"python": "3.11.7", "torch": "2.13.0", "device": "cpu", "git": "2509750"},
        "settings": fake_settings(),
        "choices": {"lm": "docs_lm", "sae": "topk", "nfm": "full", "ablation": "none"},
    }


def swept_result(layer=3, k=32, nfm="full", seed=0, d_sae=1024):
    """A study of a sweep: later layers do more damage, more active latents less, and so on."""
    rng = np.random.default_rng(hash((layer, k, seed, d_sae)) % 2**32)
    scale = (0.6 + 0.12 * layer) * (32 / k) ** 0.5 * (1024 / d_sae) ** 0.2 * rng.normal(1, 0.03)
    parts = {"full": ("sae", "sae_linear", "sae_interaction", "sae_nfm"), "none": ("sae",)}[nfm]
    result = fake_result(parts, scale=scale, seed=seed)
    result["seed"] = seed
    result["sae"] |= {"k": k, "l0": float(k), "explained_variance": 1 - 0.19 * scale, "d_sae": d_sae}
    result["choices"]["nfm"] = nfm
    settings = result["settings"]
    settings |= {"seed": seed, "layer": layer, "site": {"layer": layer, "hook": "resid_post"}}
    settings["sae"] |= {"k": k, "d_sae": d_sae}
    settings["hydra"]["run"]["dir"] = settings["logger"]["save_dir"] = f"multirun/{layer}-{k}-{nfm}-{seed}"
    if nfm == "none":
        settings["nfm"] = None
        settings["evaluation"]["reconstructions"] = ["sae"]
    else:
        settings["nfm"]["d_sae"] = d_sae
        gain = 0.3 * scale / (scale + 0.4) * rng.normal(1, 0.04)
        result["reduction"] = around(gain, 0.03)
        result["mse_reduction"] = around(gain * 0.77, 0.03)
        result["marginal_interaction"]["share"] = around(0.004 * scale * rng.normal(1, 0.3), 0.7)
    return result


def family_result(family="topk", l0=32, explained_variance=0.8, kl=0.2, reduction=0.1, seed=0):
    """A study of an SAE of any family, as one of a sweep over families and sparsities writes it."""
    result = swept_result(seed=seed)
    own = {"k": l0} if family in ("topk", "batch_topk", "matryoshka") else {"l0": float(l0)}
    result["choices"]["sae"] = family
    result["settings"] |= {
        "l0": float(l0),
        "sae": {"_target_": f"sae_nfm.models.saes.{family}.{family}", "d_sae": 1024, **own},
    }
    result["sae"] = {
        "family": family,
        "d_sae": 1024,
        "l0": float(l0),
        "explained_variance": explained_variance,
    }
    result["sae"] |= {"k": l0} if "k" in own else {}
    result["conditions"]["sae"]["kl"] |= {"mean": kl, "ci95": interval(kl, 0.02)}
    return result | {"reduction": around(reduction, 0.03)}


def objective_result(objective="kl", seed=0, layer=3):
    """A study whose NFM is trained for an objective, as one of a sweep over objectives writes it."""
    rng = np.random.default_rng((seed, layer))
    alone, beside = ("sae_alone", "linear_alone"), ("sae", "sae_linear")
    tuned = objective != "reconstruction"
    steps = (*(alone if tuned else beside), "sae_nfm", "mlp")
    at = dict(zip(steps, np.array(OBJECTIVES[objective]) * rng.normal(1, 0.02), strict=True))
    if tuned:  # the SAE as it was fitted, and a linear part that grew up beside interactions
        at |= {"sae": np.array(OBJECTIVES["reconstruction"][0]), "sae_linear": 1.1 * at["linear_alone"]}
    kl = {name: float(place[0]) for name, place in at.items()}
    result = fake_result(tuple(at), scale=1 + 0.1 * (layer - 3), seed=seed, levels=kl)
    for name, place in at.items():
        top_n = {"n": 10, "kl": 0.8 * kl[name], "overlap": 0.8, "kendall_tau": float(np.exp(-1.5 * kl[name]))}
        result["conditions"][name] |= {"mse": float(place[1]), "top_n": top_n}
    share = (1 - kl["sae_nfm"] / kl[steps[1]]) * rng.normal(1, 0.05)
    result["marginal_interaction"] |= {"share": around(share, 0.15), "against": steps[1]}
    settings = result["settings"]
    settings |= {"seed": seed, "layer": layer, "site": {"layer": layer, "hook": "resid_post"}}
    settings |= {"objective": "reconstruction", "sae_objective": "reconstruction", "nfm_objective": objective}
    return result | {"seed": seed}


def renamed(result, names):
    """The result of the same study under other names of its reconstructions."""

    def rename(node):
        if isinstance(node, dict):
            return {new(key): value if key == "role" else rename(value) for key, value in node.items()}
        if isinstance(node, list):
            return [rename(item) for item in node]
        return new(node) if isinstance(node, str) else node

    def new(words):
        return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), words)

    parts = ("conditions", "ratios", "pathology", "made_worse", "tests", "marginal_interaction")
    parts += ("along_context", "across_documents")
    return result | {part: rename(result[part]) for part in parts}


def without_roles(result):
    """The result as it was written before conditions had roles."""
    conditions = {
        name: {key: value for key, value in entry.items() if key not in what(name)}
        for name, entry in result["conditions"].items()
    }
    return result | {"conditions": conditions}


def write_study(folder: Path, result: dict) -> Path:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    return folder
