//! The signature of a crash: equal for crashes of one bug. docs/signature.md specifies it for other tools.

use super::no_file::Anonymous;
use crate::crash::text::to_hexadecimal;
use crate::crash::{Frame, FrameTrust, Level, Module, Signature, signal};
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// Raised whenever a change gives the same crash another signature, in any case: names of different versions are never compared.
pub const VERSION: u32 = 2;
/// The version whose name a record has as well, until a release later.
const PREVIOUS_VERSION: u32 = 1;

/// What a signature is computed from.
#[derive(Clone, Copy)]
pub struct SignatureInput<'a> {
    /// The signal that killed the process.
    pub signal: Option<u32>,
    /// The faulting address (`si_addr`), if the kernel raised the signal.
    pub fault: Option<u64>,
    /// The stack pointer of the crashed thread.
    pub stack_pointer: Option<u64>,
    /// The frames of the crashed thread, innermost first.
    pub frames: &'a [Frame],
    /// Returns the module with a number that a frame has.
    pub module: &'a dyn Fn(u32) -> Option<&'a Module>,
    /// Returns whether an address is in an executable mapping.
    pub is_code: &'a dyn Fn(u64) -> bool,
    /// What is known of code that no file has.
    pub anonymous: &'a Anonymous,
    /// Build-id of the executable.
    pub build_id: Option<&'a str>,
    /// Name of the program.
    pub program: &'a str,
}

/// Frames that count if a fault stopped the program: the function and its callers.
const FAULT_WINDOW: usize = 5;
/// Frames that count if the program aborted itself. Between the bug and the signal are functions of the language's runtime, up
/// to 12 in Rust, which cannot be recognized in a stripped program.
const ABORT_WINDOW: usize = 16;
/// Longest cycle of functions that is recognized as a recursion.
const MAX_CYCLE: usize = 16;
/// Times that a cycle must repeat to be the cause of a stack overflow.
const OVERFLOW_REPEATS: usize = 8;
/// A fault this close to the stack pointer, in bytes, may be a stack overflow: frames are rarely larger.
const NEAR_STACK: u64 = 1 << 20;
/// Nothing is mapped below this address (vm.mmap_min_addr).
const NULL_END: u64 = 65536;

/// Hexadecimal digits of the hash in a name.
const DIGITS: usize = 20;

/// The token of code that no file has.
const JIT: &str = "jit";

static NOTHING_KNOWN: Anonymous =
    Anonymous { instruction: None, guest: None, is_guests_signal: false, variant: String::new() };

/// What a frame contributes to the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// An instruction in a module.
    Place(String),
    /// Code whose address says nothing, or differs from host to host.
    Mark(Cow<'static, str>),
}

/// Computes the signature of a crash. `before` is what version 1 computes it from, if that is something else; in any case that version knows
/// nothing of code without a file.
#[must_use]
pub fn compute_signature(input: &SignatureInput<'_>, before: Option<&SignatureInput<'_>>) -> Signature {
    let given = input;
    let frames = if input.anonymous.is_guests_signal { &[] } else { input.frames };
    let input = &SignatureInput { frames, ..*input };
    let class = signal_class(input.signal);
    let (level, lines) = signature_lines(input, &class);
    let is_anonymous =
        input.anonymous.guest.is_some() || lines.iter().any(|line| line == JIT || line.starts_with("jit "));
    let guest = input.anonymous.guest.as_deref();
    let id = signature_id(VERSION, &class, level, guest, &lines);
    let variant = is_anonymous.then(|| input.anonymous.variant.clone());
    // What is known of code without a file changes the lines in these two ways.
    let is_same = given.anonymous.instruction.is_none() && !given.anonymous.is_guests_signal;
    let previous = match before {
        None if is_same => signature_id(PREVIOUS_VERSION, &class, level, None, &lines),
        Some(before) => previous_id(before),
        None => previous_id(given),
    };
    Signature { id, level, previous: Some(previous), variant }
}

/// The id by the rules of version 1, which knew neither failures nor anything of code that no file has. Its frames are those of the thread that was
/// dumped, whatever handler they are in.
fn previous_id(before: &SignatureInput<'_>) -> String {
    let class = signal_class(before.signal);
    let (level, lines) = signature_lines(&SignatureInput { anonymous: &NOTHING_KNOWN, ..*before }, &class);
    signature_id(PREVIOUS_VERSION, &class, level, None, &lines)
}

fn signature_id(version: u32, class: &str, level: Level, guest: Option<&str>, lines: &[String]) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("coreward-signature {version}\n{class}\n{}\n", level.name()));
    if let Some(guest) = guest {
        hash.update(format!("guest {guest}\n"));
    }
    for line in lines {
        hash.update(line);
        hash.update("\n");
    }
    let digits: String = to_hexadecimal(&hash.finalize()).chars().take(DIGITS).collect();
    format!("s{version}-{digits}")
}

/// The class of a signal: those that one bug may raise on different occasions have the same.
fn signal_class(signal: Option<u32>) -> String {
    let name = signal::name(signal);
    match name.as_str() {
        "SEGV" | "BUS" => "memory".to_owned(),
        "ABRT" => "abort".to_owned(),
        _ => name,
    }
}

