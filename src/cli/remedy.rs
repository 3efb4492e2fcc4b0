//! What to type when something is wrong.

use std::fmt;
use std::path::Path;

/// A command that mends something, or shows more of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remedy {
    purpose: String,
    command: String,
}

impl Remedy {
    /// A command that says itself what it is for.
    pub(super) fn new(command: impl Into<String>) -> Self {
        Self { purpose: String::new(), command: command.into() }
    }

    /// A command and what it is for.
    pub(super) fn to(purpose: impl Into<String>, command: impl Into<String>) -> Self {
        Self { purpose: purpose.into(), command: command.into() }
    }

    /// What a shell runs.
    pub(super) fn command(&self) -> &str {
        &self.command
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { purpose, command } = self;
        if purpose.is_empty() { f.write_str(command) } else { write!(f, "{purpose}: {command}") }
    }
}

/// A path as a word of a POSIX shell.
pub(super) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%=".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        for (path, word) in
            [("/a/b.conf", "/a/b.conf"), ("/a b", "'/a b'"), ("/it's", r"'/it'\''s'"), ("$(x)", "'$(x)'")]
        {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }

    #[test]
    fn the_purpose_precedes_the_command() {
        assert_eq!(Remedy::new("a b").to_string(), "a b");
        assert_eq!(Remedy::to("see why", "a b").to_string(), "see why: a b");
    }
}
