"""The encoders of UML as published (specification, section 3.1), implemented independently: Res2Net-50 v1b and VGG-16.

All stages are built, also those that the method never runs. Modules have the names of the published weight files.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Norm = Callable[[int], nn.Module]
RES2NET_BLOCKS = (3, 4, 6, 3)
VGG_CONVOLUTIONS = (2, 2, 3, 3, 3)
SCALES = 4


class PublishedFrozenNorm(nn.Module):
    """y = x w rsqrt(var) + (b - mean w rsqrt(var)): batch normalisation of fixed statistics, without epsilon."""

    def __init__(self, channels: int, epsilon: float = 0.0) -> None:
        super().__init__()
        self.epsilon = epsilon
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        inverse = self.weight * torch.rsqrt(self.running_var + self.epsilon)
        return x * inverse.view(1, -1, 1, 1) + (self.bias - self.running_mean * inverse).view(1, -1, 1, 1)


class Bottle2neck(nn.Module):
    """1x1, four scales of 3x3, 1x1, and a shortcut; the first block of a stage does not connect its scales."""

    def __init__(self, inputs: int, planes: int, stride: int, first: bool, norm: Norm) -> None:
        super().__init__()
        width = max(4, planes * 26 // 64)
        self.first = first
        self.conv1 = nn.Conv2d(inputs, width * SCALES, 1, bias=False)
        self.bn1 = norm(width * SCALES)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False) for _ in range(SCALES - 1)
        )
        self.bns = nn.ModuleList(norm(width) for _ in range(SCALES - 1))
        self.conv3 = nn.Conv2d(width * SCALES, planes * 4, 1, bias=False)
        self.bn3 = norm(planes * 4)
        if first:
            self.pool = nn.AvgPool2d(3, stride=stride, padding=1)
            self.downsample = nn.Sequential(
                nn.AvgPool2d(stride, stride=stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(inputs, planes * 4, 1, bias=False),
                norm(planes * 4),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        x1, x2, x3, x4 = torch.split(y, y.shape[1] // SCALES, dim=1)
        s1 = torch.relu(self.bns[0](self.convs[0](x1)))
        s2 = torch.relu(self.bns[1](self.convs[1](x2 if self.first else s1 + x2)))
        s3 = torch.relu(self.bns[2](self.convs[2](x3 if self.first else s2 + x3)))
        s4 = self.pool(x4) if self.first else x4
        y = self.bn3(self.conv3(torch.cat((s1, s2, s3, s4), dim=1)))
        return torch.relu(y + (self.downsample(x) if self.first else x))


class PublishedRes2Net(nn.Module):
    """Outputs features after the stem (stride 1) and the stages of 3, 4 and 6 blocks; the fourth stage is not run."""

    def __init__(self, channels: int, widths: Sequence[int], norm: Norm, dead_stage: bool) -> None:
        super().__init__()
        stem, *outputs = widths
        half = stem // 2
        self.conv1 = nn.Sequential(
            nn.Conv2d(channels, half, 3, padding=1, bias=False), norm(half), nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, bias=False), norm(half), nn.ReLU(),
            nn.Conv2d(half, stem, 3, padding=1, bias=False),
        )  # fmt: skip
        self.bn1 = norm(stem)
        outputs += [2 * outputs[-1]] if dead_stage else []
        for number, (output, blocks) in enumerate(zip(outputs, RES2NET_BLOCKS, strict=False), start=1):
            inputs = stem if number == 1 else outputs[number - 2]
            first = Bottle2neck(inputs, output // 4, 1 if number == 1 else 2, True, norm)
            others = (Bottle2neck(output, output // 4, 1, False, norm) for _ in range(blocks - 1))
            setattr(self, f"layer{number}", nn.Sequential(first, *others))

    def forward(self, image: Tensor) -> list[Tensor]:
        f1 = torch.relu(self.bn1(self.conv1(image)))
        f2 = self.layer1(functional.max_pool2d(f1, 3, stride=2, padding=1))
        f3 = self.layer2(f2)
        return [f1, f2, f3, self.layer3(f3)]


class PublishedVgg(nn.Module):
    """Outputs conv1_2, conv2_2, conv3_3 and conv4_3 after normalisation and ReLU; the fifth stage is not run."""

    def __init__(self, channels: int, widths: Sequence[int], norm: Norm, dead_stage: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: list[int] = []
        stages = [*widths, widths[-1]] if dead_stage else widths
        for width, convolutions in zip(stages, VGG_CONVOLUTIONS, strict=False):
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, width, 3, padding=1), norm(width), nn.ReLU()]
                channels = width
            self.taps.append(len(layers) - 1)
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> list[Tensor]:
        taps = []
        for number, layer in enumerate(self.features):
            image = layer(image)
            if number in self.taps[:4]:
                taps.append(image)
            if len(taps) == 4:
                break
        return taps
