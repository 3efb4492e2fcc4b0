//! What a fault was: the instruction, and the address in relation to what is mapped. As far as it is certain, and no further.

use super::text::printable;
use super::{MapsLine, Record};
use nix::sys::signal::Signal::{SIGBUS, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The fault of the thread that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The instruction at the program counter, in Intel's syntax. `None` if it could not be read, and on other machines than x86.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// Its bytes, hexadecimal; of other machines than x86 the first four.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// The values of the registers that the instruction reads, by name. Only if a core is kept: they are memory of the process.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registers: BTreeMap<String, u64>,
    /// The address that was accessed: `si_addr`, or, where the processor does not tell, the one that the instruction's operand has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<u64>,
    /// How it was accessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// How many bytes were accessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// What is at the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Number of the system call that seccomp(2) refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_call: Option<u64>,
}

/// How memory was accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// It was read.
    Read,
    /// It was written.
    Write,
    /// It was read in order to be written.
    ReadWrite,
    /// An instruction was to be executed there.
    Execute,
}

/// What is at an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Place {
    /// Nothing: it is within 64 KiB above address 0, or within a page below it.
    Null {
        /// Distance from address 0, in bytes.
        offset: i64,
    },
    /// The processor has no such address: bits 47 to 63 differ.
    NonCanonical,
    /// The operand needs an address that is a multiple of its size.
    Misaligned,
    /// A privileged instruction, which has no address.
    Privileged,
    /// Half of the address space is the kernel's.
    Kernel,
    /// The guard below the stack of a thread, or the gap that the kernel keeps there.
    StackGuard {
        /// The thread, in the PID namespace of the process.
        tid: u32,
        /// Whether it is the thread that failed, and its frame reaches as far: the stack has overflowed.
        overflow: bool,
        /// Distance from the stack, in bytes.
        distance: u64,
    },
    /// Nothing is mapped there.
    Unmapped {
        /// The mapping below.
        below: Option<Neighbour>,
        /// The mapping above.
        above: Option<Neighbour>,
    },
    /// A mapping.
    Mapped(Mapping),
}

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// What may be done there, as in `/proc/PID/maps`: `r-x`.
    pub permissions: String,
    /// Name of the file without its directory, or in brackets what else it is, such as `[heap]`. `None` for other memory without a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A mapping near an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The mapping.
    #[serde(flatten)]
    pub mapping: Mapping,
    /// Distance from the address, in bytes.
    pub distance: u64,
}

/// Who reads a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Those who may read the record.
    Record,
    /// Those who may read the journal. An address that the program made of data may be a secret: none is given, and no distances.
    Journal,
}

impl Fault {
    /// The longest name of a mapping, in bytes (NAME_MAX).
    pub const MAX_NAME: usize = 255;
    /// The longest instruction as text, in bytes.
    pub const MAX_INSTRUCTION: usize = 128;
    /// The longest instruction of x86, in bytes.
    pub const MAX_CODE: usize = 15;
    /// The most registers.
    pub const MAX_REGISTERS: usize = 16;

    /// Whether it is within its limits. Somebody who read hostile bytes may send anything.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let is_mapping = |mapping: &Mapping| {
            mapping.permissions.len() == 3 && mapping.name.as_ref().is_none_or(|name| name.len() <= Self::MAX_NAME)
        };
        let is_neighbour =
            |neighbour: &Option<Neighbour>| neighbour.as_ref().is_none_or(|near| is_mapping(&near.mapping));
        let is_place = match &self.place {
            Some(Place::Mapped(mapping)) => is_mapping(mapping),
            Some(Place::Unmapped { below, above }) => is_neighbour(below) && is_neighbour(above),
            _ => true,
        };
        let is_name = |name: &String| {
            (1..=8).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        is_place
            && self.code.len() <= 2 * Self::MAX_CODE
            && self.code.bytes().all(|byte| byte.is_ascii_hexdigit())
            && self.instruction.as_ref().is_none_or(|text| {
                text.len() <= Self::MAX_INSTRUCTION && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
            })
            && self.registers.len() <= Self::MAX_REGISTERS
            && self.registers.keys().all(is_name)
    }

    /// Forgets what registers held: it is memory of the process.
    pub fn omit_registers(&mut self) {
        self.registers.clear();
        if matches!(self.place, Some(Place::NonCanonical | Place::Misaligned)) {
            self.address = None;
        }
    }

    /// Names the mappings without a file as the kernel does: `maps` is the beginning of `/proc/PID/maps` (proc_pid_maps(5)).
    pub fn name_mappings(&mut self, maps: &str) {
        let mappings: Vec<&mut Mapping> = match &mut self.place {
            Some(Place::Mapped(mapping)) => vec![mapping],
            Some(Place::Unmapped { below, above }) => {
                [below, above].into_iter().flatten().map(|near| &mut near.mapping).collect()
            }
            _ => return,
        };
        for mapping in mappings.into_iter().filter(|mapping| mapping.name.is_none()) {
            let line = maps.lines().filter_map(MapsLine::parse).find(|line| line.start == mapping.start);
            let name = line.map(|line| line.name);
            mapping.name = name.filter(|name| name.starts_with('[') && name.len() <= Self::MAX_NAME).map(str::to_owned);
        }
    }

    /// What happened, in a sentence without a full stop: `write of 4 bytes at 0x11, 17 bytes above NULL`. `None` if there is nothing to add to the
    /// signal. `number` and `code` are the signal's; `code` is that of the siginfo, if there is one.
    #[must_use]
    pub fn sentence(&self, number: u32, code: Option<i32>, audience: Audience) -> Option<String> {
        let is = |known: nix::sys::signal::Signal| known as u32 == number;
        if let Some(call) = self.system_call.filter(|_| is(SIGSYS)) {
            return Some(format!("system call number {call}"));
        }
        let starts = |names: &[&str]| self.instruction.as_ref().is_some_and(|text| names.contains(&text.as_str()));
        if is(SIGILL) && starts(&["ud2"]) {
            return Some("a trap that compilers put where a program must not go (ud2)".to_owned());
        }
        if is(SIGTRAP) && starts(&["int3"]) {
            return Some("a breakpoint that the program itself has (int3)".to_owned());
        }
        let place = self.place.as_ref()?;
        let place =
            place.sentence(self.access, is(SIGBUS) && code.is_some(), is(SIGSEGV).then_some(code).flatten(), audience);
        let access = match (self.access, self.size) {
            (None, _) if matches!(self.place, Some(Place::Privileged)) => return Some(place),
            (None, _) => "access".to_owned(),
            (Some(Access::Execute), _) => "execution".to_owned(),
            (Some(access), None) => access.name().to_owned(),
            (Some(access), Some(1)) => format!("{} of 1 byte", access.name()),
            (Some(access), Some(size)) => format!("{} of {size} bytes", access.name()),
        };
        let is_clause = matches!(self.place, Some(Place::NonCanonical | Place::Misaligned | Place::Kernel));
        Some(match self.address.filter(|_| audience == Audience::Record) {
            Some(address) if is_clause => format!("{access} at {address:#x}, which {place}"),
            Some(address) => format!("{access} at {address:#x}, {place}"),
            None if is_clause => format!("{access} at an address that {place}"),
            None => format!("{access}, {place}"),
        })
    }
}

