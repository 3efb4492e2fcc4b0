//! A parser of systemd's configuration syntax (systemd.syntax(7)) that keeps line numbers.
//!
//! The INI crates do not fit: they drop the line numbers, without which a wrong key could not be located, and they treat
//! continuation lines and comments differently.

/// A line `Key=value`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) line: usize,
    pub(super) section: String,
    pub(super) key: String,
    pub(super) value: String,
}

/// A line that is neither a section, an assignment nor a comment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    pub(super) line: usize,
    pub(super) text: String,
}

/// The assignments and the wrong lines of a file, in order.
pub(super) fn parse(text: &str) -> Vec<Result<Assignment, BadLine>> {
    let mut section = String::new();
    let mut parsed = Vec::new();
    let mut lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    while let Some((line, first)) = lines.next() {
        if first.is_empty() || is_comment(first) {
            continue;
        }
        let mut whole = first.to_owned();
        while let Some(continued) = whole.strip_suffix('\\') {
            // A comment between the lines of a value is skipped and does not end the value (systemd.syntax(7)).
            let next = lines.by_ref().find(|(_, next)| !is_comment(next)).map_or("", |(_, next)| next);
            whole = format!("{continued} {next}");
        }
        let whole = whole.trim();
        if let Some(name) = whole.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, value)) = whole.split_once('=') {
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            parsed.push(Ok(Assignment { line, section: section.clone(), key, value }));
        } else {
            parsed.push(Err(BadLine { line, text: whole.to_owned() }));
        }
    }
    parsed
}

fn is_comment(line: &str) -> bool {
    line.starts_with(['#', ';'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_sections_comments_and_continuations() {
        let parsed = parse("# c\n[A]\nX = 1\n\n;c\nY=a \\\n# between\n b\n[B]\nnonsense\nZ=\n");
        let assignment = |line, section: &str, key: &str, value: &str| {
            Ok(Assignment { line, section: section.into(), key: key.into(), value: value.into() })
        };
        assert_eq!(
            parsed,
            [
                assignment(3, "A", "X", "1"),
                assignment(6, "A", "Y", "a  b"),
                Err(BadLine { line: 10, text: "nonsense".into() }),
                assignment(11, "B", "Z", ""),
            ]
        );
    }
}
