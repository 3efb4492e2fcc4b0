//! JSON that is safe to show on a terminal. Characters that JSON leaves as they are but a terminal may obey are escaped: DEL,
//! the C1 control characters, and characters that change the direction of writing.

use crate::crash::text::printable;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};
use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether each field has a line of its own.
static PRETTY: AtomicBool = AtomicBool::new(false);

/// Understands `--json=MODE` of systemd's commands (coredumpctl(1)), where the verbs have an option without a value: `short` is what they
/// write, `pretty` the same over many lines, and `off` as if the option was not there.
pub(super) fn understand_modes(arguments: Vec<OsString>) -> Vec<OsString> {
    let own = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let understand = |(number, argument): (usize, OsString)| match argument.to_str() {
        Some("--json=pretty") if number < own => {
            PRETTY.store(true, Ordering::Relaxed);
            Some("--json".into())
        }
        Some("--json=short") if number < own => Some("--json".into()),
        Some("--json=off") if number < own => None,
        _ => Some(argument),
    };
    arguments.into_iter().enumerate().filter_map(understand).collect()
}

/// Writes `value` on one line, unless the user asked for many.
pub(super) fn write(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    if PRETTY.load(Ordering::Relaxed) {
        value.serialize(&mut Serializer::with_formatter(&mut *out, TerminalSafe(PrettyFormatter::new())))?;
    } else {
        value.serialize(&mut Serializer::with_formatter(&mut *out, TerminalSafe(CompactFormatter)))?;
    }
    writeln!(out)
}

struct TerminalSafe<F>(F);

impl<F: Formatter> Formatter for TerminalSafe<F> {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        for character in fragment.chars() {
            let mut buffer = [0; 4];
            let text = character.encode_utf8(&mut buffer);
            // The fragments of serde_json contain no backslash and nothing below U+0020.
            if (character.is_ascii() && character != '\u{7f}') || printable(text) == *text {
                out.write_all(text.as_bytes())?;
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_reads_back_as_it_was_and_moves_no_cursor() {
        let text = "a\"b\\c\n\x1b[31m\u{7f}\u{9b}2J\u{202e}naïve \u{1f600}";
        let mut json = Vec::new();
        super::write(&mut json, &[text]).unwrap();
        let json = String::from_utf8(json).unwrap();
        assert_eq!(json, "[\"a\\\"b\\\\c\\n\\u001b[31m\\u007f\\u009b2J\\u202enaïve \u{1f600}\"]\n");
        assert_eq!(serde_json::from_str::<[String; 1]>(&json).unwrap(), [text]);
    }
}
