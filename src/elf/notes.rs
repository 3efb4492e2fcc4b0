//! Notes (elf(5)): records of a type, the name of their owner, and a description.

/// The notes in `bytes` as (type, name without its NUL, description), up to the first that is incomplete.
pub(super) fn notes(bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (name_len, after) = take_u32(rest)?;
        let (description_len, after) = take_u32(after)?;
        let (kind, after) = take_u32(after)?;
        let (name_len, description_len) = (name_len as usize, description_len as usize);
        let name = after.get(..name_len)?;
        let after = after.get(name_len.checked_next_multiple_of(4)?..)?;
        let description = after.get(..description_len)?;
        rest = after.get(description_len.checked_next_multiple_of(4)?..).unwrap_or_default();
        Some((kind, name.strip_suffix(b"\0").unwrap_or(name), description))
    })
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes.split_first_chunk().map(|(number, rest)| (u32::from_le_bytes(*number), rest))
}

/// The little-endian 32-bit number at byte `offset`.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The little-endian 64-bit number at byte `offset`.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_have_no_more_notes_than_fit(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(notes(&bytes).count() <= bytes.len() / 12);
        }
    }
}
