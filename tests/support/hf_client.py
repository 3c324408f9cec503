"""What other people's Hugging Face clients do, step by step.

Reads a list of steps as JSON from the file that is named, does them with the huggingface_hub that is installed, and prints a list
of what came of each: {"ok": ...} or {"error": <class>, "is": [<its bases>], "text": ...}. It judges nothing.
"""

import hashlib
import json
import os
import random
import sys

import huggingface_hub
from huggingface_hub import HfApi, HfFileSystem


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def below(root):
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = [os.path.getsize(path), digest(path)]
    return found


def keywords(step, *names):
    return {name: step[name] for name in names if name in step}


COMMON = ("repo_type", "revision", "cache_dir", "token", "local_files_only", "force_download")


def snapshot(step):
    path = huggingface_hub.snapshot_download(
        step["id"], **keywords(step, *COMMON, "allow_patterns", "local_dir", "max_workers")
    )
    return {"commit": os.path.basename(path), "files": below(path), "path": path}


def download(step):
    path = huggingface_hub.hf_hub_download(step["id"], step["file"], **keywords(step, *COMMON))
    etag = os.path.basename(os.path.realpath(path))
    return {"bytes": os.path.getsize(path), "sha256": digest(path), "etag": etag, "path": path}


def metadata(step):
    url = huggingface_hub.hf_hub_url(step["id"], step["file"], **keywords(step, "repo_type", "revision"))
    found = huggingface_hub.get_hf_file_metadata(url, **keywords(step, "token"))
    return {"etag": found.etag, "size": found.size, "commit": found.commit_hash, "location": found.location}


def no_exist(step):
    """Asks for a file that is not there, and tells whether the cache remembers it."""
    try:
        download(step)
    except Exception as error:
        known = huggingface_hub.try_to_load_from_cache(
            step["id"], step["file"], **keywords(step, "cache_dir", "revision", "repo_type")
        )
        return {"error": type(error).__name__, "remembered": known is huggingface_hub._CACHED_NO_EXIST}
    return None


def info(step):
    found = HfApi().repo_info(step["id"], **keywords(step, "repo_type", "revision", "files_metadata", "token"))
    siblings = {s.rfilename: [s.size, s.lfs.sha256 if s.lfs else s.blob_id] for s in found.siblings}
    return {"id": found.id, "sha": found.sha, "private": found.private, "siblings": siblings}


def listed(step):
    api = HfApi()
    of = {"model": api.list_models, "dataset": api.list_datasets, "space": api.list_spaces}[step.get("repo_type", "model")]
    return [repo.id for repo in of(**keywords(step, "search", "author", "filter", "limit", "full", "sort", "token"))]


def tree(step):
    found = HfApi().list_repo_tree(
        step["id"], **keywords(step, "path_in_repo", "repo_type", "revision", "recursive", "expand", "token")
    )
    listed = {}
    for entry in found:
        lfs = getattr(entry, "lfs", None)
        listed[entry.path] = lfs.sha256 if lfs else getattr(entry, "blob_id", None)
    return listed


def paths_info(step):
    found = HfApi().get_paths_info(step["id"], step["paths"], **keywords(step, "repo_type", "revision", "expand"))
    return {entry.path: type(entry).__name__ for entry in found}


def refs(step):
    found = HfApi().list_repo_refs(step["id"], **keywords(step, "repo_type", "include_pull_requests"))
    named = found.branches + found.tags + found.converts + (found.pull_requests or [])
    return {ref.ref: ref.target_commit for ref in named}


def commits(step):
    found = HfApi().list_repo_commits(step["id"], **keywords(step, "repo_type", "revision"))
    return [commit.commit_id for commit in found]


def verify(step):
    found = HfApi().verify_repo_checksums(step["id"], **keywords(step, "cache_dir", "revision", "repo_type"))
    return {"checked": found.checked_count, "wrong": len(found.mismatches)}


def scan(step):
    """What the client finds in a cache."""
    found = huggingface_hub.scan_cache_dir(step["cache_dir"])
    repos = {
        repo.repo_id: [repo.repo_type, sorted(repo.refs), sum(len(r.files) for r in repo.revisions), repo.size_on_disk]
        for repo in found.repos
    }
    return {"repos": repos, "warnings": [str(warning) for warning in found.warnings]}


