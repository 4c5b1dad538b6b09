"""Texts: an epoch of a small GPT and of a sequence to sequence network with attention by
`training.fit`, Keras `fit` and a PyTorch loop; and tokens a second that the GPT writes,
with the keys and values of what it has read kept and without.

    python benchmarks/sequences.py [--rounds 5]

All take turns within each round, so that whatever else the machine does hits all of
them; the tables show medians over the rounds. PyTorch (the `bench` extra) is left out
where it is not installed.
"""

import argparse
import statistics

import fit
import numpy as np
import tensorflow as tf
from fit import DEFAULTS, TORCH, torch

from recipes.sequences import gpt, seq2seq

VOCABULARY = 512
CONTEXT = 64
WIDTH = 64
HEADS = 4
DEPTH = 2
WRITTEN = 256  # tokens


class Gpt(fit.Task):
    name = "GPT of 2 blocks, 64 tokens of 64, batch 16"
    examples, batch_size, epochs, with_xla = 320, 16, 1, True
    targets = {DEFAULTS: 1, TORCH: 1}

    def data(self):
        random = np.random.default_rng(0)
        ids = random.integers(VOCABULARY, size=(self.examples, CONTEXT + 1))
        return ids[:, :-1].astype("int32"), ids[:, 1:]

    def model(self):
        return gpt.build_model(VOCABULARY, WIDTH, HEADS, DEPTH, CONTEXT, dropout=0.0)

    def torch(self):
        return torch_gpt()


class Seq2seq(fit.Task):
    name = "seq2seq of 64, 30 to 12 characters, batch 64"
    examples, batch_size, epochs = 1280, 64, 1
    targets = {DEFAULTS: 1, TORCH: 1}
    characters, units, read, written = 100, 64, 30, 12

    def data(self):
        """Texts of one length: PyTorch's network has no mask."""
        random = np.random.default_rng(0)
        source = random.integers(4, self.characters, (self.examples, self.read))
        ids = random.integers(4, self.characters, (self.examples, self.written + 1))
        x = {"before": ids[:, :-1].astype("int32"), "source": source.astype("int32")}
        return x, ids[:, 1:]

    def model(self):
        encoder = seq2seq.build_encoder(self.characters, self.units)
        attention = seq2seq.AdditiveAttention(self.units)
        decoder = seq2seq.build_decoder(self.characters, self.units, attention)
        return seq2seq.with_teacher(encoder, decoder)

    def torch(self):
        return torch_seq2seq(self.characters, self.units)


def torch_gpt():
    """The same network by `scaled_dot_product_attention`."""
    nn = torch.nn
    size = WIDTH // HEADS

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_norm = nn.LayerNorm(WIDTH)
            self.projections = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
            self.joined = nn.Linear(WIDTH, WIDTH, bias=False)
            self.dense = nn.Sequential(
                nn.LayerNorm(WIDTH),
                nn.Linear(WIDTH, 4 * WIDTH),
                nn.GELU(),
                nn.Linear(4 * WIDTH, WIDTH),
            )
            half = size // 2
            angles = torch.arange(CONTEXT)[:, None] * 10_000.0 ** (
                -torch.arange(half) / half
            )
            self.cosines = angles.cos()
            self.sines = angles.sin()

        def rotate(self, x):
            first, second = x.chunk(2, dim=-1)
            return torch.cat(
                [
                    first * self.cosines - second * self.sines,
                    second * self.cosines + first * self.sines,
                ],
                dim=-1,
            )

        def forward(self, x):
            parts = self.projections(self.attention_norm(x)).chunk(3, dim=-1)
            queries, keys, values = (
                part.unflatten(-1, (HEADS, size)).transpose(1, 2) for part in parts
            )
            mixed = nn.functional.scaled_dot_product_attention(
                self.rotate(queries), self.rotate(keys), values, is_causal=True
            )
            x = x + self.joined(mixed.transpose(1, 2).flatten(2))
            return x + self.dense(x)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(VOCABULARY, WIDTH)
            self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
            self.norm = nn.LayerNorm(WIDTH)

        def forward(self, ids):
            x = self.blocks(self.tokens(ids) * WIDTH**0.5)
            return self.norm(x) @ self.tokens.weight.T

    return Network()


def torch_seq2seq(characters: int, units: int):
    nn = torch.nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_source = nn.Embedding(characters, units)
            self.read = nn.GRU(units, units, batch_first=True, bidirectional=True)
            self.first = nn.Linear(2 * units, units)
            self.embed_target = nn.Embedding(characters, units)
            self.write = nn.GRU(units, units, batch_first=True)
            self.query = nn.Linear(units, units, bias=False)
            self.key = nn.Linear(2 * units, units, bias=False)
            self.score = nn.Linear(units, 1, bias=False)
            self.join = nn.Linear(3 * units, units)
            self.logits = nn.Linear(units, characters)

        def forward(self, before, source):
            keys, last = self.read(self.embed_source(source))
            state = self.first(torch.cat([last[0], last[1]], dim=-1)).tanh()
            written, _ = self.write(self.embed_target(before), state[None])
            sums = self.query(written)[:, :, None] + self.key(keys)[:, None]
            weights = self.score(sums.tanh()).squeeze(-1).softmax(dim=-1)
            seen = torch.cat([written, weights @ keys], dim=-1)
            return self.logits(self.join(seen).tanh())

    return Network()


def report_writing(streams: int, rounds: int) -> None:
    """Tokens a second of texts that are written side by side."""
    model = gpt.build_model(VOCABULARY, WIDTH, HEADS, DEPTH, 2 * WRITTEN, dropout=0.0)
    reader = gpt.build_reader(model)
    prompts = tf.fill((streams, 1), 0)
    rule = gpt.Rule().tensors()
    ways = {"with the cache": True, "reading all again": False}
    durations = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, cached in ways.items():

            def write(cached=cached):
                gpt.generate(reader, prompts, WRITTEN, rule, cached).numpy()

            elapsed = fit.seconds(write)
            if turn:  # the first one compiles
                durations[name].append(elapsed)

    print(f"{f'{WRITTEN} tokens, {streams} texts':45}{'tokens a second':>20}")
    medians = {name: statistics.median(each) for name, each in durations.items()}
    for name, median in medians.items():
        print(f"  {name:43}{streams * WRITTEN / median:20,.0f}")
    ratio = medians["reading all again"] / medians["with the cache"]
    verdict = "reached" if ratio >= 10 else "MISSED"
    print(
        f"  with the cache over reading all again: {ratio:.1f}x, target 10x: {verdict}"
    )
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    fit.report((Gpt(), Seq2seq()), rounds)
    for streams in (1, 16):
        report_writing(streams, min(rounds, 3))


if __name__ == "__main__":
    main()
