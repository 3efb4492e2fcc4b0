//! Code that no file has: that of compilers at run time, and that of programs for another machine, which an emulator translates.
//!
//! The frames of two bugs in there may be the same. What is read here tells them apart as far as it is the same in each run.

use super::ProcessUnwinder;
use crate::crash::text::to_hexadecimal;
use crate::crash::{Frame, FrameTrust, Signature};
use crate::elf::Registers;
use nix::sys::signal::Signal::SIGTRAP;
use object::elf::PF_W;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// What is known of code that no file has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anonymous {
    /// The instruction at which the thread stopped, if that is in no file: its first bytes, at most four.
    pub instruction: Option<Vec<u8>>,
    /// The program that an emulator runs: build-id, else file name without directory.
    pub guest: Option<String>,
    /// The emulator sent itself the signal as a whole, so it is the guest's: its own frames tell nothing of it, and any of its threads may have got it.
    pub is_guests_signal: bool,
    /// A hash of what may differ from run to run also for one bug; [`Signature::UNKNOWN_VARIANT`] where there is nothing to tell bugs apart.
    pub variant: String,
}

/// Hexadecimal digits of the hash in a variant.
const VARIANT_DIGITS: usize = 16;
/// Frames without a file that count for the variant.
const MAX_FRAMES: usize = 5;
/// Words of the stack that may point to the registers of a guest.
const MAX_WORDS: usize = 512;
/// Pointers from the stack to other memory that are followed.
const MAX_POINTERS: usize = 64;
/// Bytes of registers behind a pointer: those of the machines that there are have up to 512.
const REGISTERS: usize = 512;

impl ProcessUnwinder<'_> {
    /// What tells apart crashes with these `frames` and by this `signal`, where frames alone do not.
    pub fn anonymous(&mut self, frames: &[Frame], signal: Option<u32>) -> Anonymous {
        let layout = self.layout;
        let has_no_file = |frame: &&Frame| frame.module.is_none() && layout.is_code(frame.address);
        let first = frames.first().filter(has_no_file).filter(|frame| frame.trust == FrameTrust::Context);
        let instruction = first.and_then(|frame| self.instruction(frame.address, signal));
        let guest = self.modules.guest(&mut self.pages);
        let mut hash = Sha256::new();
        let mut is_known = false;
        for frame in frames.iter().filter(has_no_file).take(MAX_FRAMES) {
            // Where it is in a page: memory is mapped at random, by whole pages.
            hash.update((frame.address & 0xfff).to_le_bytes());
            is_known = true;
        }
        let is_guests_signal = guest.is_some() && layout.notes.is_killed_by_itself();
        if let Some((_, code)) = &guest {
            let stack = self.emulating_thread(is_guests_signal);
            let places = stack.and_then(|stack| self.guest_places(stack, code)).unwrap_or_default();
            is_known = !places.is_empty();
            for (offset, place) in places {
                hash.update(offset.to_le_bytes());
                hash.update(place.to_le_bytes());
            }
        }
        let variant = if is_known {
            to_hexadecimal(&hash.finalize()).chars().take(VARIANT_DIGITS).collect()
        } else {
            Signature::UNKNOWN_VARIANT.to_owned()
        };
        let guest = guest.map(|(name, _)| name);
        Anonymous { instruction, guest, is_guests_signal, variant }
    }

    /// The first bytes of the instruction that raised `signal`, with the program counter at `address`: as many as are code, at most four.
    fn instruction(&mut self, address: u64, signal: Option<u32>) -> Option<Vec<u8>> {
        /// int3 and int1.
        const TRAPS: [u8; 2] = [0xcc, 0xf1];
        let is_x86 = !matches!(self.layout.notes.threads.first()?.registers, Registers::Aarch64 { .. });
        if is_x86 && signal == Some(SIGTRAP as u32) {
            // They are executed before they raise the signal.
            let before = address.checked_sub(1).and_then(|at| self.pages.read(at, 1));
            if let Some(trap) = before.filter(|byte| TRAPS.iter().any(|trap| byte == &[*trap])) {
                return Some(trap);
            }
        }
        let is_code =
            |length: &usize| address.checked_add(*length as u64 - 1).is_some_and(|end| self.layout.is_code(end));
        let lengths = (1..=4).rev().filter(is_code);
        let mut bytes = lengths.into_iter().find_map(|length| self.pages.read(address, length))?;
        // Whatever follows hlt and ud2 is not executed: compilers put addresses there, or nothing.
        match bytes.as_slice() {
            [0xcc | 0xf1 | 0xf4, ..] if is_x86 => bytes.truncate(1),
            [0x0f, 0x0b, ..] if is_x86 => bytes.truncate(2),
            _ => {}
        }
        Some(bytes)
    }

    /// The stack pointer of the thread that emulates the one that failed. If the emulator sent the signal, it is the one that did so, or waits for it;
    /// or, between both, the main thread.
    fn emulating_thread(&self, is_guests_signal: bool) -> Option<u64> {
        let notes = &self.layout.notes;
        let mut threads = notes.threads.iter();
        let thread = if is_guests_signal {
            threads
                .clone()
                .find(|thread| thread.is_in_kill())
                .or_else(|| threads.find(|thread| Some(thread.tid) == notes.pid))
        } else {
            threads.next()
        };
        thread.map(|thread| thread.registers.stack_pointer())
    }

    /// Where a guest's program is, as far as the emulator's stack tells: it points to the guest's registers, and these into the `code` of the
    /// program. Of the first such memory the offsets that have addresses of the code, and these, from its beginning on; a 64-bit guest has its
    /// own addresses in the emulator.
    fn guest_places(&mut self, stack_pointer: u64, code: &Range<u64>) -> Option<Vec<(u64, u64)>> {
        let stack = self.modules.stack_from(stack_pointer.checked_next_multiple_of(8)?)?;
        let mut pointers = Vec::new();
        for at in (stack.start..stack.end.saturating_sub(8)).step_by(8).take(MAX_WORDS) {
            let pointer = self.pages.read_u64(at)?;
            let memory = self.layout.segment_at(pointer).filter(|load| load.flags & PF_W != 0);
            let is_data = memory.is_some() && !stack.contains(&pointer) && !self.layout.is_code(pointer);
            if is_data && !pointers.contains(&pointer) && pointers.len() < MAX_POINTERS {
                pointers.push(pointer);
            }
        }
        pointers.into_iter().find_map(|pointer| {
            let registers = self.pages.read(pointer, REGISTERS)?;
            let words = registers.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
            let places = (0..).zip(words).filter(|(_, word)| code.contains(word));
            let places: Vec<(u64, u64)> = places.map(|(offset, word)| (offset, word - code.start)).collect();
            (!places.is_empty()).then_some(places)
        })
    }
}

#[cfg(test)]
mod tests;
