//! The signature: docs/signature.md says the same in words, for other tools.

use crate::crash::{Frame, FrameTrust, Level, Module, Signature, signal};
use sha2::{Digest, Sha256};

/// Raised whenever the same crash would get another signature.
pub const VERSION: u32 = 1;

/// What a signature is made from.
#[derive(Clone, Copy)]
pub struct SignatureInput<'a> {
    /// Signal number.
    pub signal: Option<u32>,
    /// The address that a fault was about (`si_addr`), if the kernel raised the signal.
    pub fault: Option<u64>,
    /// The stack pointer of the crashed thread.
    pub stack_pointer: Option<u64>,
    /// The crashed thread's frames, the innermost first.
    pub frames: &'a [Frame],
    /// The module with this number.
    pub module: &'a dyn Fn(u32) -> Option<&'a Module>,
    /// Whether instructions may lie at an address.
    pub is_code: &'a dyn Fn(u64) -> bool,
    /// Build-id of the executable.
    pub build_id: Option<&'a str>,
    /// Name of the program.
    pub program: &'a str,
}

/// Frames that count where a fault stopped the program: where, and who called.
const WINDOW: usize = 5;
/// Frames that count where the program stopped itself: between the fault and the signal lies the language's own plumbing,
/// which can't be told apart in a stripped program. Rust's has up to 12.
const ABORT_WINDOW: usize = 16;
/// Longest cycle of functions that is seen as a recursion.
const CYCLE: usize = 16;
/// So often a cycle must turn before an overflow of the stack is put down to it.
const TURNS: usize = 8;
/// A function's frame that does not fit any more is seldom larger.
const NEAR_STACK: u64 = 1 << 20;
/// Below this nothing can be mapped (vm.mmap_min_addr).
const NULL: u64 = 65536;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// An instruction of a module.
    Place(String),
    /// Something whose own place says nothing, or changes from host to host.
    Mark(&'static str),
}

/// The signature of a crash.
pub fn compute_signature(input: &SignatureInput<'_>) -> Signature {
    let class = class(input.signal);
    let (level, lines) = lines(input, &class);
    let mut hash = Sha256::new();
    hash.update(format!("coreward-signature {VERSION}\n{class}\n{}\n", level.name()));
    for line in lines {
        hash.update(line);
        hash.update("\n");
    }
    let digits: String = hash.finalize().iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    Signature { id: format!("s{VERSION}-{digits}"), level }
}

/// Signals that one bug may raise in turn are one class.
fn class(signal: Option<u32>) -> String {
    let name = signal::name(signal);
    match name.as_str() {
        "SEGV" | "BUS" => "memory".to_owned(),
        "ABRT" => "abort".to_owned(),
        _ => name,
    }
}

fn lines(input: &SignatureInput<'_>, class: &str) -> (Level, Vec<String>) {
    let (tokens, cycle) = tokens(input);
    let near = |fault: u64, stack: u64| fault.abs_diff(stack) <= NEAR_STACK;
    let on_stack = input.fault.zip(input.stack_pointer).is_some_and(|(fault, stack)| near(fault, stack));
    if let Some(cycle) = cycle.filter(|_| on_stack && class == "memory") {
        return (Level::Stack, [vec!["overflow".to_owned()], cycle].concat());
    }
    let window = if class == "abort" { ABORT_WINDOW } else { WINDOW };
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
            Token::Mark(mark) => lines.push((*mark).to_owned()),
        }
    }
    match (places, input.frames.first().and_then(|frame| place(input, frame))) {
        (2.., _) => (Level::Stack, lines),
        (1, _) => (Level::ProgramCounter, lines),
        // Nothing but the C library.
        (0, Some(counter)) => (Level::ProgramCounter, vec![counter]),
        (0, None) => match input.build_id {
            Some(id) => (Level::Executable, [vec![id.to_owned()], lines].concat()),
            None => (Level::Program, [vec![input.program.to_owned()], lines].concat()),
        },
    }
}

/// The frames as tokens, recursion taken once; and the cycle that turned often, from its least line on.
fn tokens(input: &SignatureInput<'_>) -> (Vec<Token>, Option<Vec<String>>) {
    let mut tokens: Vec<Token> = Vec::new();
    let (mut turns, mut cycle) = ((0, 0), None);
    for (index, frame) in input.frames.iter().enumerate() {
        let sure = tokens.iter().any(|token| matches!(token, Token::Place(_)));
        if frame.trust == FrameTrust::Scan && sure {
            // A guess says nothing where something is known.
            break;
        }
        let token = token(input, frame, index == 0);
        if matches!(token, Token::Mark(_)) && tokens.last() == Some(&token) {
            continue;
        }
        tokens.push(token);
        let count = tokens.len();
        let turned = (1..=CYCLE.min(count / 2))
            .find(|length| tokens[count - length..] == tokens[count - 2 * length..count - length]);
        if let Some(length) = turned {
            tokens.truncate(count - length);
            turns = if turns.0 == length { (length, turns.1 + 1) } else { (length, 1) };
            if turns.1 == TURNS {
                cycle = cycle.or_else(|| Some(from_the_least(&tokens[count - 2 * length..])));
            }
        }
    }
    (tokens, cycle)
}

fn from_the_least(cycle: &[Token]) -> Vec<String> {
    let lines: Vec<String> = cycle
        .iter()
        .map(|token| match token {
            Token::Place(place) => place.clone(),
            Token::Mark(mark) => (*mark).to_owned(),
        })
        .collect();
    let rotated = (0..lines.len()).map(|first| [&lines[first..], &lines[..first]].concat());
    rotated.min().unwrap_or_default()
}

fn token(input: &SignatureInput<'_>, frame: &Frame, first: bool) -> Token {
    match frame.module.and_then(input.module) {
        Some(module) if module.path == super::modules::VDSO => Token::Mark("vdso"),
        Some(module) if is_runtime(&module.path) => Token::Mark("runtime"),
        Some(_) => place(input, frame).map_or(Token::Mark("wild"), Token::Place),
        None if first && frame.address < NULL => Token::Mark("null"),
        None if (input.is_code)(frame.address) => Token::Mark("jit"),
        None => Token::Mark("wild"),
    }
}

/// Build-id, else file name, and offset.
fn place(input: &SignatureInput<'_>, frame: &Frame) -> Option<String> {
    let module = frame.module.and_then(input.module)?;
    let name = module.build_id.as_deref().unwrap_or_else(|| base_name(&module.path));
    Some(format!("{name}+{:#x}", frame.offset))
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The C and C++ libraries: they differ from container to container below the same program, choose their functions by
/// processor, and what they do when a program aborts is no part of its bug.
pub fn is_runtime(path: &str) -> bool {
    const NAMES: [&str; 14] = [
        "libc.so",
        "libc-2.",
        "libc.musl-",
        "ld-musl-",
        "ld-linux",
        "ld-2.",
        "ld64.so",
        "libpthread",
        "libstdc++.so",
        "libgcc_s",
        "libc++.so",
        "libc++abi",
        "libunwind.so",
        "librt.so",
    ];
    let name = base_name(path);
    NAMES.iter().any(|runtime| name.starts_with(runtime))
}

#[cfg(test)]
mod tests;
