//! i386: unwinding a frame by the table of its function, and the kernel's signal frames. framehop does not know this architecture.

use super::cfi::{self, FunctionTable};
use super::page_cache::PageCache;
use crate::elf::{ElfClass, I386Registers};
use gimli::{
    CfaRule, EhFrame, EndianSlice, EvaluationResult, LittleEndian, Location, Register, RegisterRule, UnwindContext,
    UnwindExpression, UnwindSection, Value, X86,
};
use std::collections::BTreeMap;

/// The table of the frame's function is unusable, or the memory that it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CannotUnwind;

/// The functions that are known, and memory for reading their tables.
#[derive(Default)]
pub(super) struct I386Unwinder {
    /// By their beginning.
    functions: BTreeMap<u64, FunctionTable>,
    context: UnwindContext<usize>,
}

/// Operations of an expression that are evaluated at most. Those of GCC and of the vDSO have up to ten.
const MAX_OPERATIONS: u32 = 256;

type Frames<'a> = EhFrame<EndianSlice<'a, LittleEndian>>;

impl I386Unwinder {
    /// Adds a function, so that its frames can be unwound.
    pub(super) fn add_function(&mut self, function: FunctionTable) {
        self.functions.insert(function.code.start, function);
    }

    /// The registers of the caller of a frame, which is at `address`; `None` at the end of the stack.
    pub(super) fn unwind_frame(
        &mut self,
        registers: I386Registers,
        address: u64,
        pages: &mut PageCache<'_>,
    ) -> Result<Option<I386Registers>, CannotUnwind> {
        let function = self.functions.range(..=address).next_back().map(|(_, function)| function);
        let function = function.filter(|function| function.code.contains(&address)).ok_or(CannotUnwind)?;
        let (frames, bases) = cfi::parse_section(&function.section, ElfClass::Elf32, function.address);
        let fde = frames.fde_for_address(&bases, address, EhFrame::cie_from_offset).map_err(|_| CannotUnwind)?;
        let row = fde.unwind_info_for_address(&frames, &bases, &mut self.context, address).map_err(|_| CannotUnwind)?;
        let mut state = FrameReader { registers, frames: &frames, encoding: fde.cie().encoding(), pages };
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                state.register(*register).ok_or(CannotUnwind)?.wrapping_add_signed(low_half(*offset))
            }
            CfaRule::Expression(expression) => state.evaluate(expression, None).ok_or(CannotUnwind)?,
        };
        let mut restore = |register, unchanged| match row.register(register) {
            None | Some(RegisterRule::SameValue) => unchanged,
            Some(rule) => state.restore(&rule, cfa),
        };
        // A table says that a function has no caller by leaving its return address undefined.
        if row.register(X86::RA) == Some(RegisterRule::Undefined) {
            return Ok(None);
        }
        let eip = restore(X86::RA, None).ok_or(CannotUnwind)?;
        let esp = restore(X86::ESP, Some(cfa)).unwrap_or(cfa);
        // A register that cannot be restored is rarely needed.
        let mut or_same = |register, unchanged| restore(register, Some(unchanged)).unwrap_or(unchanged);
        let I386Registers { ebp, ebx, esi, edi, .. } = registers;
        let (ebp, ebx) = (or_same(X86::EBP, ebp), or_same(X86::EBX, ebx));
        let (esi, edi) = (or_same(X86::ESI, esi), or_same(X86::EDI, edi));
        Ok((eip != 0).then_some(I386Registers { eip, esp, ebp, ebx, esi, edi }))
    }
}

/// What the rules of a table refer to.
struct FrameReader<'a, 'p, 'm> {
    registers: I386Registers,
    frames: &'a Frames<'a>,
    encoding: gimli::Encoding,
    pages: &'p mut PageCache<'m>,
}

impl FrameReader<'_, '_, '_> {
    /// A register of the frame itself. Those that a call does not preserve are not known.
    fn register(&self, register: Register) -> Option<u32> {
        let I386Registers { eip, esp, ebp, ebx, esi, edi } = self.registers;
        let known =
            [(X86::RA, eip), (X86::ESP, esp), (X86::EBP, ebp), (X86::EBX, ebx), (X86::ESI, esi), (X86::EDI, edi)];
        known.into_iter().find(|(number, _)| *number == register).map(|(_, value)| value)
    }

    /// The register of the caller that this rule is about.
    fn restore(&mut self, rule: &RegisterRule<usize>, cfa: u32) -> Option<u32> {
        match rule {
            RegisterRule::Offset(offset) => self.pages.read_u32(cfa.wrapping_add_signed(low_half(*offset)).into()),
            RegisterRule::ValOffset(offset) => Some(cfa.wrapping_add_signed(low_half(*offset))),
            RegisterRule::Register(register) => self.register(*register),
            RegisterRule::Expression(expression) => {
                let address = self.evaluate(expression, Some(cfa))?;
                self.pages.read_u32(address.into())
            }
            RegisterRule::ValExpression(expression) => self.evaluate(expression, Some(cfa)),
            _ => None,
        }
    }

    /// The address that an expression yields. [`cfi::find_table`] has refused those that branch.
    fn evaluate(&mut self, expression: &UnwindExpression<usize>, initial: Option<u32>) -> Option<u32> {
        let mut evaluation = expression.get(self.frames).ok()?.evaluation(self.encoding);
        evaluation.set_max_iterations(MAX_OPERATIONS);
        if let Some(value) = initial {
            evaluation.set_initial_value(value.into());
        }
        let mut step = evaluation.evaluate().ok()?;
        loop {
            step = match step {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(self.register(register)?.into())).ok()?
                }
                EvaluationResult::RequiresMemory { address, size, space: None, .. } => {
                    // DW_OP_deref_size asks for less than a word.
                    let bytes = self.pages.read(address, size.into())?;
                    let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
                    evaluation.resume_with_memory(Value::Generic(value)).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.as_result() {
            [piece] => match piece.location {
                Location::Address { address } => u32::try_from(address).ok(),
                _ => None,
            },
            _ => None,
        }
    }
}

