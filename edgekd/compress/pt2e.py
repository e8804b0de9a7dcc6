"""What edgekd uses of torchao's PT2E quantization, imported without its chatter.

torchao logs a line for each of its GPU libraries that a machine cannot load, and torch one about torchao's enums. Both
mean nothing here, so exactly these two loggers are raised during the import.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_IMPORT_CHATTER = ("torchao", "torch.utils._pytree")


@contextmanager
def _quiet_loggers(names: tuple[str, ...]) -> Iterator[None]:
    """Let the named loggers speak only of errors."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


with _quiet_loggers(_IMPORT_CHATTER):
    from torchao.quantization.pt2e import (
        DerivedObserverOrFakeQuantize,
        ObserverBase,
        allow_exported_model_train_eval,
    )
    from torchao.quantization.pt2e.observer import MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import (
        DerivedQuantizationSpec,
        QuantizationAnnotation,
        QuantizationSpec,
        QuantizationSpecBase,
        Quantizer,
        SharedQuantizationSpec,
    )

__all__ = [
    "DerivedObserverOrFakeQuantize",
    "DerivedQuantizationSpec",
    "MinMaxObserver",
    "ObserverBase",
    "PerChannelMinMaxObserver",
    "QuantizationAnnotation",
    "QuantizationSpec",
    "QuantizationSpecBase",
    "Quantizer",
    "SharedQuantizationSpec",
    "allow_exported_model_train_eval",
    "convert_pt2e",
    "prepare_pt2e",
]
