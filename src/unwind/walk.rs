//! Walks a stack from frame to frame: by the unwind tables, else by the frame pointer, else by scanning the stack for return
//! addresses.

use super::arch::{Arch, caller_registers, follows_call, frame_pointer, interrupted_by_signal};
use super::cfi;
use super::leaf::is_leaf;
use super::modules::ModuleTable;
use super::page_cache::PageCache;
use super::signal_frame::SignalReturn;
use crate::crash::{Frame, FrameTrust};
use crate::elf::Registers;
use std::collections::HashSet;

/// Words of the stack that one scan reads at most.
const SCAN_WORDS: usize = 512;
/// Scans of one stack at most. Scanning is expensive, and a stack that needs much of it is not useful.
const MAX_SCANS: u32 = 8;

/// Functions whose tables are kept from one stack to the next.
const MAX_FUNCTIONS: usize = 512;

/// Walks the stacks of one process, one thread at a time.
pub(super) struct StackWalker<'a, 'p> {
    pages: &'p mut PageCache<'a>,
    modules: &'p mut ModuleTable<'a>,
    arch: Arch,
    /// Where the functions begin that `arch` knows.
    known_functions: HashSet<u64>,
    /// Scans of the current stack so far.
    scans: u32,
    /// The signal frames of the current stack so far, the innermost first.
    signals: Vec<SignalReturn>,
}

/// A frame and the registers in it.
#[derive(Clone, Copy)]
struct FrameState {
    registers: Registers,
    /// The instruction pointer is where a call returns to.
    is_return_address: bool,
    trust: FrameTrust,
}

impl FrameState {
    /// An address inside the instruction that the frame is at. A return address may already be in the next function.
    fn code_address(&self) -> u64 {
        self.registers.instruction_pointer().wrapping_sub(u64::from(self.is_return_address))
    }
}

impl<'a, 'p> StackWalker<'a, 'p> {
    /// `registers` are those of any thread; they tell the architecture.
    pub(super) fn new(pages: &'p mut PageCache<'a>, modules: &'p mut ModuleTable<'a>, registers: Registers) -> Self {
        Self {
            pages,
            modules,
            arch: Arch::from_registers(registers),
            known_functions: HashSet::new(),
            scans: 0,
            signals: Vec::new(),
        }
    }

    /// The frames of the thread with these registers, innermost first: at most `max_depth`, until `keep_going` returns false.
    pub(super) fn frames(
        &mut self,
        registers: Registers,
        max_depth: usize,
        keep_going: &dyn Fn() -> bool,
    ) -> Vec<Frame> {
        let mut frames = Vec::new();
        self.scans = 0;
        // Those as far as the last signal frame.
        let mut scans = 0;
        self.signals.clear();
        // The stacks of many threads are more pages than the cache holds.
        self.pages.make_room();
        // So are their functions' tables more than should be in memory, if somebody wants that.
        if self.known_functions.len() > MAX_FUNCTIONS {
            self.arch = Arch::from_registers(registers);
            self.known_functions.clear();
        }
        let mut next = Some(FrameState { registers, is_return_address: false, trust: FrameTrust::Context });
        while let Some(state) = next.filter(|_| frames.len() < max_depth && keep_going()) {
            frames.push(self.frame(state));
            next = self.caller(state);
            if let Some(interrupted) = next.filter(|next| next.trust == FrameTrust::Context) {
                // The trampoline is no frame of the handler.
                let handler_frames = frames.len() - 1;
                let (trampoline, interrupted) = (state.registers, interrupted.registers);
                let is_scanned = self.scans > scans;
                self.signals.push(SignalReturn { handler_frames, is_scanned, trampoline, interrupted });
                scans = self.scans;
            }
        }
        frames
    }

    /// The signal frames that [`Self::frames`] met last, the innermost first, and the memory that they are in.
    pub(super) fn signals(&mut self) -> (&[SignalReturn], &mut PageCache<'a>) {
        (&self.signals, self.pages)
    }