/// An offset modulo 2^32, as addresses are.
fn low_half(offset: i64) -> i32 {
    let [b0, b1, b2, b3, ..] = offset.to_le_bytes();
    i32::from_le_bytes([b0, b1, b2, b3])
}

/// The registers of the code that a signal interrupted; `None` if these are not those of the trampoline that a signal handler
/// returns to.
pub(super) fn interrupted_by_signal(registers: I386Registers, pages: &mut PageCache<'_>) -> Option<I386Registers> {
    // pop %eax; mov $119,%eax; int $0x80: sigreturn. mov $173,%eax; int $0x80: rt_sigreturn
    // (arch/x86/entry/vdso/vdso32/sigreturn.S, and the C libraries).
    const PLAIN: [u8; 8] = [0x58, 0xb8, 119, 0, 0, 0, 0xcd, 0x80];
    const REALTIME: [u8; 7] = [0xb8, 173, 0, 0, 0, 0xcd, 0x80];
    let code = pages.read(registers.eip.into(), PLAIN.len())?;
    // When a handler has returned, the stack pointer is behind the return address: at the number of the signal, which struct
    // sigcontext_32 follows in struct sigframe_ia32; in struct rt_sigframe_ia32 two pointers, 128 bytes of siginfo and five words of
    // the ucontext are between (arch/x86/include/asm/sigframe.h, arch/x86/include/uapi/asm/sigcontext.h).
    let context_at = match code {
        _ if code == PLAIN => 4,
        _ if code.starts_with(&REALTIME) => 4 + 2 * 4 + 128 + 5 * 4,
        _ => return None,
    };
    // Four segment registers, then edi, esi, ebp, esp, ebx, edx, ecx, eax, trap number, error code, eip.
    let mut register = |index: u32| {
        let address = registers.esp.checked_add(context_at + index * 4)?;
        pages.read_u32(address.into())
    };
    Some(I386Registers {
        edi: register(4)?,
        esi: register(5)?,
        ebp: register(6)?,
        esp: register(7)?,
        ebx: register(8)?,
        eip: register(14)?,
    })
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the lengths are small")]
mod tests {
    use super::*;
    use crate::unwind::ReadMemory;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Memory with these words; everything else is zeros.
    struct Words(HashMap<u64, u32>);

    impl Words {
        fn new(words: &[(u64, u32)]) -> Self {
            Self(words.iter().copied().collect())
        }

        fn of_code(at: u64, code: &[u8], words: &[(u64, u32)]) -> Self {
            let mut all = Self::new(words);
            for (index, chunk) in (0..).zip(code.chunks(4)) {
                let mut word = [0; 4];
                word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
                all.0.insert(at + index * 4, u32::from_le_bytes(word));
            }
            all
        }
    }

    impl ReadMemory for Words {
        fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
            for (at, bytes) in (address..).step_by(4).zip(buffer.chunks_mut(4)) {
                let word = self.0.get(&at).copied().unwrap_or(0).to_le_bytes();
                bytes.iter_mut().zip(word).for_each(|(to, from)| *to = from);
            }
            true
        }
    }

    /// The table of a function of 256 bytes at 0x5000 with these instructions. At its beginning, the CFA is esp + 4, where the return
    /// address is.
    fn table(instructions: &[u8]) -> FunctionTable {
        let entry = |id: u32, rest: &[u8]| {
            let mut bytes = [&id.to_le_bytes(), rest].concat();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            [(bytes.len() as u32).to_le_bytes().as_slice(), &bytes].concat()
        };
        // Version 1, no augmentation, alignments 1 and -4, return address in 8; DW_CFA_def_cfa esp 4; DW_CFA_offset 8 1.
        let cie = entry(0, &[1, 0, 1, 0x7c, 8, 12, 4, 4, 0x88, 1]);
        let code = [0x5000_u32.to_le_bytes(), 0x100_u32.to_le_bytes()].concat();
        let fde = entry(cie.len() as u32 + 4, &[&code, instructions].concat());
        FunctionTable { code: 0x5000..0x5100, section: [cie, fde].concat(), address: 0x9000 }
    }

    const REGISTERS: I386Registers =
        I386Registers { eip: 0x5010, esp: 0x7000, ebp: 0x7100, ebx: 0xb, esi: 0x51, edi: 0xd1 };

    fn unwind(instructions: &[u8], words: &[(u64, u32)]) -> Result<Option<I386Registers>, CannotUnwind> {
        let mut unwinder = I386Unwinder::default();
        unwinder.add_function(table(instructions));
        unwinder.unwind_frame(REGISTERS, 0x5010, &mut PageCache::new(&Words::new(words)))
    }

    #[test]
    fn the_caller_is_found_by_every_kind_of_rule() {
        let plain = I386Registers { eip: 0x1111, esp: 0x7004, ..REGISTERS };
        assert_eq!(unwind(&[], &[(0x7000, 0x1111)]), Ok(Some(plain)));
        // DW_CFA_def_cfa ebp 8; ebp and ebx are saved at CFA - 8 and - 12.
        let pushed = [12, 5, 8, 0x85, 2, 0x83, 3];
        let words = [(0x7104, 0x1111), (0x7100, 0x7200), (0x70fc, 0xbb)];
        let caller = I386Registers { eip: 0x1111, esp: 0x7108, ebp: 0x7200, ebx: 0xbb, ..REGISTERS };
        assert_eq!(unwind(&pushed, &words), Ok(Some(caller)));
        // main, which aligns its stack: DW_CFA_def_cfa_expression (DW_OP_breg5 -4; DW_OP_deref), DW_CFA_expression ebp (DW_OP_breg5 0).
        let aligned = [0x0f, 3, 0x75, 0x7c, 0x06, 0x10, 5, 2, 0x75, 0];
        let words = [(0x70fc, 0x7300), (0x72fc, 0x1111), (0x7100, 0x7200)];
        let caller = I386Registers { eip: 0x1111, esp: 0x7300, ebp: 0x7200, ..REGISTERS };
        assert_eq!(unwind(&aligned, &words), Ok(Some(caller)));
        // A stub of the procedure linkage table: esp + 4, and 4 more from its eleventh byte on, on an entry of 16 bytes.
        let stub = [0x0f, 11, 0x74, 4, 0x78, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x32, 0x24, 0x22];
        assert_eq!(unwind(&stub, &[(0x7000, 0x1111)]), Ok(Some(plain)));
        // DW_CFA_undefined 8: nobody called.
        assert_eq!(unwind(&[7, 8], &[(0x7000, 0x1111)]), Ok(None));
        // DW_CFA_def_cfa ecx 0: a call does not preserve it.
        assert_eq!(unwind(&[12, 1, 0], &[]), Err(CannotUnwind));
    }

    #[test]
    fn the_code_that_a_signal_interrupted_is_found_in_both_forms_of_the_frame() {
        let interrupted = I386Registers { eip: 14, esp: 7, ebp: 6, ebx: 8, esi: 5, edi: 4 };
        let plain: &[u8] = &[0x58, 0xb8, 0x77, 0, 0, 0, 0xcd, 0x80];
        let realtime: &[u8] = &[0xb8, 0xad, 0, 0, 0, 0xcd, 0x80];
        for (code, context_at) in [(plain, 0x7004), (realtime, 0x70a0)] {
            let context: Vec<(u64, u32)> = (0..16).map(|index| (context_at + u64::from(index) * 4, index)).collect();
            let memory = Words::of_code(0x5010, code, &context);
            assert_eq!(interrupted_by_signal(REGISTERS, &mut PageCache::new(&memory)), Some(interrupted));
        }
        let other = Words::of_code(0x5010, &[0xb8, 0xac, 0, 0, 0, 0xcd, 0x80], &[]);
        assert_eq!(interrupted_by_signal(REGISTERS, &mut PageCache::new(&other)), None);
        let memory = Words::of_code(0x5010, plain, &[]);
        let at_the_end = I386Registers { esp: u32::MAX - 8, ..REGISTERS };
        assert_eq!(interrupted_by_signal(at_the_end, &mut PageCache::new(&memory)), None);
    }

    proptest! {
        #[test]
        fn arbitrary_instructions_and_registers_do_not_panic(
            instructions in prop::collection::vec(any::<u8>(), 0..40), esp: u32, ebp: u32, value: u32,
        ) {
            let mut unwinder = I386Unwinder::default();
            unwinder.add_function(table(&instructions));
            let memory = Words::new(&[(esp.into(), value), (ebp.into(), value)]);
            let registers = I386Registers { esp, ebp, ..REGISTERS };
            let _ = unwinder.unwind_frame(registers, 0x5010, &mut PageCache::new(&memory));
        }
    }
}
