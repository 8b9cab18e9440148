"""The feature mixer of UML: combines the features of two encoders, weighted by channel and by point (spec 3.2).

In the paper, X = blockdiag(Wc, Ws) f concatenates the projections of f = [f_c; f_s], polarised self-attention weights
its channels by a and then its points by s, and a 1x1 convolution follows. Given a and s, all of this is linear in f:
X q^T = blockdiag(Wc, Ws) (f q^T), and out = (1 + s) * (W_out diag(a) blockdiag(Wc, Ws)) f. So X, the widest tensor of
the network at full resolution, is never computed, but a matrix per sample is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _parameter(outputs: int, inputs: int) -> nn.Parameter:
    """Return the weight of a 1x1 convolution as a matrix, initialised by Kaiming's method by fan-out."""
    return nn.Parameter(nn.init.kaiming_normal_(torch.empty(outputs, inputs), mode="fan_out", nonlinearity="relu"))


class LevelMixer(nn.Module):
    """Mixes two features of one level.

    The published mixer also shuffles channels and has biases in query and value of the channel attention. They are left
    out, because they do not change the functions that the network can represent: a shuffle permutes weights, softmax
    cancels the query's bias, and `channel_out` absorbs the value's. The module owns all matrices, because ZeRO-3
    gathers the parameters of the called module.

    Args:
        classified: channels of the classification encoder's feature.
        segmented: channels of the segmentation encoder's feature.
        hidden: channels of each projected feature.
        outputs: channels of the mixed feature; None keeps the 2 * hidden ones.
    """

    def __init__(self, classified: int, segmented: int, hidden: int, outputs: int | None) -> None:
        super().__init__()
        joined = 2 * hidden
        self.hidden = hidden
        self.project_classified = _parameter(hidden, classified)
        self.project_segmented = _parameter(hidden, segmented)
        # By fan-out, the softmax over points would start as a maximum.
        self.channel_query = nn.Parameter(torch.randn(1, joined) / joined**0.5)
        self.channel_value = nn.Linear(joined, hidden, bias=False)
        self.channel_out = nn.Linear(hidden, joined)
        self.channel_norm = nn.LayerNorm(joined)
        self.place_query = nn.Linear(joined, hidden)
        self.place_value = _parameter(hidden, joined)
        self.place_value_bias = nn.Parameter(torch.empty(hidden).uniform_(-1, 1) / joined**0.5)
        self.out = None if outputs is None else _parameter(outputs, joined)

    def forward(self, classified: Tensor, segmented: Tensor) -> Tensor:
        """Mix two features (B, channels, H, W) to (B, outputs, H, W), channels last in memory."""
        project = torch.block_diag(self.project_classified, self.project_segmented)  # (2 hidden, channels)
        # Points are rows, as in memory if channels are last (see `UmlNetwork`). The two features are not concatenated,
        # because the copy would be stored for backward.
        features = [feature.flatten(2).transpose(1, 2) for feature in (classified, segmented)]  # (B, H W, channels)
        widths = [feature.shape[2] for feature in features]

        def apply(rows: Tensor) -> Tensor:
            """Apply the rows of a matrix (B or 1, outputs, channels) to both features: (B, H W, outputs)."""
            first, second = (f @ part.mT for f, part in zip(features, rows.split(widths, 2), strict=True))
            return first + second

        query = apply((self.channel_query @ project).unsqueeze(0)).softmax(1)  # (B, H W, 1)
        pool = torch.cat((query, torch.full_like(query, 1 / query.shape[1])), 2).mT.to(classified.dtype)
        pooled = torch.cat([pool @ feature for feature in features], 2)
        attended, mean = (pooled @ project.T).unbind(1)  # X q^T and the mean of X
        channel = torch.sigmoid(self.channel_norm(self.channel_out(self.channel_value(attended))))

        place_query = self.place_query(mean * channel)  # (B, hidden)
        key = (place_query @ self.place_value) * channel  # (B, 2 hidden)
        offset = (place_query @ self.place_value_bias)[:, None, None]
        rows = torch.diag_embed(channel) if self.out is None else self.out * channel.unsqueeze(1)
        place = torch.sigmoid(apply((key @ project).unsqueeze(1)) + offset)
        mixed = apply(rows @ project) * (1 + place)
        return mixed.mT.unflatten(2, classified.shape[2:])


class FeatureMixer(nn.Module):
    """A `LevelMixer` for each of the four levels.

    Args:
        classified: channels of the classification encoder's four features.
        segmented: channels of the segmentation encoder's four features.
        hidden: channels of each projected feature.
        outputs: channels of the first three mixed features; the fourth keeps 2 * hidden.
    """

    def __init__(
        self, classified: Sequence[int], segmented: Sequence[int], hidden: int, outputs: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.widths = (*outputs, 2 * hidden)
        self.levels = nn.ModuleList(
            LevelMixer(c, s, hidden, out) for c, s, out in zip(classified, segmented, (*outputs, None), strict=True)
        )

    def forward(self, classified: Sequence[Tensor], segmented: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return four mixed features (B, widths[i], H / 2^i, W / 2^i)."""
        return tuple(level(c, s) for level, c, s in zip(self.levels, classified, segmented, strict=True))
