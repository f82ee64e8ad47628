"""Tiny cells that together use every recipe, network, routing, filter and callback."""

from collections.abc import Mapping

CNN = ("model=cnn", "model.c1=3", "model.c2=4", "model.c3=4", "model.dropout=0")
BASELINE = ("model=baseline_cnn", "model.hidden=16", "model.dropout=0")
CAPSNET = ("model=capsnet", "model.c1=8", "model.c2=16", "model.dim_class=4", "model.decoder=[16]")
WANG = ("model=wang_capsnet", "model.c1=8", "model.c2=16", "model.dim_class=4")
DEEP = ("model=deep_capsnet", "model.capsules=4", "model.dim=4", "model.depth=1", "model.dim_class=4")
ENCODER = ("model.c1=4", "model.c2=4", "model.dropout=0")

DECAY = "+callbacks.lr_decay={_target_:capsexp.callbacks.lr_decay.LearningRateDecay,rate:0.5,steps:3,warmup:2}"
FREEZE = "+callbacks.freeze={_target_:capsexp.callbacks.freeze.Freeze,parameters:['layers.conv1.*']}"
CHECK = "callbacks.memory_check={_target_:capsexp.callbacks.memory_check.MemoryCheck}"
VECTORS = "+callbacks.activity_vectors={_target_:capsexp.callbacks.activity_vectors.ActivityVectors,steps:3}"
LOGISTIC = ("model.normaliser=batch_norm", "model.activation=logistic", "model.module.loss=nll")
LINEAR = ("model.head=linear", "model.module.loss=cross_entropy")
SMALL = "model.primary.types=2"
WINDOWS = "model.layers=[{types:3,dim:16,stride:2}]"
PRUNE = ("recipe=prune_and_retrain", "recipe.correlation_weight=0.1", "pruning.ratio=0.5", "trainer.max_epochs=1")
ACCUMULATE = (*WANG, "routing=max_min", "recipe=accumulate")
WALK = ("recipe=merge_walk", "recipe.steps=2", "pruning=cosine", *CNN)

CELLS: Mapping[str, tuple[str, ...]] = {
    "cnn": (*CNN, DECAY, FREEZE, CHECK),
    "baseline_cnn": BASELINE,
    "capsnet, dynamic": (*CAPSNET, "routing=dynamic", VECTORS),
    "capsnet, max_min": (*CAPSNET, "routing=max_min"),
    "capsnet, uniform": (*CAPSNET, "routing=uniform"),
    "capsnet, fixed": (*CAPSNET, "routing=fixed"),
    "capsnet, self_routing": (*CAPSNET[:-1], *LOGISTIC, "routing=self_routing", "model.decoder=null"),
    "capsnet, self_attention": (*CAPSNET, "routing=self_attention", "routing.bias=true", "routing.epsilon=1e-6"),
    "capsnet, inverted_attention": (*CAPSNET, *LINEAR, "routing=inverted_attention", "model.normaliser=layer_norm"),
    "capsnet, em": (
        *CAPSNET,
        "routing=em",
        "model.normaliser=none",
        "model.activation=logistic",
        "model.module.loss=spread",
    ),
    "capsnet, variational_bayes": (
        *CAPSNET,
        *(
            "routing=variational_bayes",
            "model.normaliser=type_norm",
            "model.activation=logistic",
            "model.module.loss=cross_entropy",
        ),
    ),
    "capsnet, optimised": (*CAPSNET, "routing=optimised"),
    "deep_capsnet": DEEP,
    "deep_capsnet, self_routing": (
        *DEEP,
        *LOGISTIC,
        "routing=self_routing",
        "model.intermediate_normaliser=batch_norm",
    ),
    "sr_capsnet": ("model=sr_capsnet", "model.backbone.channels=[4,4,8]", "model.backbone.blocks=[1,1,1]", SMALL),
    "efficient_capsnet": ("model=efficient_capsnet", "model.backbone.channels=[4,4,4,8]", "model.primary.types=1"),
    "attention_capsnet": ("model=attention_capsnet", "model.backbone.channels=[8]", SMALL, WINDOWS),
    "attention_capsnet, concurrent": (
        *("model=attention_capsnet", "model.concurrent=true", "model.backbone.channels=[8]", SMALL, WINDOWS),
        "routing.iterations=3",
    ),
    "em_capsnet": ("model=em_capsnet", "model.backbone.channels=[8]", SMALL, WINDOWS),
    "vb_capsnet": ("model=vb_capsnet", "model.backbone.channels=[8]", SMALL, WINDOWS),
    "autoencoder, not pre-trained": ("model=autoencoder", *ENCODER, "model.decoder=null"),
    "autoencoder": ("model=autoencoder", *ENCODER, "recipe=autoencode_then_classify"),
    "shared_autoencoder": ("model=shared_autoencoder", *ENCODER, "recipe=autoencode_then_classify"),
    "accumulate": ACCUMULATE,
    "accumulate, kmeans": (*ACCUMULATE, "filter=kmeans"),
    "accumulate, gaussian_mixture": (*ACCUMULATE, "filter=gaussian_mixture"),
    "accumulate, pearson": (*ACCUMULATE, "filter=pearson", "recipe.columns=ground_truth"),
    "accumulate, dot_product": (*ACCUMULATE, "filter=dot_product"),
    "accumulate, deep": (*DEEP, "recipe=accumulate"),
    "retrain": (*ACCUMULATE, "recipe=retrain", "recipe.first_epochs=1"),
    "warm_start": (*ACCUMULATE, "recipe=warm_start", "recipe.first_epochs=1", "recipe.restart=true"),
    "prune, cnn, chip": (*CNN, *PRUNE, "pruning=chip"),
    "prune, capsnet, magnitude": (*CAPSNET, *PRUNE, "pruning=magnitude"),
    "prune, deep, cosine_merge": (*DEEP, *PRUNE, "pruning=cosine_merge"),
    "prune, deep, random": (*DEEP, *PRUNE, "pruning=random", "recipe.inherit=false"),
    "max_depth": (*DEEP, "model.depth=0", "recipe=max_depth", "recipe.limit=1", "callbacks.broken.last=1"),
    "walk, merge": (*WALK, "recipe.mode=merge"),
    "walk, remove, chip": (*WALK, "recipe.mode=remove", "pruning=chip"),
    "walk, reinit": (*WALK, "recipe.mode=reinit"),
}
"""Overrides of each, beside those that all have."""

SETTINGS = ("seed=0,1", "optimizer.lr=5e-3,1e-2", "trainer.gradient_clip_val=0.3")

STACKS: Mapping[str, tuple[str, ...]] = {
    "cnn": (*CNN, "model.c2=2,4", "seed=0,1"),
    "settings": (*CNN, *SETTINGS),
    "autoencoder": ("model=autoencoder", *ENCODER, "model.c2=2,4", "recipe=autoencode_then_classify"),
    "shared_autoencoder": ("model=shared_autoencoder", *ENCODER, "model.c2=2,4", "recipe=autoencode_then_classify"),
    "capsnet": (*CAPSNET, "model.c1=6,8"),
    "wang_capsnet": (*WANG, "routing=max_min", "seed=0,1"),
    "walk": (*WALK, "recipe.mode=merge,remove"),
}
"""Overrides of sweeps whose fits are trained as stacks."""

DEFAULTS: Mapping[str, set[str]] = {"recipe": {"train"}, "filter": {"none"}}
"""What a cell has that does not say otherwise."""
