//! The fault of the thread that failed: its instruction, and the address in relation to the mappings.

use super::signal_frame::saved_registers;
use super::{CrashedThread, ProcessUnwinder};
use crate::crash::{Access, Fault, FrameTrust, Mapping, Module, Neighbour, Place, signal};
use crate::elf::{ElfClass, LoadSegment, Registers};
use iced_x86::{
    Decoder, DecoderOptions, Formatter, Instruction, InstructionInfoFactory, IntelFormatter, OpAccess, Register,
    UsedMemory,
};
use nix::sys::signal::Signal::{SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
use object::elf::{PF_R, PF_W, PF_X};

/// A signal, and why it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    /// Its number.
    pub signal: u32,
    /// `si_code`. `None`: a handler did not ask for it.
    pub code: Option<i32>,
    /// The address of the fault, if there is one.
    pub address: Option<u64>,
}

/// Nothing is mapped below this address (vm.mmap_min_addr).
const NULL_END: u64 = 65536;
/// A negative offset from a null pointer is rarely larger.
const BELOW_NULL: u64 = 4096;
/// The gap that the kernel keeps below a stack that grows (stack_guard_gap), and the largest guard that counts as one, in bytes.
const GUARD: u64 = 1 << 20;
/// The farthest below the stack pointer that an instruction accesses its own frame: the red zone and what it pushes.
const BELOW_POINTER: u64 = 256;
const SEGV_MAPERR: i32 = 1;

/// An instruction of x86, and the values of the registers.
struct Decoded<'a> {
    instruction: Instruction,
    registers: &'a [(&'static str, u64)],
    is_64_bit: bool,
}

/// A piece of memory that an instruction accesses.
struct Operand {
    address: u64,
    size: u32,
    access: Option<Access>,
}

/// Makes the tables of the disassembler, which take a quarter of a millisecond. Processes that are forked from then on have them.
pub fn prepare_disassembler() {
    const NOP: [u8; 1] = [0x90];
    let _ = Decoded::new(&NOP, 0, true, &[]).map(|decoded| decoded.text());
}

