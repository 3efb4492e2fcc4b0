//! From frame to frame: by the unwind tables, else by the frame pointer, else by looking for what a call has left on the stack.

use super::cfi;
use super::machine::{Machine, follows_call, interrupted};
use super::modules::Modules;
use super::pages::Pages;
use crate::crash::{Frame, FrameTrust};
use crate::elf::Registers;
use std::collections::HashSet;

/// Words of the stack that are looked at for a return address.
const SCAN: u64 = 512;

/// A walk through the stacks of one process, a thread at a time.
pub(super) struct StackWalker<'a, 'p> {
    pub(super) pages: &'p mut Pages<'a>,
    pub(super) modules: &'p mut Modules<'a>,
    machine: Machine,
    /// Functions that framehop knows, or that have no table.
    asked: HashSet<u64>,
    /// Guesses are dear, and a stack that needs many tells nothing.
    scans: u32,
}

/// A frame with the registers in it.
#[derive(Clone, Copy)]
struct FrameState {
    registers: Registers,
    /// The counter is where a call returns to.
    is_return: bool,
    trust: FrameTrust,
}

const MAX_SCANS: u32 = 8;

impl<'a, 'p> StackWalker<'a, 'p> {
    pub(super) fn new(pages: &'p mut Pages<'a>, modules: &'p mut Modules<'a>, first: Registers) -> Self {
        Self { pages, modules, machine: Machine::of(first), asked: HashSet::new(), scans: 0 }
    }

    /// The frames from the innermost on: at most `depth`, and none after `go_on` says no.
    pub(super) fn frames(&mut self, first: Registers, depth: usize, go_on: &dyn Fn() -> bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        self.scans = 0;
        // The stacks of many threads are many pages.
        self.pages.make_room();
        let mut next = Some(FrameState { registers: first, is_return: false, trust: FrameTrust::Context });
        while let Some(state) = next.filter(|_| frames.len() < depth && go_on()) {
            frames.push(self.frame(state));
            next = self.caller(state);
        }
        frames
    }

    fn frame(&mut self, state: FrameState) -> Frame {
        let address = state.registers.counter();
        let inside = address.wrapping_sub(u64::from(state.is_return));
        let module = self.modules.at(self.pages, inside);
        let bias = module.and_then(|number| self.modules.get(number)).map(|loaded| loaded.module.bias);
        let offset = bias.map_or(0, |bias| inside.wrapping_sub(bias));
        Frame { address, module, offset, trust: state.trust }
    }

    fn caller(&mut self, state: FrameState) -> Option<FrameState> {
        if state.is_return
            && let Some(registers) = interrupted(state.registers, self.pages)
        {
            return Some(FrameState { registers, is_return: false, trust: FrameTrust::Context });
        }
        let from = state.registers.counter();
        if !self.modules.is_code(from) {
            // A call to an address where nothing is: the call itself was whole.
            return self.returned(state).or_else(|| self.scan(state));
        }
        if self.has_table(state) {
            match self.machine.step(state.registers, state.is_return, self.pages) {
                Ok(None) => return None,
                Ok(Some(registers)) if self.is_plausible(state, registers) => {
                    return Some(FrameState { registers, is_return: true, trust: FrameTrust::CallFrameInfo });
                }
                _ => {}
            }
        }
        self.frame_pointer(state).or_else(|| self.scan(state))
    }

    /// Whether the unwind tables have the function, which framehop is told of.
    fn has_table(&mut self, state: FrameState) -> bool {
        let inside = state.registers.counter().wrapping_sub(u64::from(state.is_return));
        let Some(number) = self.modules.at(self.pages, inside) else { return false };
        let Some(index) = self.modules.get(number).and_then(|loaded| loaded.eh_frame_hdr.clone()) else { return false };
        let Some(function) = cfi::function(self.pages, index, inside) else { return false };
        if self.asked.insert(function.code.start) {
            self.machine.add(function);
        }
        true
    }

