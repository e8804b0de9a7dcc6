"""Small networks with every structure that quantization must know, and a stand-in for trained weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Convolutions with BatchNorm, an identity and a projected shortcut, a mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, 2, 1)
        self.shortcut = nn.Conv2d(8, 16, 1, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.norm(self.first(x)))
        x = F.relu(self.second(x) + self.shortcut(x))
        return self.head(x.mean((2, 3)))


class Mobile(nn.Module):
    """Depthwise and grouped convolutions, ReLU6, max-pool, adaptive pool, flatten, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding="same", groups=16, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 32, 1, groups=4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.depthwise(F.relu6(self.first(x)))))
        x = F.relu6(self.grouped(F.max_pool2d(x, 2)))
        return self.head(self.drop(torch.flatten(self.pool(x), 1)))


class TwoOutputs(nn.Module):
    """A concatenation, and pooled features beside the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.first(x))
        features = torch.cat([x, F.relu(self.second(x))], 1).mean((2, 3))
        return self.head(features), features


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 5))


NETWORKS = {
    "residual": (Residual, (3, 8, 8), ["stem.0", "first", "second", "shortcut", "head"]),
    "mobile": (Mobile, (3, 16, 16), ["first", "depthwise", "grouped", "head"]),
    "two outputs": (TwoOutputs, (3, 8, 8), ["first", "second", "head"]),
    "conv1d": (conv1d, (3, 16), ["0", "3", "6"]),
    "mlp": (mlp, (3, 8, 8), ["1", "3"]),
}


def build(name: str) -> tuple[nn.Module, Tensor, list[str]]:
    """Return a network with used BatchNorm statistics, real-looking inputs (skewed, not centred), its layers' names."""
    make, shape, layers = NETWORKS[name]
    torch.manual_seed(7)
    model, x = make(), torch.randn(64, *shape).exp().clamp(max=6)
    with torch.no_grad():
        for _ in range(3):
            model(x)
    return model.eval(), x, layers