def auth_check(step):
    HfApi().auth_check(step["id"], **keywords(step, "repo_type", "token"))
    return "yes"


def whoami(step):
    return HfApi().whoami(**keywords(step, "token"))["name"]


def repo_exists(step):
    return HfApi().repo_exists(step["id"], **keywords(step, "repo_type", "token"))


def safetensors(step):
    found = HfApi().get_safetensors_metadata(step["id"], **keywords(step, "revision"))
    return {name: sorted(file.tensors) for name, file in found.files_metadata.items()}


def fs_list(step):
    fs = HfFileSystem()
    return {
        "ls": sorted(os.path.relpath(path, step["path"]) for path in fs.ls(step["path"], detail=False)),
        "find": len(fs.find(step["path"])),
        "glob": len(fs.glob(step["path"] + "/" + step["glob"])),
    }


def fs_read(step):
    """Reads ranges in a seeded order; a digest of them all, for comparing with the same ranges of a file on disk."""
    order = random.Random(step["seed"])
    if step["path"].startswith("/"):
        file = open(step["path"], "rb")
        size = os.path.getsize(step["path"])
    else:
        file = HfFileSystem().open(step["path"], "rb", block_size=step.get("block_size", 65536))
        size = file.size
    found = hashlib.sha256()
    with file:
        for _ in range(step["reads"]):
            at = order.randrange(size)
            file.seek(at)
            found.update(file.read(order.randrange(1, step["most"])))
        file.seek(max(0, size - 5))
        found.update(file.read(100))
    return {"sha256": found.hexdigest(), "size": size}


def fs_stream(step):
    found = hashlib.sha256()
    with HfFileSystem().open(step["path"], "rb", block_size=0) as file:
        while block := file.read(1 << 16):
            found.update(block)
    return found.hexdigest()


def auto_config(step):
    from transformers import AutoConfig, AutoTokenizer

    place = step.get("path") or step["id"]
    config = AutoConfig.from_pretrained(place)
    tokenizer = AutoTokenizer.from_pretrained(place)
    return {"type": config.model_type, "tokens": tokenizer(step["text"])["input_ids"]}


def load_model(step):
    """What transformers makes of a model in a directory, or of one that it is only told the name of."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(1)
    place = step.get("path") or step["id"]
    tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModel.from_pretrained(place)
    states, meanings, weights = hashlib.sha256(), [], hashlib.sha256()
    with torch.no_grad():
        for sentence in step["sentences"]:
            state = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0]
            states.update(state.numpy().tobytes())
            meanings.append(torch.nn.functional.normalize(state.mean(0), dim=0))
    for _, tensor in sorted(model.state_dict().items()):
        weights.update(tensor.numpy().tobytes())
    return {
        "class": type(model).__name__,
        "states": states.hexdigest(),
        "weights": weights.hexdigest(),
        "alike": float(meanings[0] @ meanings[1]),
    }


def write_shards(step):
    """A model as large ones are kept: its weights in several files, with an index of them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=512, hidden_size=512, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=8
    )
    LlamaForCausalLM(config).save_pretrained(step["path"], max_shard_size="20MB")