impl ProcessUnwinder<'_> {
    /// The fault of `crashed`, whose signal has this `cause`; `None` if the signal is not one of the processor's or of a filter's.
    pub fn fault(&mut self, crashed: &CrashedThread, cause: Cause) -> Option<Fault> {
        let number = cause.signal;
        let is_fault = [SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS].iter().any(|known| *known as u32 == number);
        if !is_fault || cause.code.is_some_and(|code| code <= 0) {
            return None;
        }
        let registers = crashed.registers?;
        let layout = self.layout;
        let saved;
        let general = match crashed.trampoline {
            Some(trampoline) => {
                saved = saved_registers(trampoline, &mut self.pages);
                &saved
            }
            None => &layout.notes.general_registers,
        };
        let mut fault = Fault::default();
        if number == SIGSYS as u32 {
            let thread = layout.notes.threads.first().filter(|_| crashed.failed.is_none());
            fault.system_call = thread.map(|thread| thread.system_call);
        }
        let pc = registers.instruction_pointer();
        let code = self.code(pc, number, registers);
        let decoded = match registers {
            Registers::Aarch64 { .. } => {
                fault.code = crate::crash::text::to_hexadecimal(code.get(..4).unwrap_or_default());
                None
            }
            _ => Decoded::new(
                &code,
                pc,
                layout.class == ElfClass::Elf64 || matches!(registers, Registers::X86_64 { .. }),
                general,
            ),
        };
        if let Some(decoded) = &decoded {
            let length = decoded.instruction.len();
            fault.code = crate::crash::text::to_hexadecimal(code.get(..length).unwrap_or_default());
            fault.instruction = Some(decoded.text());
            fault.registers = decoded.used_registers();
        }
        if number != SIGSEGV as u32 && number != SIGBUS as u32 {
            return Some(fault);
        }
        let operands = decoded.as_ref().map(Decoded::operands).unwrap_or_default();
        match cause.address {
            Some(address) => {
                fault.address = Some(address);
                self.describe_access(&mut fault, address, pc, &operands);
                fault.place = Some(self.place(address, registers, crashed, cause));
            }
            None if cause.code == Some(signal::SI_KERNEL) && number == SIGSEGV as u32 => {
                describe_protection_fault(&mut fault, decoded.as_ref(), &operands);
            }
            None => {}
        }
        Some(fault)
    }

    /// The bytes of code at the program counter, as many as can be read and an instruction may have.
    fn code(&mut self, pc: u64, signal: u32, registers: Registers) -> Vec<u8> {
        /// int3 and int1 are executed before they raise the signal.
        const TRAPS: [u8; 2] = [0xcc, 0xf1];
        let is_x86 = !matches!(registers, Registers::Aarch64 { .. });
        if is_x86 && signal == SIGTRAP as u32 {
            let before = pc.checked_sub(1).and_then(|at| self.pages.read(at, 1));
            if let Some(trap) = before.filter(|byte| TRAPS.iter().any(|trap| byte == &[*trap])) {
                return trap;
            }
        }
        if !self.layout.is_code(pc) {
            return Vec::new();
        }
        let to_page_end = usize::try_from(4096 - pc % 4096).unwrap_or(1);
        let lengths = [Fault::MAX_CODE, Fault::MAX_CODE.min(to_page_end)];
        lengths.into_iter().find_map(|length| self.pages.read(pc, length)).unwrap_or_default()
    }

    /// How the address was accessed, as far as that is certain.
    fn describe_access(&self, fault: &mut Fault, address: u64, pc: u64, operands: &[Operand]) {
        let is_code = self.layout.is_code(address);
        // A fetch of the instruction, or of its part on the next page.
        if !is_code && (address == pc || (fault.code.is_empty() && address.wrapping_sub(pc) < Fault::MAX_CODE as u64)) {
            fault.access = Some(Access::Execute);
            return;
        }
        // The processor reports an address within the operand; of one that crosses into a bad page the first byte of that page.
        let holds = |operand: &&Operand| address.wrapping_sub(operand.address) < u64::from(operand.size.max(1));
        if let Some(operand) = operands.iter().find(holds) {
            (fault.access, fault.size) = (operand.access, Some(operand.size).filter(|size| *size > 0));
        }
    }

    /// What is at `address`.
    fn place(&self, address: u64, registers: Registers, crashed: &CrashedThread, cause: Cause) -> Place {
        let is_segv = cause.signal == SIGSEGV as u32;
        let highest = self.layout.class.max_offset();
        let segment = self.layout.segment_at(address);
        if segment.is_none() {
            if address < NULL_END {
                return Place::Null { offset: address.cast_signed() };
            }
            if highest - BELOW_NULL < address && address <= highest {
                return Place::Null { offset: -((highest - address).cast_signed() + 1) };
            }
            if self.layout.class == ElfClass::Elf64 && address >> 63 == 1 {
                return Place::Kernel;
            }
        }
        if is_segv && let Some(guard) = self.stack_guard(address, registers, crashed, cause) {
            return guard;
        }
        match segment {
            Some(segment) => Place::Mapped(self.mapping(segment)),
            None => {
                let below = address.checked_sub(1).and_then(|_| self.layout.previous_segment(address));
                let above = self.layout.next_segment(address, |_| true);
                Place::Unmapped {
                    below: below.map(|load| Neighbour {
                        distance: address - (load.address + load.length) + 1,
                        mapping: self.mapping(load),
                    }),
                    above: above
                        .map(|load| Neighbour { distance: load.address - address, mapping: self.mapping(load) }),
                }
            }
        }
    }

    /// The guard of a stack, if `address` is in one.
    fn stack_guard(&self, address: u64, registers: Registers, crashed: &CrashedThread, cause: Cause) -> Option<Place> {
        let sp = registers.stack_pointer();
        let own = match (&crashed.failed, self.layout.notes.threads.first()) {
            (Some(failed), _) => failed.tid,
            (None, Some(dumped)) => dumped.tid,
            (None, None) => return None,
        };
        let segment = self.layout.segment_at(address);
        let is_writable = |load: &LoadSegment| load.flags & PF_W != 0;
        // Callers were found on the stack, so the pointer is not just any number.
        let is_unwound = crashed
            .frames
            .get(1)
            .is_some_and(|caller| matches!(caller.trust, FrameTrust::CallFrameInfo | FrameTrust::FramePointer));
        let is_near_pointer = address >= sp.saturating_sub(BELOW_POINTER);
        if let Some(stack) = segment.filter(|load| is_writable(load)) {
            // Guards within the mapping (MADV_GUARD_INSTALL, Linux 6.13): nothing is there, though it is mapped.
            let is_guarded =
                cause.code == Some(SEGV_MAPERR) && sp < stack.address + stack.length && address - stack.address < GUARD;
            let overflow = is_guarded && is_unwound && is_near_pointer && address < sp.saturating_add(BELOW_POINTER);
            return overflow.then_some(Place::StackGuard { tid: own, overflow, distance: 0 });
        }
        if segment.is_some_and(|load| load.flags != 0) {
            return None;
        }
        let stack = self.layout.next_segment(address, |load| load.flags != 0).filter(|load| is_writable(load))?;
        let distance = stack.address - address;
        // What is between is the guard and nothing else.
        let is_adjacent = segment.is_none_or(|guard| guard.address + guard.length == stack.address);
        if distance > GUARD || !is_adjacent {
            return None;
        }
        let overflow = is_unwound && is_near_pointer && sp < stack.address.saturating_add(BELOW_POINTER);
        if overflow {
            return Some(Place::StackGuard { tid: own, overflow, distance });
        }
        // A guard that belongs to the stack is a mapping without any access; below a stack that grows there is only a gap.
        let range = stack.address..stack.address + stack.length;
        let thread =
            self.layout.notes.threads.iter().find(|thread| range.contains(&thread.registers.stack_pointer()))?;
        segment.is_some().then_some(Place::StackGuard { tid: thread.tid, overflow: false, distance })
    }

    fn mapping(&self, load: &LoadSegment) -> Mapping {
        let letter = |flag: u32, letter: char| if load.flags & flag == 0 { '-' } else { letter };
        let permissions = [letter(PF_R, 'r'), letter(PF_W, 'w'), letter(PF_X, 'x')].iter().collect();
        Mapping { start: load.address, permissions, name: self.name_of(load) }
    }

    /// The file of a mapping, or what else it is known to be.
    fn name_of(&self, load: &LoadSegment) -> Option<String> {
        let notes = &self.layout.notes;
        let next = notes.files.partition_point(|file| file.start <= load.address);
        let file = next.checked_sub(1).and_then(|index| notes.files.get(index)).filter(|file| load.address < file.end);
        if let Some(file) = file {
            let name = crate::crash::text::file_name(&file.path);
            return Some(crate::crash::text::cut(name, Fault::MAX_NAME).to_owned());
        }
        let range = load.address..load.address + load.length;
        if notes.vdso.is_some_and(|address| range.contains(&address)) {
            return Some(Module::VDSO.to_owned());
        }
        let mut threads = notes.threads.iter().filter(|_| load.flags & PF_W != 0);
        let thread = threads.find(|thread| range.contains(&thread.registers.stack_pointer()))?;
        Some(format!("[stack of thread {}]", thread.tid))
    }
}