impl Access {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadWrite => "read and write",
            Self::Execute => "execution",
        }
    }
}

impl Place {
    fn sentence(&self, access: Option<Access>, has_no_page: bool, code: Option<i32>, audience: Audience) -> String {
        const SEGV_PKUERR: i32 = 4;
        match self {
            Self::Null { offset: 0 } => "the null pointer".to_owned(),
            Self::Null { offset } => {
                let side = if *offset < 0 { "below" } else { "above" };
                format!("{} {side} NULL", bytes(offset.unsigned_abs()))
            }
            Self::NonCanonical => "is not canonical: the pointer holds something else".to_owned(),
            Self::Misaligned => "is not aligned as the instruction needs it".to_owned(),
            Self::Privileged => "a privileged instruction".to_owned(),
            Self::Kernel => "is in the kernel's half of the address space".to_owned(),
            Self::StackGuard { tid, overflow: true, .. } => {
                format!("in the guard below the stack of thread {tid}: the stack has overflowed")
            }
            Self::StackGuard { tid, .. } => format!("in the guard below the stack of thread {tid}"),
            Self::Unmapped { below, above } => {
                let near = [(below, "above"), (above, "below")].into_iter().filter_map(|(neighbour, side)| {
                    let Neighbour { mapping, distance } = neighbour.as_ref()?;
                    let distance =
                        if audience == Audience::Record { format!("{} ", bytes(*distance)) } else { String::new() };
                    Some(format!("{distance}{side} {}", mapping.description()))
                });
                let near: Vec<String> = near.collect();
                if near.is_empty() {
                    "where nothing is mapped".to_owned()
                } else {
                    format!("where nothing is mapped: {}", near.join(", "))
                }
            }
            Self::Mapped(mapping) if has_no_page => {
                format!("in {}: it has no such page, as behind the end of a file", mapping.description())
            }
            Self::Mapped(mapping) if code == Some(SEGV_PKUERR) => {
                format!("in {}, which its protection key forbids", mapping.description())
            }
            Self::Mapped(mapping) => {
                let what = mapping.description();
                let may = |letter: char| mapping.permissions.contains(letter);
                match access {
                    Some(Access::Execute) if !may('x') => format!("in {what}, which is not executable"),
                    Some(Access::Write | Access::ReadWrite) if !may('w') && may('r') => {
                        format!("in {what}, which is read-only")
                    }
                    _ if mapping.permissions == "---" => format!("in {what}, which nobody may access (PROT_NONE)"),
                    _ => format!("in {what} ({})", mapping.permissions),
                }
            }
        }
    }
}

impl Mapping {
    fn description(&self) -> String {
        match &self.name {
            Some(name) if name.starts_with('[') => printable(name),
            Some(name) => format!("memory of {}", printable(name)),
            None => "memory without a file".to_owned(),
        }
    }
}

fn bytes(count: u64) -> String {
    if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") }
}

impl Record {
    /// What the fault was, in a sentence ([`Fault::sentence`]).
    #[must_use]
    pub fn fault_sentence(&self, audience: Audience) -> Option<String> {
        let (number, code) = match &self.failure {
            Some(failure) => (failure.signal, failure.code),
            None => (self.signal?, self.siginfo.as_ref().map(|info| info.code)),
        };
        self.fault.as_ref()?.sentence(number, code, audience)
    }
}

#[cfg(test)]
mod tests;
