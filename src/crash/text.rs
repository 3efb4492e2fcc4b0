//! Text from a crashed process. It is bytes: mostly UTF-8, but nothing says that it must be. It is stored without loss and escaped
//! when it is shown.
//!
//! In a [`String`] a byte that is not UTF-8 is the character U+10FF00 plus the byte, from the end of the private use area
//! (U+10FF80 to U+10FFFF). Text that has such a character itself counts as not UTF-8 there, so the bytes of every text can be told.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The character of byte 0.
const ESCAPED: u32 = 0x10_ff00;

/// Bytes from `/proc` as text.
#[must_use]
pub fn from_bytes(bytes: &[u8]) -> String {
    if bytes.is_ascii()
        && let Ok(text) = str::from_utf8(bytes)
    {
        return text.to_owned();
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match escaped_byte(character) {
                None => text.push(character),
                Some(_) => text.extend(character.encode_utf8(&mut [0; 4]).bytes().map(escape)),
            }
        }
        text.extend(chunk.invalid().iter().copied().map(escape));
    }
    text
}

/// The bytes that [`from_bytes`] made `text` of.
#[must_use]
pub fn to_bytes(text: &str) -> Cow<'_, [u8]> {
    if text.is_ascii() || !text.chars().any(|character| escaped_byte(character).is_some()) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match escaped_byte(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(bytes)
}

/// The path that [`from_bytes`] made `text` of.
#[must_use]
pub fn to_path(text: &str) -> PathBuf {
    OsString::from_vec(to_bytes(text).into_owned()).into()
}

/// The character that stands for a byte that is not UTF-8.
fn escape(byte: u8) -> char {
    char::from_u32(ESCAPED + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character stands for. No ASCII byte needs one.
fn escaped_byte(character: char) -> Option<u8> {
    u8::try_from(u32::from(character).checked_sub(ESCAPED)?).ok().filter(|byte| !byte.is_ascii())
}

/// `text` in a form that is safe on a terminal and in a log. Backslashes, control characters, and Unicode characters that are
/// invisible or change the direction of text are escaped, so that it cannot move the cursor, end a line or imitate other text. A
/// byte that is not UTF-8 is `\x` and two hexadecimal digits. Different texts stay different.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    push_printable(&mut shown, text);
    shown
}

/// Appends `text` to `shown`, escaped as by [`printable`].
pub fn push_printable(shown: &mut String, text: &str) {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\') {
        shown.push_str(text);
        return;
    }
    for character in text.chars() {
        if let Some(byte) = escaped_byte(character) {
            push_hexadecimal(shown, byte);
        } else if character == '\\' || is_unsafe(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
}

/// Appends `\x` and two hexadecimal digits.
pub(super) fn push_hexadecimal(shown: &mut String, byte: u8) {
    shown.push_str("\\x");
    push_digits(shown, byte);
}

fn push_digits(text: &mut String, byte: u8) {
    text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0')));
}

/// Two lower-case hexadecimal digits for each byte.
#[must_use]
pub fn to_hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        push_digits(&mut text, *byte);
    }
    text
}

/// The bytes of [`to_hexadecimal`], up to what is no digit.
#[must_use]
pub fn from_hexadecimal(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map_while(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Whether a character must not reach a terminal as it is: a control character, a bidirectional control, a zero-width character, a
/// line or paragraph separator, the byte order mark, or a byte that is not UTF-8.
pub(super) fn is_unsafe(character: char) -> bool {
    character.is_control()
        || escaped_byte(character).is_some()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
}

/// The beginning of `text`, at most `limit` bytes, cut at a character boundary.
#[must_use]
pub fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// The last part of a path: the name of the file, without its directory.
#[must_use]
pub fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The value of a field of `/proc/PID/status` (proc_pid_status(5)).
#[must_use]
pub fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn hexadecimal_is_read_back_as_far_as_it_goes() {
        assert_eq!(to_hexadecimal(b"\0\xfe9"), "00fe39");
        assert_eq!(from_hexadecimal("00fe39"), b"\0\xfe9");
        assert_eq!(from_hexadecimal("00fe3\u{2026}"), b"\0\xfe");
        assert_eq!(from_hexadecimal(""), b"");
    }

    #[test]
    fn nothing_hostile_reaches_a_terminal() {
        let shown = printable("a\nb\x1b[31m\u{202e}gpj.exe\\\u{7f}");
        assert_eq!(shown, r"a\nb\u{1b}[31m\u{202e}gpj.exe\\\u{7f}");
        assert_eq!(printable("/usr/bin/naïve-プログラム"), "/usr/bin/naïve-プログラム");
    }

    #[test]
    fn text_that_is_not_utf_8_keeps_its_bytes() {
        let (one, other) = (from_bytes(b"/tmp/a\xff"), from_bytes(b"/tmp/a\xfe"));
        assert_ne!(one, other);
        assert_eq!((printable(&one), printable(&other)), (r"/tmp/a\xff".to_owned(), r"/tmp/a\xfe".to_owned()));
        assert_ne!(printable(&from_bytes(br"/tmp/a\xff")), printable(&one), "a backslash is no byte");
        assert_eq!(to_path(&one).as_os_str().as_encoded_bytes(), b"/tmp/a\xff");
        assert_eq!(to_path("/usr/bin/x"), Path::new("/usr/bin/x"));
        assert_eq!(from_bytes("naïve \u{10fffe}\u{fffd}".as_bytes()).chars().count(), 6 + 4 + 1);
    }

    #[test]
    fn cutting_never_splits_a_character() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = from_bytes(&bytes);
            prop_assert_eq!(to_bytes(&text).into_owned(), bytes);
            prop_assert_eq!(from_bytes(&to_bytes(&text)), text);
        }

        #[test]
        fn utf_8_is_itself(text in "\\PC*", other in any::<String>()) {
            let kept = from_bytes(other.as_bytes());
            prop_assert_eq!(to_bytes(&kept).into_owned(), other.into_bytes());
            if !text.chars().any(|character| ('\u{10ff80}'..).contains(&character)) {
                prop_assert_eq!(from_bytes(text.as_bytes()), text);
            }
        }

        #[test]
        fn different_texts_look_different(one in prop::collection::vec(any::<u8>(), 0..6), other in prop::collection::vec(any::<u8>(), 0..6)) {
            let shown = |bytes: &[u8]| printable(&from_bytes(bytes));
            prop_assert_eq!(one == other, shown(&one) == shown(&other));
        }
    }
}
