//! The unwind table of one function, found through `.eh_frame_hdr` and read from memory. A large library has tens of MiB of
//! unwind tables, and a stack needs a few of them.

use super::page_cache::PageCache;
use crate::elf::ElfClass;
use gimli::{BaseAddresses, CallFrameInstruction, EhFrame, EndianSlice, LittleEndian, Operation, UnwindSection};
use std::ops::Range;

/// The unwind table of a function: an `.eh_frame` section of one CIE and one FDE.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FunctionTable {
    /// The instructions that the FDE covers.
    pub(super) code: Range<u64>,
    /// The bytes of the section.
    pub(super) section: Vec<u8>,
    /// Address of the section. It places the FDE where the process has it, so that its relative addresses are right.
    pub(super) address: u64,
}

/// Longest entry that is accepted, in bytes. Those of GCC and LLVM have a few hundred.
const MAX_ENTRY: usize = 256 << 10;

// Pointer encodings (Linux Standard Base, "DWARF Extensions").
const UDATA4: u8 = 0x03;
const DATAREL_SDATA4: u8 = 0x3b;

/// Finds the table of the function at `address` through the `.eh_frame_hdr` in the range `index` of memory.
pub(super) fn find_table(
    pages: &mut PageCache<'_>,
    class: ElfClass,
    index: Range<u64>,
    address: u64,
) -> Option<FunctionTable> {
    let fde_at = find_fde(pages, index, address)?;
    let fde = read_entry(pages, fde_at)?;
    // The CIE pointer of an FDE is the distance from the pointer's own field back to the CIE.
    let cie = read_entry(pages, fde_at.checked_add(4)?.checked_sub(u64::from(fde.cie_pointer))?)?;
    if fde.cie_pointer == 0 || cie.cie_pointer != 0 {
        return None;
    }
    // In the new section the FDE directly follows the CIE.
    let cie_len = cie.bytes.len();
    let cie_pointer = u32::try_from(cie_len + 4).ok()?;
    let mut section = cie.bytes;
    section.extend_from_slice(&fde.bytes);
    *section.get_mut(cie_len + 4..)?.first_chunk_mut()? = cie_pointer.to_le_bytes();
    let address_of_section = fde_at.checked_sub(cie_len as u64)?;
    let code = covered_code(&section, class, address_of_section, cie_len)?;
    code.contains(&address).then_some(FunctionTable { code, section, address: address_of_section })
}

