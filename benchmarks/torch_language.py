"""The language models of scaling/models, in PyTorch."""

import torch
from torch import nn
from torch.nn import functional as F


class Transformer(nn.Module):
    """Learned positions, layer norm first, GELU by tanh, a tied head, no biases."""

    def __init__(self, vocabulary, length, layers, width, ffn, heads):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, ffn, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, bias=False)

    def forward(self, tokens):
        h = self.norm(self.blocks(self.embedding(tokens) + self.positions))
        return F.linear(h, self.embedding.weight)


class Block(nn.Module):
    """Causal attention, then a feed-forward layer, each added to its input."""

    def __init__(self, width, ffn, heads):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, ffn, bias=False)
        self.down = nn.Linear(ffn, width, bias=False)

    def forward(self, h):
        q, k, v = self.qkv(self.first(h)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.out(y.transpose(1, 2).flatten(2))
        return h + self.down(F.gelu(self.up(self.second(h)), approximate="tanh"))


class LSTM(nn.Module):
    """PyTorch's own, with projection, and a tied head."""

    def __init__(self, vocabulary, length, width, cells):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, cells, proj_size=width, batch_first=True)

    def forward(self, tokens):
        return F.linear(self.lstm(self.embedding(tokens))[0], self.embedding.weight)


def language_net(model: dict, vocabulary: int, length: int) -> nn.Module:
    """The counterpart of a model's options."""
    if model["name"] == "lstm":
        return LSTM(vocabulary, length, model["width"], model["cells"])
    sizes = (model[name] for name in ("layers", "width", "ffn", "heads"))
    return Transformer(vocabulary, length, *sizes)