    fn frame(&mut self, state: FrameState) -> Frame {
        let code_address = state.code_address();
        let module = self.modules.number_at(self.pages, code_address);
        let bias = module.and_then(|number| self.modules.get(number)).map(|loaded| loaded.module.bias);
        let offset = bias.map_or(0, |bias| code_address.wrapping_sub(bias));
        Frame { address: state.registers.instruction_pointer(), module, offset, trust: state.trust, symbol: None }
    }

    fn caller(&mut self, state: FrameState) -> Option<FrameState> {
        if state.is_return_address
            && let Some(registers) = interrupted_by_signal(state.registers, self.pages)
        {
            return Some(FrameState { registers, is_return_address: false, trust: FrameTrust::Context });
        }
        if !self.modules.is_code(state.registers.instruction_pointer()) {
            // A jump through a bad pointer. The call itself was completed, so the return address is where it belongs.
            return self.caller_at_entry(state).or_else(|| self.scan(state));
        }
        if self.ensure_table(state) {
            match self.arch.unwind_frame(state.registers, state.is_return_address, self.pages) {
                Ok(None) => return None,
                Ok(Some(registers)) if self.is_plausible_caller(state, registers) => {
                    return Some(FrameState { registers, is_return_address: true, trust: FrameTrust::CallFrameInfo });
                }
                _ => {}
            }
        }
        self.caller_of_leaf(state).or_else(|| self.caller_by_frame_pointer(state)).or_else(|| self.scan(state))
    }

    /// Whether the unwind tables cover the frame's function. If so, `arch` knows it afterwards.
    fn ensure_table(&mut self, state: FrameState) -> bool {
        let code_address = state.code_address();
        let Some(number) = self.modules.number_at(self.pages, code_address) else { return false };
        let Some(index) = self.modules.get(number).and_then(|loaded| loaded.eh_frame_hdr.clone()) else { return false };
        let Some(function) = cfi::find_table(self.pages, self.modules.class(), index, code_address) else {
            return false;
        };
        if self.known_functions.insert(function.code.start) {
            self.arch.add_function(function);
        }
        true
    }

    /// Whether the caller is in code and further up the stack.
    fn is_plausible_caller(&self, state: FrameState, caller: Registers) -> bool {
        let (own, callers) = (state.registers.stack_pointer(), caller.stack_pointer());
        // A leaf function need not have moved the stack pointer.
        let may_be_equal = state.trust == FrameTrust::Context;
        self.modules.is_code(caller.instruction_pointer().wrapping_sub(1))
            && (callers > own || (may_be_equal && callers == own))
    }

    /// The caller of a function of which no instruction was executed.
    fn caller_at_entry(&mut self, state: FrameState) -> Option<FrameState> {
        let (registers, sp) = (state.registers, state.registers.stack_pointer());
        let (return_address, sp) = match registers {
            Registers::I386(_) | Registers::X86_64 { .. } => {
                (self.pages.read_word(sp, registers.word_len())?, sp.checked_add(registers.word_len())?)
            }
            Registers::Aarch64 { lr, .. } => (lr, sp),
        };
        let registers = caller_registers(registers, return_address, sp, frame_pointer(registers))?;
        let caller = FrameState { registers, is_return_address: true, trust: FrameTrust::CallFrameInfo };
        self.is_after_call(registers).then_some(caller)
    }

    /// The caller of a function without a frame of its own.
    fn caller_of_leaf(&mut self, state: FrameState) -> Option<FrameState> {
        // What called a function has a frame. Go's sigpanic is not called, but has the faulting instruction as its return address.
        if state.trust == FrameTrust::Scan || state.is_return_address && self.is_after_call(state.registers) {
            return None;
        }
        let (sp, word_len) = (state.registers.stack_pointer(), state.registers.word_len());
        let return_address = self.pages.read_word(sp, word_len)?;
        let pointer = frame_pointer(state.registers);
        let registers = caller_registers(state.registers, return_address, sp.checked_add(word_len)?, pointer)?;
        let is_caller = self.is_after_call(registers) && is_leaf(state.registers, return_address, self.pages);
        is_caller.then_some(FrameState { registers, is_return_address: true, trust: FrameTrust::CallFrameInfo })
    }

