"""Reports of bugs that no mutant expresses, and why."""

TRAINING = "training alone: no answer of a model depends on it"
QUANTISES = "about making scales; the specification decodes stored values and makes none"
LONGROPE = "LongRoPE, which no architecture of the specification has"
NOT_DRIVEN = "the suite drives a model forward and never takes tokens back"
HANDED = "what is handed to the rule of acceptance is wrong, not the rule: the suite gives the draft's distribution itself"
RECYCLED = "the suite asks for the layers of a module for further tokens, not for drafts of several steps"

NOT_EXPRESSED: dict[str, str] = {
    "adamw-decay-after-update": TRAINING,
    "adamw-decay-lr-coupling-variant": TRAINING,
    "adamw-eps-scaled-torch": TRAINING,
    "muon-gram-newton-schulz-bug": TRAINING,
    "muon-ns-forced-bf16": TRAINING,
    "muon-scale-variant-mixup": TRAINING,
    "qkclip-max-over-last-forward-only": TRAINING,
    "qkclip-mla-parts": TRAINING,
    "qkclip-negative-max-nan": TRAINING,
    "qkclip-weight-norm-instead-of-logit": TRAINING,
    "router-logits-variable-reused": TRAINING,
    "fp8-absmax-zero-block": QUANTISES,
    "mxfp4-quant-scale-rule": QUANTISES,
    "longrope-long-only": LONGROPE,
    "longrope-offset-instead-of-positions": LONGROPE,
    "longrope-switch-stale-cache": LONGROPE,
    "partial-rope-denominator-rotary-dim": "Gemma 4's proportional rotation, which no architecture of the specification has",
    "yarn-attn-factor-kv-shift-inconsistent": "shifts of a context within its cache, which the specification does not have",
    "yarn-zero-low-boundary-rejected": "a refusal: an assertion rejects bounds that are right",
    "zero-token-rank-combine": "a crash: an empty array where rows of zeros are needed",
    "mask-layer-idx-default-first-full": "a crash: a mask of the wrong length for a cache of fixed size",
    "ring-cache-rollback-noop": NOT_DRIVEN,
    "spec-conv-window-too-narrow": NOT_DRIVEN,
    "spec-recurrent-state-not-rolled-back": NOT_DRIVEN,
    "spec-draft-sampled-from-other-dist": HANDED,
    "spec-greedy-draft-with-soft-q": HANDED,
    "spec-log-residual-cancellation": "below rounding: p (1 - q/p) is p - q to one rounding of p",
    "mtp-glm-carry-norm": RECYCLED,
    "mtp-recycle-unnormed-hidden": RECYCLED,
    "mtp-position-zero-embedding-mask": "a convention of engines for a pair that the specification never makes",
}
