//! A small model repository in the shape people share: safetensors shards, their index, configuration and tokenizer.
//!
//! The numbers in the tensors are noise from a seed: the same seed makes the same bytes, and no two blocks are alike, so
//! a byte from the wrong place is seen.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// How the data is cut into files.
const SHARDS: u64 = 4;
/// Tensors of a shard.
const TENSORS: u64 = 6;
/// Width of a tensor's rows, in 2-byte numbers (F16).
const ROW_BYTES: u64 = 1024 * 2;
/// Words in the tokenizer's list: enough for a file of some hundred KiB.
const WORDS: usize = 8_000;

/// What was made.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(crate) root: PathBuf,
    /// Every file, relative to `root`, the shards in order first.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) total_bytes: u64,
}

/// Makes a repository of about `bytes` bytes in the new directory `root`.
///
/// # Errors
/// What the file system says.
pub(crate) fn make(root: &Path, bytes: u64, seed: u64) -> io::Result<Repository> {
    std::fs::create_dir(root)?;
    let rows = (bytes / SHARDS / TENSORS / ROW_BYTES).max(1);
    let mut files = Vec::new();
    let mut weight_map = Map::new();
    for shard in 0..SHARDS {
        let name = format!("model-{:05}-of-{SHARDS:05}.safetensors", shard + 1);
        let tensors: Vec<Tensor> = (0..TENSORS)
            .map(|tensor| Tensor { name: format!("model.layers.{shard}.block.{tensor}.weight"), rows })
            .collect();
        for tensor in &tensors {
            weight_map.insert(tensor.name.clone(), Value::from(name.clone()));
        }
        let mut file = BufWriter::with_capacity(1 << 20, File::create(root.join(&name))?);
        write_safetensors(&mut file, &tensors, &mut Noise(seed ^ (shard + 1).wrapping_mul(GOLDEN)))?;
        file.flush()?;
        files.push(PathBuf::from(name));
    }
    let data_bytes = SHARDS * TENSORS * rows * ROW_BYTES;
    let index = json!({"metadata": {"total_size": data_bytes}, "weight_map": weight_map});
    let config = json!({
        "architectures": ["DemoForCausalLM"], "model_type": "demo", "torch_dtype": "float16",
        "hidden_size": ROW_BYTES / 2, "num_hidden_layers": SHARDS, "vocab_size": WORDS,
    });
    let words: Map<String, Value> = (0..WORDS).map(|id| (format!("word{id:05}"), Value::from(id))).collect();
    let tokenizer =
        json!({"version": "1.0", "model": {"type": "WordLevel", "vocab": words, "unk_token": "word00000"}});
    for (name, value) in [
        ("model.safetensors.index.json", index),
        ("config.json", config),
        ("generation_config.json", json!({"max_new_tokens": 64})),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", json!({"tokenizer_class": "PreTrainedTokenizerFast"})),
    ] {
        std::fs::write(root.join(name), serde_json::to_vec_pretty(&value)?)?;
        files.push(PathBuf::from(name));
    }
    let mut total_bytes = 0;
    for file in &files {
        total_bytes += root.join(file).metadata()?.len();
    }
    Ok(Repository { root: root.to_owned(), files, total_bytes })
}

struct Tensor {
    name: String,
    rows: u64,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        self.rows * ROW_BYTES
    }
}

/// The safetensors format: the header's length (u64, little endian), the header (JSON, padded with blanks so that the
/// data begins at a multiple of 8), then the tensors' bytes back to back.
fn write_safetensors(out: &mut impl Write, tensors: &[Tensor], noise: &mut Noise) -> io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes();
        let entry = json!({"dtype": "F16", "shape": [tensor.rows, ROW_BYTES / 2], "data_offsets": [at, end]});
        header.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut row = [0; ROW_BYTES as usize];
    for _ in 0..tensors.iter().map(|tensor| tensor.rows).sum() {
        noise.fill(&mut row);
        out.write_all(&row)?;
    }
    Ok(())
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64 (Steele, Lea, Flood 2014): good enough to make no two blocks alike, and the same on every machine.
#[derive(Debug)]
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is at least 1.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes()[..word.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_a_valid_safetensors_file() {
        let tensors = [Tensor { name: "a".into(), rows: 3 }, Tensor { name: "b".into(), rows: 5 }];
        let mut file = Vec::new();
        write_safetensors(&mut file, &tensors, &mut Noise(1)).expect("written");
        let (length, rest) = file.split_first_chunk::<8>().expect("a length");
        let length = usize::try_from(u64::from_le_bytes(*length)).expect("short");
        assert_eq!(length % 8, 0);
        let header: Value = serde_json::from_slice(&rest[..length]).expect("a header");
        let data = &rest[length..];
        assert_eq!(header["a"]["data_offsets"], json!([0, 3 * ROW_BYTES]));
        assert_eq!(header["b"]["data_offsets"], json!([3 * ROW_BYTES, data.len()]));
        assert_eq!(header["b"]["shape"], json!([5, 1024]));
    }

    #[test]
    fn a_repository_has_the_size_asked_for_and_is_the_same_each_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let wanted = 4 << 20;
        let one = make(&dir.path().join("one"), wanted, 5).expect("made");
        let two = make(&dir.path().join("two"), wanted, 5).expect("made");
        assert!(one.total_bytes.abs_diff(wanted) < wanted / 10, "{}", one.total_bytes);
        assert_eq!(one.files, two.files);
        for file in &one.files {
            let read = |repository: &Repository| std::fs::read(repository.root.join(file)).expect("read");
            assert_eq!(read(&one), read(&two), "{}", file.display());
        }
        let index = std::fs::read(one.root.join("model.safetensors.index.json")).expect("read");
        let index: Value = serde_json::from_slice(&index).expect("json");
        assert_eq!(index["weight_map"].as_object().map(Map::len), Some(24));
    }

    #[test]
    fn no_two_blocks_are_alike() {
        let mut noise = Noise(9);
        let mut blocks = std::collections::HashSet::new();
        for _ in 0..1000 {
            let mut block = [0; 64];
            noise.fill(&mut block);
            assert!(blocks.insert(block));
        }
    }
}
