//! The command line of a process, as `/proc/PID/cmdline` has it: arguments, each with a NUL at its end.

use super::text::{from_bytes, is_unsafe, push_hexadecimal};
use serde::{Deserialize, Serialize};
use std::io::Read;

/// The bytes that are kept of the beginning of a long command line.
const HEAD: usize = 3 << 10;
/// The bytes that are kept of its end, where programs have the files that they work on.
const TAIL: usize = 1 << 10;
/// The bytes that are read at a time of what is in between.
const CHUNK: usize = 64 << 10;
/// The most bytes that are read. No program is started with more (execve(2)); the end of longer ones is left out.
const MAX_READ: u64 = 8 << 20;
/// More empty arguments than this at the end are what a process title left of a longer command line.
const MAX_EMPTY: usize = 4;

/// The arguments of a process. Of a long command line only both ends are kept; the arguments at the cut may be parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArgumentList {
    /// All arguments, or those at the beginning.
    #[serde(rename = "arguments", default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<String>,
    /// Bytes that are left out after those.
    #[serde(rename = "arguments_omitted", default, skip_serializing_if = "is_zero")]
    pub omitted: u64,
    /// The arguments at the end, where some are left out.
    #[serde(rename = "arguments_end", default, skip_serializing_if = "Vec::is_empty")]
    pub last: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl ArgumentList {
    /// Reads `/proc/PID/cmdline`. What cannot be read is missing.
    pub fn read(source: &mut impl Read) -> Self {
        let mut head = Vec::new();
        let _ = source.by_ref().take((HEAD + TAIL) as u64).read_to_end(&mut head);
        let mut tail = head.split_off(HEAD.min(head.len()));
        let mut omitted = 0;
        let mut chunk = vec![0; CHUNK];
        // A command line that is not long has been read whole.
        while tail.len() == TAIL {
            let count = source.read(&mut chunk).unwrap_or(0);
            if count == 0 {
                break;
            }
            tail.extend_from_slice(chunk.get(..count).unwrap_or(&chunk));
            let surplus = tail.len().saturating_sub(TAIL);
            tail.drain(..surplus);
            omitted += surplus as u64;
            if omitted > MAX_READ {
                return Self { first: split(&head), omitted, last: Vec::new() };
            }
        }
        match omitted {
            0 => Self { first: split(&[head, tail].concat()), ..Self::default() },
            _ => Self { first: split(&head), omitted, last: split(&tail) },
        }
    }

    /// Whether nothing is known of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.last.is_empty()
    }

    /// On one line, quoted so that a shell reads the arguments back. It is safe on a terminal. Bytes that are left out are named
    /// in brackets, which are quoted in an argument.
    #[must_use]
    pub fn quoted(&self) -> String {
        let mut line = String::new();
        for argument in &self.first {
            push_word(&mut line, argument);
        }
        if self.omitted > 0 {
            push_separator(&mut line);
            line.push_str(&format!("[...{} bytes omitted...]", self.omitted));
        }
        for argument in &self.last {
            push_word(&mut line, argument);
        }
        line
    }
}

/// The arguments in a part of the file.
fn split(bytes: &[u8]) -> Vec<String> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    let mut arguments: Vec<String> = bytes.split(|byte| *byte == 0).map(from_bytes).collect();
    // A title is written over the arguments, and the rest of their room filled with NULs.
    let used = arguments.iter().rposition(|argument| !argument.is_empty()).map_or(0, |last| last + 1);
    let is_title = used == 1 && arguments.first().is_some_and(|title| title.contains(' '));
    if is_title || arguments.len() - used > MAX_EMPTY {
        arguments.truncate(used);
    }
    arguments
}

fn push_separator(line: &mut String) {
    if !line.is_empty() {
        line.push(' ');
    }
}

