//! Headers as loaders write them, and headers that lie.

use proptest::prelude::*;

use super::*;

fn safetensors(json: &str, data_bytes: usize) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    file.resize(file.len() + data_bytes, 1);
    file
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn gguf(tensors: &[(&str, u64)], data_bytes: usize) -> (Vec<u8>, u64) {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    file.extend_from_slice(&3_u64.to_le_bytes());
    string(&mut file, "general.alignment");
    file.extend_from_slice(&4_u32.to_le_bytes());
    file.extend_from_slice(&64_u32.to_le_bytes());
    string(&mut file, "tokenizer.ggml.tokens");
    file.extend_from_slice(&9_u32.to_le_bytes());
    file.extend_from_slice(&8_u32.to_le_bytes());
    file.extend_from_slice(&2_u64.to_le_bytes());
    string(&mut file, "a");
    string(&mut file, "longer token");
    string(&mut file, "general.flag");
    file.extend_from_slice(&7_u32.to_le_bytes());
    file.push(1);
    for (name, offset) in tensors {
        string(&mut file, name);
        file.extend_from_slice(&2_u32.to_le_bytes());
        file.extend_from_slice(&[0; 16]);
        file.extend_from_slice(&0_u32.to_le_bytes());
        file.extend_from_slice(&offset.to_le_bytes());
    }
    let data = (file.len() as u64).next_multiple_of(64);
    file.resize(data as usize + data_bytes, 0);
    (file, data)
}

fn tensors(header: Header) -> Tensors {
    match header {
        Header::Tensors(tensors) => tensors,
        other => panic!("expected tensors, got {other:?}"),
    }
}

#[test]
fn safetensors_names_its_tensors() {
    let json = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[4],"data_offsets":[16,32]},
                  "a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    let file = safetensors(json, 32);
    let data = 8 + json.len() as u64;
    let found = tensors(read_header(Format::Safetensors, &file, file.len() as u64));
    assert_eq!(found.len(), 2);
    assert_eq!(found.at(data + 3), Some(data..data + 16));
    assert_eq!(found.at(data + 16), Some(data + 16..data + 32));
    assert_eq!(found.at(5), None);
    assert_eq!(found.at(data + 32), None);
}

#[test]
fn a_header_that_goes_on_says_how_much_is_needed() {
    let file = safetensors(r#"{"a":{"data_offsets":[0,8]}}"#, 8);
    let len = file.len() as u64;
    assert_eq!(read_header(Format::Safetensors, &file[..4], len), Header::Need(8));
    assert_eq!(read_header(Format::Safetensors, &file[..20], len), Header::Need(len - 8));
    let (file, _) = gguf(&[("x", 0)], 100);
    let len = file.len() as u64;
    assert_eq!(read_header(Format::Gguf, &file[..30], len), Header::Need(len));
}

#[test]
fn gguf_tensors_reach_to_the_next_one() {
    let (file, data) = gguf(&[("second", 128), ("first", 0)], 300);
    let found = tensors(read_header(Format::Gguf, &file, file.len() as u64));
    assert_eq!(found.at(data + 100), Some(data..data + 128));
    assert_eq!(found.at(data + 128), Some(data + 128..data + 300));
}

#[test]
fn lies_are_clipped_or_refused() {
    let json = r#"{"a":{"data_offsets":[0,18446744073709551615]},"b":{"data_offsets":[9,3]},"c":{"data_offsets":[1,2]}}"#;
    let file = safetensors(json, 8);
    let found = tensors(read_header(Format::Safetensors, &file, file.len() as u64));
    assert_eq!(found.len(), 1, "one takes the whole data; the others overlap it or are empty");
    for length in [u64::MAX, 1 << 40, file.len() as u64 + 1] {
        let mut lie = file.clone();
        lie[..8].copy_from_slice(&length.to_le_bytes());
        assert_eq!(read_header(Format::Safetensors, &lie, lie.len() as u64), Header::Unusable);
    }
    assert_eq!(read_header(Format::Safetensors, &safetensors("[1]", 0), 11), Header::Unusable);
    assert_eq!(read_header(Format::Gguf, b"GGUX\x03\0\0\0", 1000), Header::Unusable);
}

#[test]
fn formats_go_by_the_name() {
    assert_eq!(Format::of_name("model-00001-of-00002.safetensors"), Some(Format::Safetensors));
    assert_eq!(Format::of_name("Q4.GGUF"), Some(Format::Gguf));
    assert_eq!(Format::of_name("safetensors"), None);
    assert_eq!(Format::of_name("config.json"), None);
}

proptest! {
    #[test]
    fn any_bytes_give_tensors_within_the_file_or_none(
        bytes in prop::collection::vec(any::<u8>(), 0..400), extra in 0..1000_u64, is_gguf in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if is_gguf && bytes.len() >= 8 {
            bytes[..8].copy_from_slice(b"GGUF\x03\0\0\0");
        }
        let file_bytes = bytes.len() as u64 + extra;
        for format in [Format::Safetensors, Format::Gguf] {
            match read_header(format, &bytes, file_bytes) {
                Header::Tensors(found) => {
                    let mut end = 0;
                    for range in &found.ranges {
                        prop_assert!(range.start >= end && range.start < range.end && range.end <= file_bytes);
                        end = range.end;
                    }
                }
                Header::Need(more) => prop_assert!(more > bytes.len() as u64 && more <= file_bytes),
                Header::Unusable => {}
            }
        }
    }
}
