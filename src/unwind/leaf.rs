//! Functions that call nothing and have no frame: the word at the stack pointer is their return address. Without call frame information, as of
//! Go's programs in memory, only their code tells them; by the frame pointer, which is still their caller's, that caller would be skipped.

use super::arch::call_target;
use super::page_cache::PageCache;
use crate::elf::Registers;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register};

/// The longest way from the beginning of such a function to the instruction that it is at, in bytes.
const MAX_LENGTH: u64 = 4096;
/// Where Go's linker begins functions, and what it puts between them: `int3`.
const ALIGNMENT: u64 = 32;
const PADDING: u8 = 0xcc;

/// Whether the function at the program counter has not moved the stack pointer since it was called, if `return_address` is the word there: from
/// where the call before that address leads, and straight on, no instruction up to the program counter changes the stack pointer. x86 only.
pub(super) fn is_leaf(registers: Registers, return_address: u64, pages: &mut PageCache<'_>) -> bool {
    let pc = registers.instruction_pointer();
    let start = match call_target(registers, return_address, pages) {
        Some(target) => Some(target),
        None => padded_start(pc, pages),
    };
    let bits = match registers {
        Registers::I386(_) => 32,
        Registers::X86_64 { .. } => 64,
        Registers::Aarch64 { .. } => return false,
    };
    let code = start.and_then(|start| {
        let length = pc.checked_sub(start).filter(|length| *length <= MAX_LENGTH)?;
        pages.read(start, usize::try_from(length).ok()?)
    });
    code.is_some_and(|code| keeps_stack_pointer(bits, &code))
}

/// Where the function begins that `pc` is in, if padding precedes it.
fn padded_start(pc: u64, pages: &mut PageCache<'_>) -> Option<u64> {
    let last = pc - pc % ALIGNMENT;
    let mut starts = (0..=MAX_LENGTH / ALIGNMENT).map_while(|number| last.checked_sub(number * ALIGNMENT));
    starts.find(|start| {
        start.checked_sub(1).and_then(|before| pages.read(before, 1)).is_some_and(|byte| byte == [PADDING])
    })
}

/// Whether these are whole instructions, none of which changes the stack pointer. What follows a return was jumped to.
fn keeps_stack_pointer(bits: u32, code: &[u8]) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let mut moves = |instruction: &Instruction| {
        let written = factory.info(instruction).used_registers().iter().any(|used| {
            let is_read =
                matches!(used.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess);
            used.register().full_register() == Register::RSP && !is_read
        });
        written && instruction.flow_control() != FlowControl::Return
    };
    Decoder::new(bits, code, DecoderOptions::NONE)
        .iter()
        .all(|instruction| !instruction.is_invalid() && !moves(&instruction))
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::unwind::ReadMemory;

    /// This code at the end of the page at 0x1000, and a call of it, or an indirect one, at 0x2000.
    struct Code {
        function: Vec<u8>,
        is_indirect: bool,
    }

    impl ReadMemory for Code {
        fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
            buffer.fill(PADDING);
            match address {
                0x1000 => buffer[0x800..0x800 + self.function.len()].copy_from_slice(&self.function),
                0x2000 if self.is_indirect => buffer[0x13..0x15].copy_from_slice(&[0xff, 0xd1]),
                0x2000 => buffer[0x10..0x15].copy_from_slice(&[0xe8, 0xeb, 0xf7, 0xff, 0xff]),
                _ => return false,
            }
            true
        }
    }

    const RETURN_ADDRESS: u64 = 0x2015;

    fn check(code: &[u8], is_indirect: bool, at: u64) -> bool {
        let memory = Code { function: code.to_vec(), is_indirect };
        let registers = Registers::X86_64 { ip: 0x1800 + at, sp: 0x7000, bp: 0 };
        is_leaf(registers, RETURN_ADDRESS, &mut PageCache::new(&memory))
    }

    #[test]
    fn leaves_are_told_by_code_that_leaves_the_stack_pointer_alone() {
        // test %rax,%rax; jne; ret; mov (%rax),%rax
        let leaf = [0x48, 0x85, 0xc0, 0x75, 1, 0xc3, 0x48, 0x8b, 0];
        // sub $24,%rsp; mov (%rax),%rax
        let with_frame = [0x48, 0x83, 0xec, 24, 0x48, 0x8b, 0];
        // push %rbp; mov (%rax),%rax
        let with_push = [0x55, 0x48, 0x8b, 0];
        for is_indirect in [false, true] {
            assert!(check(&leaf, is_indirect, 0) && check(&leaf, is_indirect, 3) && check(&leaf, is_indirect, 6));
            assert!(!check(&leaf, is_indirect, 7), "in the middle of an instruction");
            assert!(check(&with_frame, is_indirect, 0) && !check(&with_frame, is_indirect, 4));
            assert!(check(&with_push, is_indirect, 0) && !check(&with_push, is_indirect, 1));
        }
        assert!(!check(&leaf, false, 0x7ff + MAX_LENGTH), "not the function that was called");
        // The call leads behind the program counter.
        let registers = Registers::X86_64 { ip: 0x17ff, sp: 0x7000, bp: 0 };
        let memory = Code { function: leaf.to_vec(), is_indirect: false };
        assert!(!is_leaf(registers, RETURN_ADDRESS, &mut PageCache::new(&memory)));
    }
}
