//! Text from a crashed process. It is stored unchanged and escaped when it is shown.

/// Bytes from `/proc` as text; invalid UTF-8 is replaced by U+FFFD.
#[must_use]
pub fn from_bytes(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `text` in a form that is safe on a terminal and in a log. Backslashes, control characters, and Unicode characters that are
/// invisible or change the direction of text are escaped, so that it cannot move the cursor, end a line or imitate other text.
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
        if character == '\\' || character.is_control() || is_deceptive(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
}

/// Whether a character is a bidirectional control, a zero-width character, a line or paragraph separator, or the byte order mark.
fn is_deceptive(character: char) -> bool {
    matches!(character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
}

/// The beginning of `text`, at most `limit` bytes, cut at a character boundary.
#[must_use]
pub fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hostile_reaches_a_terminal() {
        let shown = printable("a\nb\x1b[31m\u{202e}gpj.exe\\\u{7f}");
        assert_eq!(shown, r"a\nb\u{1b}[31m\u{202e}gpj.exe\\\u{7f}");
        assert_eq!(printable("/usr/bin/naïve-プログラム"), "/usr/bin/naïve-プログラム");
    }

    #[test]
    fn cutting_never_splits_a_character() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }
}
