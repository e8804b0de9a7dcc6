"""The latency of candidates by a model that is learned on the device; it needs scikit-learn, which training has."""

from __future__ import annotations

from dataclasses import asdict

from edgekd.search import latency_model, timing
from edgekd.search.clock import Clock, Predictor, with_workloads
from edgekd.search.trials import options


def predictor(clock: Clock) -> Predictor:
    """Return the model of a device's latency, learned from random networks that are measured there."""
    shop = clock.job.shop
    model = latency_model.learn(
        clock.name, clock.place, list(clock.templates.values()), clock.reference, clock.feeds,
        store=shop.store, networks=options(clock.job.recipe).networks, method=timing.METHOD, show=shop.show,
    )  # fmt: skip
    facts = {kind: asdict(errors) for kind, errors in model.errors.items()}
    told = (f"{kind} {errors.mape:.1%} (Spearman {errors.spearman:.3f})" for kind, errors in model.errors.items())
    shop.show.say(f"latency model of {clock.name}: mean error on networks held out: {', '.join(told)}")
    return Predictor(with_workloads(model.predict_many), facts)
