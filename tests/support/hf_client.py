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