    fn caller_by_frame_pointer(&mut self, state: FrameState) -> Option<FrameState> {
        let (frame_pointer, word_len) = (frame_pointer(state.registers), state.registers.word_len());
        let stack = self.modules.stack_from(state.registers.stack_pointer())?;
        if !stack.contains(&frame_pointer) || !frame_pointer.is_multiple_of(word_len) {
            return None;
        }
        let callers_pointer = self.pages.read_word(frame_pointer, word_len)?;
        let return_address = self.pages.read_word(frame_pointer.checked_add(word_len)?, word_len)?;
        let sp = frame_pointer.checked_add(2 * word_len)?;
        let registers = caller_registers(state.registers, return_address, sp, callers_pointer)?;
        let caller = FrameState { registers, is_return_address: true, trust: FrameTrust::FramePointer };
        // Go's sigpanic makes a fault look like a call, and then no call instruction precedes the return address. Accept it if
        // the next frame of the chain is valid, or that of a function without a frame.
        let next_is_valid = |walker: &mut Self| {
            let next_return = walker.pages.read_word(callers_pointer.checked_add(word_len)?, word_len)?;
            let is_further_up = callers_pointer > frame_pointer && stack.contains(&callers_pointer);
            Some(is_further_up && walker.is_return_address(registers, next_return))
        };
        let is_valid = self.is_after_call(registers)
            || (self.modules.is_code(return_address)
                && (next_is_valid(self) == Some(true) || self.caller_of_leaf(caller).is_some()));
        is_valid.then_some(caller)
    }

    /// The first word up the stack that is a return address. One whose own caller can be unwound as well is preferred.
    fn scan(&mut self, state: FrameState) -> Option<FrameState> {
        if self.scans >= MAX_SCANS {
            return None;
        }
        self.scans += 1;
        let (word_len, frame_pointer) = (state.registers.word_len(), frame_pointer(state.registers));
        let stack = self.modules.stack_from(state.registers.stack_pointer().checked_next_multiple_of(word_len)?)?;
        let mut fallback = None;
        let words = (stack.start..stack.end.saturating_sub(word_len)).step_by(usize::try_from(word_len).ok()?);
        for at in words.take(SCAN_WORDS) {
            let word = self.pages.read_word(at, word_len)?;
            let registers = caller_registers(state.registers, word, at + word_len, frame_pointer)?;
            if self.modules.is_code(word) && interrupted_by_signal(registers, self.pages).is_some() {
                // The kernel put the trampoline's address there. Below it, code such as Go's runtime has a frame of its own kind.
                return Some(FrameState { registers, is_return_address: true, trust: FrameTrust::CallFrameInfo });
            }
            if !self.is_after_call(registers) {
                continue;
            }
            let candidate = FrameState { registers, is_return_address: true, trust: FrameTrust::Scan };
            if self.ensure_table(candidate)
                && let Ok(caller) = self.arch.unwind_frame(registers, true, self.pages)
                && caller.is_none_or(|caller| self.is_plausible_caller(candidate, caller) && self.is_after_call(caller))
            {
                return Some(candidate);
            }
            fallback = fallback.or(Some(candidate));
        }
        fallback
    }

    /// Whether a call instruction ends at the instruction pointer.
    fn is_after_call(&mut self, registers: Registers) -> bool {
        self.is_return_address(registers, registers.instruction_pointer())
    }

    /// Whether a call instruction ends at `address`; `registers` tell the architecture.
    fn is_return_address(&mut self, registers: Registers, address: u64) -> bool {
        self.modules.is_code(address.wrapping_sub(1)) && follows_call(registers, address, self.pages)
    }
}