    /// Whether such a caller may be: code, and further up the stack.
    fn is_plausible(&self, state: FrameState, caller: Registers) -> bool {
        let (stack, callers) = (state.registers.stack(), caller.stack());
        let first = state.trust == FrameTrust::Context;
        self.modules.is_code(caller.counter().wrapping_sub(1)) && (callers > stack || (first && callers == stack))
    }

    /// The caller of a function that has done nothing yet.
    fn returned(&mut self, state: FrameState) -> Option<FrameState> {
        let registers = match state.registers {
            Registers::X86_64 { sp, bp, .. } => {
                Registers::X86_64 { ip: self.pages.word(sp)?, sp: sp.checked_add(8)?, bp }
            }
            Registers::Aarch64 { sp, fp, lr, .. } => Registers::Aarch64 { pc: lr, sp, fp, lr },
        };
        self.is_call(registers).then_some(FrameState { registers, is_return: true, trust: FrameTrust::CallFrameInfo })
    }

    fn frame_pointer(&mut self, state: FrameState) -> Option<FrameState> {
        let pointer = match state.registers {
            Registers::X86_64 { bp, .. } => bp,
            Registers::Aarch64 { fp, .. } => fp,
        };
        let stack = self.modules.stack(state.registers.stack())?;
        if !stack.contains(&pointer) || !pointer.is_multiple_of(8) {
            return None;
        }
        let (caller, back) = (self.pages.word(pointer)?, self.pages.word(pointer.checked_add(8)?)?);
        let above = pointer.checked_add(16)?;
        let registers = match state.registers {
            Registers::X86_64 { .. } => Registers::X86_64 { ip: back, sp: above, bp: caller },
            Registers::Aarch64 { .. } => Registers::Aarch64 { pc: back, sp: above, fp: caller, lr: back },
        };
        // A runtime that makes a fault look like a call (Go's sigpanic) leaves an address that no call is in front of: then the
        // next link must be sound.
        let next = |walk: &mut Self| {
            let above = walk.pages.word(caller.checked_add(8)?)?;
            Some(caller > pointer && stack.contains(&caller) && walk.is_call_to(registers, above))
        };
        let sound = self.is_call(registers) || (self.modules.is_code(back) && next(self) == Some(true));
        sound.then_some(FrameState { registers, is_return: true, trust: FrameTrust::FramePointer })
    }

    /// The first word up the stack that follows a call, one whose caller can be unwound in turn before others.
    fn scan(&mut self, state: FrameState) -> Option<FrameState> {
        if self.scans >= MAX_SCANS {
            return None;
        }
        self.scans += 1;
        let stack = self.modules.stack(state.registers.stack().checked_next_multiple_of(8)?)?;
        let mut second = None;
        for at in (stack.start..stack.end.saturating_sub(8)).step_by(8).take(SCAN as usize) {
            let word = self.pages.word(at)?;
            let registers = match state.registers {
                Registers::X86_64 { bp, .. } => Registers::X86_64 { ip: word, sp: at + 8, bp },
                Registers::Aarch64 { fp, .. } => Registers::Aarch64 { pc: word, sp: at + 8, fp, lr: word },
            };
            if self.modules.is_code(word) && interrupted(registers, self.pages).is_some() {
                // The kernel has put it there, and code that is not C has made its own frame below it, as Go's runtime does.
                return Some(FrameState { registers, is_return: true, trust: FrameTrust::CallFrameInfo });
            }
            if !self.is_call(registers) {
                continue;
            }
            let guess = FrameState { registers, is_return: true, trust: FrameTrust::Scan };
            if self.has_table(guess)
                && let Ok(caller) = self.machine.step(registers, true, self.pages)
                && caller.is_none_or(|caller| self.is_plausible(guess, caller) && self.is_call(caller))
            {
                return Some(guess);
            }
            second = second.or(Some(guess));
        }
        second
    }

    fn is_call(&mut self, registers: Registers) -> bool {
        self.is_call_to(registers, registers.counter())
    }

    /// Whether a call of this architecture returns to `address`.
    fn is_call_to(&mut self, registers: Registers, address: u64) -> bool {
        self.modules.is_code(address.wrapping_sub(1)) && follows_call(registers, address, self.pages)
    }
}
