"""The feature mixer of UML: two encoders' features become one, weighted by channel and by place (spec 3.2).

As the paper has it, X = blockdiag(Wc, Ws) f joins the projections of f = [f_c; f_s], polarised self-attention weighs
its channels by a, then its places by s, and a 1x1 convolution follows. Given a and s, all of this is linear in f:
X q^T = blockdiag(Wc, Ws) (f q^T), and out = (1 + s) * (W_out diag(a) blockdiag(Wc, Ws)) f. So X, the widest tensor of
the network at full resolution, is never formed; a matrix per sample is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _parameter(outputs: int, inputs: int) -> nn.Parameter:
    """A 1x1 convolution's weight as a matrix, Kaiming-normal by fan-out."""
    return nn.Parameter(nn.init.kaiming_normal_(torch.empty(outputs, inputs), mode="fan_out", nonlinearity="relu"))


class LevelMixer(nn.Module):
    """Mixes two features of one level.

    The published mixer also shuffles channels and has biases in the channel attention's query and value. They change
    no output that other weights cannot give: a shuffle renames weights, softmax cancels the query's bias, and
    `channel_out` absorbs the value's. They are left out. The matrices are parameters of this module, not of children:
    ZeRO-3 gathers what a called module owns.

    Args:
        classified: channels of the classification encoder's feature.
        segmented: channels of the segmentation encoder's feature.
        hidden: channels that each is projected to.
        outputs: channels of the mixed feature; None keeps the 2 * hidden ones.
    """

    def __init__(self, classified: int, segmented: int, hidden: int, outputs: int | None) -> None:
        super().__init__()
        joined = 2 * hidden
        self.hidden = hidden
        self.project_classified = _parameter(hidden, classified)
        self.project_segmented = _parameter(hidden, segmented)
        # By fan-out its softmax over places would start as a maximum.
        self.channel_query = nn.Parameter(torch.randn(1, joined) / joined**0.5)
        self.channel_value = nn.Linear(joined, hidden, bias=False)
        self.channel_out = nn.Linear(hidden, joined)
        self.channel_norm = nn.LayerNorm(joined)
        self.place_query = nn.Linear(joined, hidden)
        self.place_value = _parameter(hidden, joined)
        self.place_value_bias = nn.Parameter(torch.empty(hidden).uniform_(-1, 1) / joined**0.5)
        self.out = None if outputs is None else _parameter(outputs, joined)

    def forward(self, classified: Tensor, segmented: Tensor) -> Tensor:
        """The mixed feature (B, outputs, H, W), channels last in memory, of two features (B, channels, H, W)."""
        project = torch.block_diag(self.project_classified, self.project_segmented)  # (2 hidden, channels)
        # Places are the rows, as in memory where channels are last (see `UmlNetwork`). The two are not joined in memory
        # either: backward would keep the copy.
        features = [feature.flatten(2).transpose(1, 2) for feature in (classified, segmented)]  # (B, H W, channels)
        widths = [feature.shape[2] for feature in features]

        def apply(rows: Tensor) -> Tensor:
            """A map's rows (B or 1, outputs, channels) applied to the joined feature: (B, H W, outputs)."""
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
        segmented: channels of the segmentation encoder's.
        hidden: channels that each feature is projected to.
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
        """Four mixed features (B, widths[i], H / 2^i, W / 2^i)."""
        return tuple(level(c, s) for level, c, s in zip(self.levels, classified, segmented, strict=True))
