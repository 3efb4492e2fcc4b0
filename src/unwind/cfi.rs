//! The unwind table of one function, found through `.eh_frame_hdr` and taken out of memory alone: a large library has tens
//! of MiB of them, and a stack needs a few.

use super::pages::Pages;
use gimli::{BaseAddresses, CallFrameInstruction, EhFrame, EndianSlice, LittleEndian, Operation, UnwindSection};
use std::ops::Range;

/// A section with one CIE and one FDE.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// The instructions that the FDE is for.
    pub(super) code: Range<u64>,
    /// The section, as if it lay at `at`: the FDE is where it is in the process, what it says relative to itself holds.
    pub(super) section: Vec<u8>,
    pub(super) at: u64,
}

/// Longest entries that are taken: GCC's and LLVM's have some hundred bytes.
const MAX_ENTRY: usize = 256 << 10;

// Pointer encodings (Linux Standard Base, "DWARF Extensions").
const UDATA4: u8 = 0x03;
const DATAREL_SDATA4: u8 = 0x3b;

/// The table of the function at `address`, from the index at `index`.
pub(super) fn function(pages: &mut Pages<'_>, index: Range<u64>, address: u64) -> Option<Function> {
    let fde = lookup(pages, index, address)?;
    let (entry, pointer) = entry(pages, fde)?;
    // The CIE is so many bytes before the field that says so.
    let (cie, zero) = self::entry(pages, fde.checked_add(4)?.checked_sub(u64::from(pointer))?)?;
    if pointer == 0 || zero != 0 {
        return None;
    }
    let mut section = cie;
    let at = fde.checked_sub(section.len() as u64)?;
    let back = u32::try_from(section.len() + 4).ok()?;
    let begin = section.len();
    section.extend_from_slice(&entry);
    section[begin + 4..begin + 8].copy_from_slice(&back.to_le_bytes());
    let code = code(&section, at, begin)?;
    code.contains(&address).then_some(Function { code, section, at })
}

/// Where the FDE of the last function that begins at `address` or before is.
fn lookup(pages: &mut Pages<'_>, index: Range<u64>, address: u64) -> Option<u64> {
    let head = pages.read(index.start, 12)?;
    if head[0] != 1 || head[2] != UDATA4 || head[3] != DATAREL_SDATA4 {
        return None;
    }
    // The pointer to .eh_frame is not needed, but its length is.
    let pointer: u64 = match head[1] & 0x0f {
        0x02 | 0x0a => 2,
        0x03 | 0x0b => 4,
        0x04 | 0x0c => 8,
        _ => return None,
    };
    let count = u64::from(pages.half(index.start + 4 + pointer)?);
    let table = index.start + 4 + pointer + 4;
    let mut related = |at: u64| Some(index.start.wrapping_add_signed(i64::from(pages.half(at)?.cast_signed())));
    let (mut low, mut high) = (0, count.min((index.end.checked_sub(table)?) / 8));
    while low < high {
        let middle = low + (high - low) / 2;
        if related(table + middle * 8)? <= address {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    related(table + low.checked_sub(1)? * 8 + 4)
}

/// An entry of `.eh_frame`, its length in front, and the word behind that.
fn entry(pages: &mut Pages<'_>, at: u64) -> Option<(Vec<u8>, u32)> {
    let length = pages.half(at)? as usize;
    // 0xffffffff announces a length of 64 bits, which no linker writes here.
    if !(4..=MAX_ENTRY).contains(&length) {
        return None;
    }
    let bytes = pages.read(at, length + 4)?;
    let word = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    Some((bytes, word))
}

/// What the FDE is for. A table whose expressions jump is refused: they could jump for ever.
fn code(section: &[u8], at: u64, fde: usize) -> Option<Range<u64>> {
    let mut frames = EhFrame::from(EndianSlice::new(section, LittleEndian));
    frames.set_address_size(8);
    let bases = BaseAddresses::default().set_eh_frame(at);
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
mod tests {
    use super::*;
    use crate::unwind::ReadMemory;
    use proptest::prelude::*;

    /// Memory with something at 0x1000.
    struct Bytes(Vec<u8>);

    impl ReadMemory for Bytes {
        fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
            for (byte, at) in buffer.iter_mut().zip(address..) {
                *byte = at.checked_sub(0x1000).and_then(|at| self.0.get(at as usize)).copied().unwrap_or(0);
            }
            (0x1000..0x100_0000).contains(&address)
        }
    }

    /// An index at 0x1000 of two functions, at 0x5000 and 0x6000, then a CIE and an FDE each; these instructions in the CIE.
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

    fn find(bytes: Vec<u8>, address: u64) -> Option<Function> {
        let end = 0x1000 + bytes.len() as u64;
        function(&mut Pages::new(&Bytes(bytes)), 0x1000..end, address)
    }

    #[test]
    fn the_function_is_found_and_no_other() {
        for (address, code) in [(0x5000, 0x5000..0x5800), (0x57ff, 0x5000..0x5800), (0x6001, 0x6000..0x6800)] {
            assert_eq!(find(tables(&[]), address).unwrap().code, code);
        }
        for address in [0x4fff, 0x5800, 0x6800, u64::MAX] {
            assert_eq!(find(tables(&[]), address), None, "{address:#x}");
        }
    }

    #[test]
    fn an_expression_that_jumps_is_refused() {
        // DW_CFA_def_cfa_expression: DW_OP_breg7 8; then DW_OP_skip -3.
        assert!(find(tables(&[0x0f, 2, 0x77, 8]), 0x5000).is_some());
        assert_eq!(find(tables(&[0x0f, 3, 0x2f, 0xfd, 0xff]), 0x5000), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0..120_usize, with in prop::collection::vec(any::<u8>(), 1..16), address in 0x4f00_u64..0x6900) {
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
