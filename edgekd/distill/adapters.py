"""Bridges from a student's features to a teacher's of another shape: trained with the student, and no part of it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate


def adapter(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module | None:
    """Return the module that gives the student's features the teacher's shape, or None where they have it already.

        (C, H, W) -> (C', H', W')   1x1 convolution with a bias, and `resize` for the height and width
        (C, H, W) -> (D)            mean over height and width, then a linear layer with a bias
        (D) -> (D')                 a linear layer with a bias
        (L, D) -> (L, D')           the same linear layer at each of the L positions

    The bias is there because features after a ReLU have a mean that is not zero, and another one in each network.
    The weights are drawn from torch's global generator.

    Args:
        student: shape of the student's features, without the batch axis.
        teacher: shape of the teacher's features, without the batch axis.

    Raises:
        ValueError: where nothing above fits: the missing positions or pixels would have to be invented.
    """
    if student == teacher:
        return None
    if min((*student, *teacher), default=0) > 0:
        if len(student) == len(teacher) == 3:
            return MapAdapter(student[0], teacher[0], (teacher[1], teacher[2]))
        if len(student) in {1, 3} and len(teacher) == 1:
            return VectorAdapter(student[0], teacher[0])
        if len(student) == len(teacher) == 2 and student[0] == teacher[0]:
            return VectorAdapter(student[1], teacher[1])
    raise ValueError(
        f"no adapter from the student's features {student} to the teacher's {teacher} (shapes without the batch); "
        "there are adapters from maps (C, H, W) to maps or to vectors (D), from vectors to vectors, "
        "and from sequences (L, D) to sequences of the same length"
    )


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (B, C, H, W) at another (height, width).

    An axis that is too long shrinks by adaptive average pooling, one that is too short grows by bilinear interpolation.
    """
    smallest = (min(maps.shape[-2], size[0]), min(maps.shape[-1], size[1]))
    if smallest != maps.shape[-2:]:
        maps = adaptive_avg_pool2d(maps, smallest)
    return maps if smallest == size else interpolate(maps, size, mode="bilinear", align_corners=False)


class MapAdapter(nn.Module):
    """Maps (B, C, H, W) to maps (B, C', H', W').

    Args:
        inputs: C.
        outputs: C'.
        size: (H', W').
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel_size=1)
        self._size = size

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps with the channels, the height and the width of the teacher's."""
        maps = maps.to(self.convolution.weight.dtype)
        # The convolution and the averaging commute (both linear, and averages keep a bias): convolve the smaller map.
        if self._size[0] * self._size[1] < maps.shape[-2] * maps.shape[-1]:
            converted: Tensor = self.convolution(resize(maps, self._size))
            return converted
        return resize(self.convolution(maps), self._size)


class VectorAdapter(nn.Module):
    """Vectors (..., D), or the means over height and width of maps (B, D, H, W), to vectors (..., D').

    Args:
        inputs: D.
        outputs: D'.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return the vectors."""
        features = features.to(self.linear.weight.dtype)
        vectors: Tensor = self.linear(features.mean((-2, -1)) if features.ndim == 4 else features)
        return vectors