/// Appends an argument as one word of POSIX' shell language, whose 2024 edition has `$'...'`, as bash, ksh and zsh have long had.
fn push_word(line: &mut String, argument: &str) {
    push_separator(line);
    let is_plain = |character: char| {
        character.is_ascii_alphanumeric()
            || "@%_-+=:,./".contains(character)
            || !(character.is_ascii() || is_unsafe(character))
    };
    if !argument.is_empty() && argument.chars().all(|character| is_plain(character) && !character.is_whitespace()) {
        line.push_str(argument);
    } else if !argument.chars().any(is_unsafe) {
        line.push('\'');
        line.push_str(&argument.replace('\'', r"'\''"));
        line.push('\'');
    } else {
        line.push_str("$'");
        for character in argument.chars() {
            match character {
                '\\' | '\'' => line.extend(['\\', character]),
                '\n' => line.push_str("\\n"),
                '\t' => line.push_str("\\t"),
                '\r' => line.push_str("\\r"),
                character if is_unsafe(character) => {
                    let mut buffer = [0; 4];
                    let text: &str = character.encode_utf8(&mut buffer);
                    super::text::to_bytes(text).iter().for_each(|byte| push_hexadecimal(line, *byte));
                }
                character => line.push(character),
            }
        }
        line.push('\'');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::text::to_bytes;
    use proptest::prelude::*;
    use std::io::Cursor;
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    fn of(bytes: &[u8]) -> ArgumentList {
        ArgumentList::read(&mut Cursor::new(bytes))
    }

    fn raw(arguments: &[&[u8]]) -> Vec<u8> {
        arguments.iter().flat_map(|argument| [argument, b"\0".as_slice()].concat()).collect()
    }

    /// The words that bash reads.
    fn read_by_a_shell(line: &str) -> Vec<Vec<u8>> {
        let script = [b"printf '%s\\0' ".as_slice(), line.as_bytes()].concat();
        let shell = Command::new("bash").arg("-c").arg(std::ffi::OsStr::from_bytes(&script)).output().unwrap();
        assert!(shell.status.success(), "{line}: {}", String::from_utf8_lossy(&shell.stderr));
        shell.stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn ordinary_command_lines_look_as_they_were_typed() {
        for (arguments, line) in [
            (&[b"/usr/sbin/nginx".as_slice(), b"-g", b"daemon off;"][..], "/usr/sbin/nginx -g 'daemon off;'"),
            (&[b"cat", b""], "cat ''"),
            (&[b"sh", b"-c", b"it's"], r"sh -c 'it'\''s'"),
            (&[b"x", b"a\nb\\'"], r"x $'a\nb\\\''"),
            (&["naïve".as_bytes(), b"\xff1", b"\x1b[31m"], r"naïve $'\xff1' $'\x1b[31m'"),
            (&["\u{202e}".as_bytes()], r"$'\xe2\x80\xae'"),
            (&[b"x", b"[...7 bytes omitted...]"], "x '[...7 bytes omitted...]'"),
        ] {
            let read = of(&raw(arguments));
            assert_eq!(read.quoted(), line);
            assert_eq!(read.first.len(), arguments.len());
        }
        assert_eq!((of(b"").quoted(), of(b"").is_empty(), of(b"\0").quoted()), (String::new(), true, "''".to_owned()));
    }

    #[test]
    fn a_title_is_no_row_of_empty_arguments() {
        assert_eq!(of(b"nginx: worker process\0\0\0").first, ["nginx: worker process"]);
        assert_eq!(of(b"title\0\0\0\0\0\0\0\0").first, ["title"]);
        assert_eq!(of(b"x\0\0\0").first, ["x", "", ""]);
        assert_eq!(of(b"no end").first, ["no end"]);
    }

    #[test]
    fn a_long_command_line_keeps_both_ends_and_says_what_is_missing() {
        let long = raw(&[b"prog", &[b'x'; 100 << 10], b"--last", b"file"]);
        let read = of(&long);
        assert_eq!((read.first[0].as_str(), read.first.len()), ("prog", 2));
        assert_eq!(read.last[1..], ["--last", "file"]);
        let kept = (read.first[1].len() + read.last[0].len()) as u64;
        assert_eq!(read.omitted + kept, 100 << 10);
        let line = read.quoted();
        assert!(line.starts_with("prog xxx") && line.ends_with("xxx --last file"), "{line}");
        assert!(line.contains(&format!("x [...{} bytes omitted...] x", read.omitted)), "{line}");
        assert!(line.len() < 5000);
        for length in [HEAD, HEAD + TAIL - 1, HEAD + TAIL, HEAD + TAIL + 1, HEAD + 2 * TAIL, HEAD + 2 * TAIL + 1, 9000]
        {
            let read = of(&vec![b'a'; length]);
            let kept: usize = read.first.iter().chain(&read.last).map(String::len).sum();
            assert_eq!(kept as u64 + read.omitted, length as u64, "{length}");
        }
        // A process can claim that all of its memory is arguments.
        let read = ArgumentList::read(&mut std::io::repeat(b'a'));
        assert!(read.omitted > MAX_READ && read.last.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_shell_reads_the_arguments_back(
            arguments in prop::collection::vec(prop::collection::vec(1_u8.., 0..12), 1..6),
        ) {
            let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
            let read = of(&raw(&arguments));
            let mut words = read_by_a_shell(&read.quoted());
            words.pop();
            prop_assert!(!read.quoted().chars().any(is_unsafe));
            let kept: Vec<Vec<u8>> = read.first.iter().map(|argument| to_bytes(argument).into_owned()).collect();
            prop_assert_eq!(&words, &kept);
            // One word with a space and nothing behind it is a title that was written over the arguments.
            let is_title = arguments[0].contains(&b' ') && arguments[1..].iter().all(|argument| argument.is_empty());
            if arguments.len() > 1 && !is_title {
                prop_assert_eq!(kept, arguments);
            }
        }
    }
}