/// Address of the FDE of the last function that begins at or before `address`.
fn find_fde(pages: &mut PageCache<'_>, index: Range<u64>, address: u64) -> Option<u64> {
    // Version, then the encodings of the pointer to .eh_frame, of the number of entries, and of the entries.
    let [version, pointer, count, table] = pages.read_u32(index.start)?.to_le_bytes();
    if version != 1 || count != UDATA4 || table != DATAREL_SDATA4 {
        return None;
    }
    // The pointer is not needed, but its length is.
    let pointer_len: u64 = match pointer & 0x0f {
        0x02 | 0x0a => 2,
        0x03 | 0x0b => 4,
        0x04 | 0x0c => 8,
        _ => return None,
    };
    let count_at = index.start.checked_add(4 + pointer_len)?;
    let count = u64::from(pages.read_u32(count_at)?);
    let table = count_at + 4;
    // An entry is a pair: where a function begins, and where its FDE is, both relative to the beginning of the index.
    let mut read_relative =
        |at: u64| Some(index.start.wrapping_add_signed(i64::from(pages.read_u32(at)?.cast_signed())));
    let (mut low, mut high) = (0, count.min((index.end.checked_sub(table)?) / 8));
    while low < high {
        let middle = low + (high - low) / 2;
        if read_relative(table + middle * 8)? <= address {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    read_relative(table + low.checked_sub(1)? * 8 + 4)
}

/// A CIE or an FDE.
struct FrameEntry {
    /// All of it, its length included.
    bytes: Vec<u8>,
    /// The word after the length: 0 in a CIE, the distance to the CIE in an FDE.
    cie_pointer: u32,
}

fn read_entry(pages: &mut PageCache<'_>, address: u64) -> Option<FrameEntry> {
    let length = pages.read_u32(address)? as usize;
    // 0xffffffff announces a 64-bit length, which no linker writes here.
    if !(4..=MAX_ENTRY).contains(&length) {
        return None;
    }
    let bytes = pages.read(address, length + 4)?;
    let cie_pointer = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    Some(FrameEntry { bytes, cie_pointer })
}

/// An `.eh_frame` section of a module of this class, at `address`.
pub(super) fn parse_section(
    section: &[u8],
    class: ElfClass,
    address: u64,
) -> (EhFrame<EndianSlice<'_, LittleEndian>>, BaseAddresses) {
    let mut frames = EhFrame::from(EndianSlice::new(section, LittleEndian));
    frames.set_address_size(match class {
        ElfClass::Elf32 => 4,
        ElfClass::Elf64 => 8,
    });
    (frames, BaseAddresses::default().set_eh_frame(address))
}

/// The code that the FDE at `fde` in the section covers. A table with a branch in an expression is refused: the evaluation
/// might not terminate.
fn covered_code(section: &[u8], class: ElfClass, address: u64, fde: usize) -> Option<Range<u64>> {
    let (frames, bases) = parse_section(section, class, address);
    let fde = frames.fde_from_offset(&bases, fde.into(), EhFrame::cie_from_offset).ok()?;
    let encoding = fde.cie().encoding();
    let mut both = [fde.cie().instructions(&frames, &bases), fde.instructions(&frames, &bases)];
    for instructions in &mut both {
        while let Some(instruction) = instructions.next().ok()? {
            let expression = match instruction {
                CallFrameInstruction::DefCfaExpression { expression }
                | CallFrameInstruction::Expression { expression, .. }
                | CallFrameInstruction::ValExpression { expression, .. } => expression.get(&frames).ok()?,
                _ => continue,
            };
            let mut operations = expression.operations(encoding);
            while let Some(operation) = operations.next().ok()? {
                if matches!(operation, Operation::Skip { .. } | Operation::Bra { .. } | Operation::Call { .. }) {
                    return None;
                }
            }
        }
    }
    Some(fde.initial_address()..fde.initial_address().checked_add(fde.len())?)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::unwind::ReadMemory;
    use proptest::prelude::*;

    /// Memory that has these bytes at 0x1000, and zeros after them.
    struct TableMemory(Vec<u8>);

    impl ReadMemory for TableMemory {
        fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
            for (byte, at) in buffer.iter_mut().zip(address..) {
                *byte = at.checked_sub(0x1000).and_then(|at| self.0.get(at as usize)).copied().unwrap_or(0);
            }
            (0x1000..0x100_0000).contains(&address)
        }
    }

    /// At 0x1000 an index of two functions, at 0x5000 and 0x6000; then a CIE with these instructions, and their FDEs.
    fn tables(instructions: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1, 0x1b, UDATA4, DATAREL_SDATA4, 0, 0, 0, 0, 2, 0, 0, 0];
        bytes.resize(28, 0);
        let cie_at = bytes.len();
        let mut cie = vec![0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, 12, 7, 8, 0x90, 1];
        cie.extend_from_slice(instructions);
        cie.resize(cie.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(&(cie.len() as u32).to_le_bytes());
        bytes.extend(cie);
        for (entry, start) in [(0, 0x5000_u64), (1, 0x6000)] {
            let at = bytes.len();
            let index = 12 + entry * 8;
            bytes[index..index + 4].copy_from_slice(&(start as u32 - 0x1000).to_le_bytes());
            bytes[index + 4..index + 8].copy_from_slice(&(at as u32).to_le_bytes());
            let words = [16, (at + 4 - cie_at) as u32, (start as u32).wrapping_sub(0x1000 + at as u32 + 8), 0x800, 0];
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        bytes
    }

    fn find(bytes: Vec<u8>, address: u64) -> Option<FunctionTable> {
        let end = 0x1000 + bytes.len() as u64;
        find_table(&mut PageCache::new(&TableMemory(bytes)), ElfClass::Elf64, 0x1000..end, address)
    }

    #[test]
    fn only_the_function_at_the_address_is_found() {
        for (address, code) in [(0x5000, 0x5000..0x5800), (0x57ff, 0x5000..0x5800), (0x6001, 0x6000..0x6800)] {
            assert_eq!(find(tables(&[]), address).unwrap().code, code);
        }
        for address in [0x4fff, 0x5800, 0x6800, u64::MAX] {
            assert_eq!(find(tables(&[]), address), None, "{address:#x}");
        }
    }

    #[test]
    fn an_expression_that_branches_is_refused() {
        // DW_CFA_def_cfa_expression: DW_OP_breg7 8; then DW_OP_skip -3.
        assert!(find(tables(&[0x0f, 2, 0x77, 8]), 0x5000).is_some());
        assert_eq!(find(tables(&[0x0f, 3, 0x2f, 0xfd, 0xff]), 0x5000), None);
    }

    proptest! {
        #[test]
        fn arbitrary_tables_do_not_panic(at in 0..120_usize, with in prop::collection::vec(any::<u8>(), 1..16), address in 0x4f00_u64..0x6900) {
            let mut bytes = tables(&[0x0f, 2, 0x77, 8]);
            for (index, byte) in with.into_iter().enumerate() {
                if let Some(place) = bytes.get_mut(at + index) {
                    *place = byte;
                }
            }
            let _ = find(bytes, address);
        }
    }
}
