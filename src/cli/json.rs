//! JSON that is safe to show on a terminal. Characters that JSON leaves as they are but a terminal may obey are escaped: DEL,
//! the C1 control characters, and characters that change the direction of writing.

use crate::crash::text::printable;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use std::io::{self, Write};

/// Writes `value` on one line.
pub(super) fn write(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut *out, TerminalSafe(CompactFormatter)))?;
    writeln!(out)
}

struct TerminalSafe(CompactFormatter);

impl Formatter for TerminalSafe {
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