fn signature_lines(input: &SignatureInput<'_>, class: &str) -> (Level, Vec<String>) {
    let (tokens, cycle) = frame_tokens(input);
    let distance = input.fault.zip(input.stack_pointer).map(|(fault, stack)| fault.abs_diff(stack));
    let is_near_stack = distance.is_some_and(|distance| distance <= NEAR_STACK);
    if let Some(cycle) = cycle.filter(|_| is_near_stack && class == "memory") {
        return (Level::Stack, [vec!["overflow".to_owned()], cycle].concat());
    }
    let window = if class == "abort" { ABORT_WINDOW } else { FAULT_WINDOW };
    let mut lines = Vec::new();
    let mut places = 0;
    for token in &tokens {
        if places == window {
            break;
        }
        match token {
            Token::Place(place) => {
                places += 1;
                lines.push(place.clone());
            }
            Token::Mark(mark) => lines.push(mark.to_string()),
        }
    }
    match (places, input.frames.first().and_then(|frame| place(input, frame))) {
        (2.., _) => (Level::Stack, lines),
        (1, _) => (Level::ProgramCounter, lines),
        // The stack has nothing but runtime libraries.
        (0, Some(innermost)) => (Level::ProgramCounter, vec![innermost]),
        (0, None) => match input.build_id {
            Some(id) => (Level::Executable, [vec![id.to_owned()], lines].concat()),
            None => (Level::Program, [vec![input.program.to_owned()], lines].concat()),
        },
    }
}

/// The frames as tokens, each recursion once; and the first cycle that repeats often enough for a stack overflow, rotated so
/// that its smallest line comes first.
fn frame_tokens(input: &SignatureInput<'_>) -> (Vec<Token>, Option<Vec<String>>) {
    let mut tokens: Vec<Token> = Vec::new();
    // Length of the current cycle, and how often it was repeated.
    let (mut repeats, mut cycle) = ((0, 0), None);
    for (index, frame) in input.frames.iter().enumerate() {
        let has_place = tokens.iter().any(|token| matches!(token, Token::Place(_)));
        if frame.trust == FrameTrust::Scan && has_place {
            // A scanned frame is a guess, which adds nothing to what is known.
            break;
        }
        let token = frame_token(input, frame, index == 0);
        if matches!(token, Token::Mark(_)) && tokens.last() == Some(&token) {
            continue;
        }
        tokens.push(token);
        let count = tokens.len();
        if let Some(length) = (1..=MAX_CYCLE.min(count / 2)).find(|length| ends_repeated(&tokens, *length)) {
            tokens.truncate(count - length);
            repeats = if repeats.0 == length { (length, repeats.1 + 1) } else { (length, 1) };
            if repeats.1 == OVERFLOW_REPEATS {
                cycle = cycle.or_else(|| tokens.get(count - 2 * length..).map(smallest_rotation));
            }
        }
    }
    (tokens, cycle)
}

/// Whether the last `length` tokens equal those before them.
fn ends_repeated(tokens: &[Token], length: usize) -> bool {
    let earlier = tokens.len().checked_sub(length).and_then(|end| tokens.get(..end));
    earlier.is_some_and(|earlier| tokens.get(earlier.len()..).is_some_and(|last| earlier.ends_with(last)))
}

fn smallest_rotation(cycle: &[Token]) -> Vec<String> {
    let lines: Vec<String> = cycle
        .iter()
        .map(|token| match token {
            Token::Place(place) => place.clone(),
            Token::Mark(mark) => mark.to_string(),
        })
        .collect();
    let rotations = (0..lines.len()).filter_map(|middle| {
        let (end, beginning) = lines.split_at_checked(middle)?;
        Some([beginning, end].concat())
    });
    rotations.min().unwrap_or_default()
}

fn mark(mark: &'static str) -> Token {
    Token::Mark(mark.into())
}

fn frame_token(input: &SignatureInput<'_>, frame: &Frame, is_innermost: bool) -> Token {
    match frame.module.and_then(input.module) {
        Some(module) if module.is_vdso() => mark("vdso"),
        Some(module) if module.is_runtime() => mark("runtime"),
        Some(_) => place(input, frame).map_or(mark("wild"), Token::Place),
        None if is_innermost && frame.address < NULL_END => mark("null"),
        None if (input.is_code)(frame.address) => match input.anonymous.instruction.as_ref().filter(|_| is_innermost) {
            Some(code) => Token::Mark(format!("{JIT} {}", to_hexadecimal(code)).into()),
            None => mark(JIT),
        },
        None => mark("wild"),
    }
}

/// Build-id, else file name, and offset of a frame in a module.
fn place(input: &SignatureInput<'_>, frame: &Frame) -> Option<String> {
    let module = frame.module.and_then(input.module)?;
    let name = module.build_id.as_deref().unwrap_or_else(|| module.file_name());
    Some(format!("{name}+{:#x}", frame.offset))
}

#[cfg(test)]
mod tests;
