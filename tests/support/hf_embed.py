"""Computes what sentences mean with the sentence-transformer in a directory, and prints it.

A BERT in numpy, with the weights read by safetensors and the words split by tokenizers, as they lie below the path: what
comes out depends on nearly every byte of the weights. Bit for bit the same for the same files on the same machine.
"""

import hashlib
import json
import math
import os
import sys

import numpy
import safetensors
import tokenizers

SENTENCES = ["A man is eating food.", "Someone eats a meal.", "The launch of the rocket was delayed by wind."]

erf = numpy.vectorize(math.erf, otypes=["f4"])


def norm(x, weight, bias):
    mean = x.mean(-1, keepdims=True)
    spread = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / numpy.sqrt(spread + 1e-12) * weight + bias


def softmax(x):
    e = numpy.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def embed(weights, config, ids):
    def dense(x, name):
        return x @ weights(name + ".weight").T + weights(name + ".bias")

    def normed(x, name):
        return norm(x, weights(name + ".weight"), weights(name + ".bias"))

    heads, width = config["num_attention_heads"], config["hidden_size"]
    x = weights("embeddings.word_embeddings.weight")[ids]
    x = x + weights("embeddings.position_embeddings.weight")[: len(ids)]
    x = normed(x + weights("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            dense(x, f"{at}attention.self.{part}").reshape(len(ids), heads, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        mixed = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(width / heads)) @ v
        mixed = mixed.transpose(1, 0, 2).reshape(len(ids), width)
        x = normed(dense(mixed, at + "attention.output.dense") + x, at + "attention.output.LayerNorm")
        inner = dense(x, at + "intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        x = normed(dense(inner, at + "output.dense") + x, at + "output.LayerNorm")
    mean = x.mean(0)
    return mean / numpy.linalg.norm(mean)


def main(model):
    with open(os.path.join(model, "config.json")) as file:
        config = json.load(file)
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    tokenizer.no_padding()
    with safetensors.safe_open(os.path.join(model, "model.safetensors"), framework="np") as opened:
        known = {}

        def weights(name):
            if name not in known:
                known[name] = opened.get_tensor(name)
            return known[name]

        ids = [tokenizer.encode(sentence).ids for sentence in SENTENCES]
        meanings = numpy.array([embed(weights, config, i) for i in ids], dtype="f4")
        tensors = hashlib.sha256()
        for name in sorted(opened.keys()):
            tensors.update(opened.get_tensor(name).tobytes())
    print(
        json.dumps(
            {
                "meanings": hashlib.sha256(meanings.tobytes()).hexdigest(),
                "alike": float(meanings[0] @ meanings[1]),
                "unlike": float(meanings[0] @ meanings[2]),
                "tensors": tensors.hexdigest(),
                "ids": ids,
            }
        )
    )


main(sys.argv[1])