def generate(step):
    """What a causal model says after a few tokens, without a tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(step.get("path") or step["id"], dtype=torch.bfloat16)
    with torch.no_grad():
        found = model(torch.tensor([[1, 5, 9, 250, 77]])).logits
        said = model.generate(torch.tensor([[1, 5, 9]]), max_new_tokens=12, do_sample=False)
    digest = hashlib.sha256(found.float().numpy().tobytes()).hexdigest()
    return {"class": type(model).__name__, "logits": digest, "said": said[0].tolist()}


def write_checkpoint(step):
    import torch

    order = torch.Generator().manual_seed(7)
    torch.save({f"layer.{n}": torch.randn(1000, 500, generator=order) for n in range(6)}, step["path"])


def load_checkpoint(step):
    """Weights that PyTorch maps rather than reads."""
    import torch

    weights = torch.load(step["path"], mmap=True, weights_only=True)
    found = hashlib.sha256()
    for _, tensor in sorted(weights.items()):
        found.update(tensor.numpy().tobytes())
    return {"sha256": found.hexdigest(), "mapped": mapped(step["path"])}


def mapped(path):
    """How this program has a file mapped: a letter for each right, and whether shared or private."""
    with open("/proc/self/maps") as file:
        return sorted({line.split()[1] for line in file if line.rstrip("\n").endswith(path)})


def write_gguf(step):
    """A model for llama.cpp: small, of random weights, with bytes for words."""
    import gguf
    import numpy

    width, inner, layers, heads = 256, 512, 4, 4
    words = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + ["\u2581"]
    kinds = [2, 3, 3] + [6] * 256 + [1]
    out = gguf.GGUFWriter(step["path"], "llama")
    out.add_context_length(256)
    out.add_embedding_length(width)
    out.add_block_count(layers)
    out.add_feed_forward_length(inner)
    out.add_head_count(heads)
    out.add_head_count_kv(heads)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(width // heads)
    out.add_vocab_size(len(words))
    out.add_tokenizer_model("llama")
    out.add_token_list(words)
    out.add_token_scores([0.0] * len(words))
    out.add_token_types(kinds)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    order = numpy.random.default_rng(7)

    def random(name, *shape):
        out.add_tensor(name + ".weight", order.standard_normal(shape, dtype="f4") * 0.08)

    def ones(name):
        out.add_tensor(name + ".weight", numpy.ones(width, "f4"))

    random("token_embd", len(words), width)
    random("output", len(words), width)
    ones("output_norm")
    for layer in range(layers):
        at = f"blk.{layer}."
        ones(at + "attn_norm")
        ones(at + "ffn_norm")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            random(at + part, width, width)
        random(at + "ffn_gate", inner, width)
        random(at + "ffn_up", inner, width)
        random(at + "ffn_down", width, inner)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def complete(step):
    """How llama.cpp goes on from a few words with a model that it maps, and how sure it is of each token."""
    import xllamacpp

    told = xllamacpp.CommonParams()
    told.model.path = step["path"]
    told.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_MMAP
    told.n_ctx, told.n_parallel, told.fit_params, told.port = 128, 1, False, 0
    told.cpuparams.n_threads = told.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(told)
    asked = {"prompt": step["prompt"], "n_predict": 24, "temperature": 0, "n_probs": 3, "ignore_eos": True}
    said = server.handle_completions(asked)["choices"][0]
    tokens = [[one["id"], one["logprob"]] for one in said["logprobs"]["content"]]
    return {"text": said["text"], "tokens": tokens, "mapped": mapped(step["path"])}


def write_tables(step):
    """A data set in two formats: a part in two files of Parquet, another in one, and the same rows as CSV."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    os.makedirs(os.path.join(step["path"], "parquet/data"))
    os.makedirs(os.path.join(step["path"], "csv"))
    for n, name in enumerate(["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"]):
        numbers = range(n * 3000, (n + 1) * 3000)
        table = pyarrow.table({"number": numbers, "text": [f"row {x} " + "x" * (x % 90) for x in numbers]})
        pyarrow.parquet.write_table(table, os.path.join(step["path"], f"parquet/data/{name}.parquet"))
        pyarrow.csv.write_csv(table, os.path.join(step["path"], f"csv/{name[:-15]}-{n}.csv"))


def load_dataset(step):
    import datasets

    place = step.get("path") or step["id"]
    parts = {}
    for name, part in datasets.load_dataset(place, **keywords(step, "streaming", "revision")).items():
        rows = list(part)
        parts[name] = [len(rows), hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()]
    return parts


def main():
    done = []
    with open(sys.argv[1]) as file:
        steps = json.load(file)
    for step in steps:
        try:
            done.append({"ok": globals()[step["do"]](step)})
        except Exception as error:
            bases = [base.__name__ for base in type(error).__mro__]
            done.append({"error": type(error).__name__, "is": bases, "text": str(error)[:600]})
    print("\n" + json.dumps(done))


main()
