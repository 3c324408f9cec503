//! GGUF, versions 2 and 3: counts, key-value pairs, tensor descriptions, then the aligned data.

use std::ops::Range;

use super::{Header, MAX_TENSORS, Tensors};

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: u32 = 8;
/// How much more to ask for when the header goes on: its length is nowhere written.
const MORE_BYTES: u64 = 4 << 20;

/// Types of values that are not scalars.
const TYPE_STRING: u32 = 8;
const TYPE_ARRAY: u32 = 9;
const TYPE_UINT32: u32 = 4;
/// Arrays of arrays occur nowhere; a few levels are no harm.
const MAX_NESTING: u32 = 4;

enum Stop {
    /// The bytes end here.
    Short,
    Unusable,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], Stop> {
        let count = usize::try_from(count).map_err(|_| Stop::Unusable)?;
        let end = self.at.checked_add(count).ok_or(Stop::Unusable)?;
        let taken = self.bytes.get(self.at..end).ok_or(Stop::Short)?;
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, Stop> {
        let bytes = self.take(4)?.first_chunk().ok_or(Stop::Short)?;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn u64(&mut self) -> Result<u64, Stop> {
        let bytes = self.take(8)?.first_chunk().ok_or(Stop::Short)?;
        Ok(u64::from_le_bytes(*bytes))
    }

    fn string(&mut self) -> Result<&'a [u8], Stop> {
        let length = self.u64()?;
        self.take(length)
    }

    fn skip_value(&mut self, kind: u32, nesting: u32) -> Result<(), Stop> {
        match (kind, scalar_bytes(kind)) {
            (_, Some(bytes)) => self.take(bytes).map(drop),
            (TYPE_STRING, _) => self.string().map(drop),
            (TYPE_ARRAY, _) if nesting < MAX_NESTING => {
                let kind = self.u32()?;
                let count = self.u64()?;
                if let Some(bytes) = scalar_bytes(kind) {
                    return self.take(count.checked_mul(bytes).ok_or(Stop::Unusable)?).map(drop);
                }
                // Each element takes bytes, so the loop ends with them.
                (0..count).try_for_each(|_| self.skip_value(kind, nesting + 1))
            }
            _ => Err(Stop::Unusable),
        }
    }
}

fn scalar_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

pub(super) fn read(beginning: &[u8], file_bytes: u64) -> Header {
    let mut cursor = Cursor { bytes: beginning, at: 0 };
    match starts(&mut cursor) {
        Ok((starts, data)) => {
            // A tensor reaches to the next one: its own size depends on dozens of quantisations.
            let mut offsets: Vec<u64> = starts.into_iter().map(|start| data.saturating_add(start)).collect();
            offsets.sort_unstable();
            offsets.push(file_bytes);
            let ranges: Vec<Range<u64>> = offsets.windows(2).map(|pair| pair[0]..pair[1]).collect();
            Header::Tensors(Tensors::new(ranges, file_bytes))
        }
        Err(Stop::Short) if (beginning.len() as u64) < file_bytes => {
            Header::Need((beginning.len() as u64).saturating_add(MORE_BYTES).min(file_bytes))
        }
        Err(Stop::Short | Stop::Unusable) => Header::Unusable,
    }
}

/// Where each tensor starts in the data, and where the data starts in the file.
fn starts(cursor: &mut Cursor<'_>) -> Result<(Vec<u64>, u64), Stop> {
    if cursor.take(4)? != MAGIC || !(2..=3).contains(&cursor.u32()?) {
        return Err(Stop::Unusable);
    }
    let (tensors, pairs) = (cursor.u64()?, cursor.u64()?);
    if tensors > MAX_TENSORS as u64 {
        return Err(Stop::Unusable);
    }
    let mut alignment = DEFAULT_ALIGNMENT;
    for _ in 0..pairs {
        let key = cursor.string()?;
        let kind = cursor.u32()?;
        if key == b"general.alignment" && kind == TYPE_UINT32 {
            alignment = u64::from(cursor.u32()?);
        } else {
            cursor.skip_value(kind, 0)?;
        }
    }
    if !alignment.is_power_of_two() {
        return Err(Stop::Unusable);
    }
    let mut starts = Vec::new();
    for _ in 0..tensors {
        cursor.string()?;
        let dimensions = cursor.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(Stop::Unusable);
        }
        cursor.take(u64::from(dimensions) * 8)?;
        cursor.u32()?;
        starts.push(cursor.u64()?);
    }
    Ok((starts, (cursor.at as u64).next_multiple_of(alignment)))
}