/// The fault of an access for which the processor gives no address: the operands tell it, as far as their registers are known.
fn describe_protection_fault(fault: &mut Fault, decoded: Option<&Decoded<'_>>, operands: &[Operand]) {
    let Some(decoded) = decoded else { return };
    if decoded.instruction.is_privileged() {
        fault.place = Some(Place::Privileged);
        return;
    }
    if !decoded.is_64_bit {
        return;
    }
    let is_canonical = |address: u64| (address.cast_signed() << 16 >> 16).cast_unsigned() == address;
    let is_misaligned = |operand: &&Operand| operand.size >= 16 && !operand.address.is_multiple_of(operand.size.into());
    let bad =
        operands.iter().find(|operand| !is_canonical(operand.address)).map(|operand| (operand, Place::NonCanonical));
    // Only of vector operands the processor wants that. Those that need not be aligned raise no signal.
    let bad = bad.or_else(|| operands.iter().find(is_misaligned).map(|operand| (operand, Place::Misaligned)));
    if let Some((operand, place)) = bad {
        (fault.access, fault.size) = (operand.access, Some(operand.size).filter(|size| *size > 0));
        (fault.address, fault.place) = (Some(operand.address), Some(place));
    }
}

impl<'a> Decoded<'a> {
    /// The instruction that `code` begins with; `None` if it is none.
    fn new(code: &[u8], pc: u64, is_64_bit: bool, registers: &'a [(&'static str, u64)]) -> Option<Self> {
        let instruction = Decoder::with_ip(if is_64_bit { 64 } else { 32 }, code, pc, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(Self { instruction, registers, is_64_bit })
    }

    fn text(&self) -> String {
        let mut formatter = IntelFormatter::new();
        let options = formatter.options_mut();
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_uppercase_hex(false);
        options.set_space_after_operand_separator(true);
        let mut text = String::new();
        formatter.format(&self.instruction, &mut text);
        crate::crash::text::cut(&text, Fault::MAX_INSTRUCTION).to_owned()
    }

    /// The register that a part of one belongs to.
    fn whole(&self, register: Register) -> Register {
        if self.is_64_bit { register.full_register() } else { register.full_register32() }
    }

    fn value(&self, register: Register) -> Option<u64> {
        let name = match self.whole(register) {
            // Of all others the base is 0 (Linux, 64-bit code).
            Register::CS | Register::DS | Register::ES | Register::SS => return Some(0),
            Register::FS => "fs_base".to_owned(),
            Register::GS => "gs_base".to_owned(),
            whole => name_of(whole),
        };
        self.registers.iter().find(|(known, _)| **known == name).map(|(_, value)| *value)
    }

    /// The general registers that it reads.
    fn used_registers(&self) -> std::collections::BTreeMap<String, u64> {
        let mut factory = InstructionInfoFactory::new();
        let is_read = |access| !matches!(access, OpAccess::None | OpAccess::Write | OpAccess::CondWrite);
        let used = factory.info(&self.instruction).used_registers().iter();
        let used = used.filter(|used| is_read(used.access())).map(|used| self.whole(used.register()));
        let named = used.filter(|register| register.is_gpr()).map(|register| (register, name_of(register)));
        named.filter_map(|(register, name)| Some((name, self.value(register)?))).take(Fault::MAX_REGISTERS).collect()
    }

    /// The memory that it accesses, as far as the registers are known.
    fn operands(&self) -> Vec<Operand> {
        let mut factory = InstructionInfoFactory::new();
        factory.info(&self.instruction).used_memory().iter().filter_map(|used| self.operand(used)).collect()
    }

    fn operand(&self, used: &UsedMemory) -> Option<Operand> {
        let access = match used.access() {
            OpAccess::Read | OpAccess::CondRead => Some(Access::Read),
            OpAccess::Write | OpAccess::CondWrite => Some(Access::Write),
            OpAccess::ReadWrite | OpAccess::ReadCondWrite => Some(Access::ReadWrite),
            _ => return None,
        };
        let address = used.virtual_address(0, |register, _, _| self.value(register))?;
        Some(Operand { address, size: u32::try_from(used.memory_size().size()).unwrap_or(0), access })
    }
}

fn name_of(register: Register) -> String {
    format!("{register:?}").to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
