//! Names that somebody may have meant.

use crate::crash::text::printable;

/// Letters that may be wrong.
const MAX_DISTANCE: usize = 3;
/// Names that are suggested.
const MAX_NAMES: usize = 3;

/// Those of the known names that are spelt much like `name`, the closest first, escaped.
pub(super) fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    // Of a field, the value is what is misspelt.
    let name = name.split_once('=').map_or(name, |(_, value)| value);
    let distance = |known: &str| {
        let whole = strsim::damerau_levenshtein(name, known);
        // It may be omitted.
        let short = known.strip_suffix(".service").map(|short| strsim::damerau_levenshtein(name, short));
        short.map_or(whole, |short| short.min(whole))
    };
    // A third of the letters, as in the suggestions of cargo and git. Numbers are all alike, and so are ids.
    let tolerated = (name.chars().count() / 3).min(MAX_DISTANCE);
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    let mut near: Vec<(usize, &str)> = known
        .filter(|known| !known.is_empty() && *known != name && !is_number)
        .map(|known| (distance(known), known))
        .filter(|(distance, _)| *distance <= tolerated)
        .collect();
    near.sort_unstable();
    near.into_iter().take(MAX_NAMES).map(|(_, name)| printable(name)).collect()
}

/// `did you mean a, b or c? `, or nothing.
pub(super) fn did_you_mean(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("did you mean {one}? "),
        [first @ .., last] => format!("did you mean {} or {last}? ", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spelt_much_alike_is_suggested() {
        let near =
            |name: &str| closest(name, ["", "nginx.service", "1f00c0de00000001", "postgres", "a\nb"].into_iter());
        assert_eq!(near("ngnix"), ["nginx.service"]);
        assert_eq!(near("ngnix.service"), ["nginx.service"]);
        assert_eq!(near("COREDUMP_UNIT=nginx.servce"), ["nginx.service"]);
        assert_eq!(near("postgers"), ["postgres"]);
        assert_eq!(near("COREDUMP_COMM=postgrse"), ["postgres"]);
        assert_eq!(near("1f00c0de00000002"), ["1f00c0de00000001"]);
        assert_eq!(near("a b"), ["a\\nb"]);
        assert_eq!(near("apache2"), [] as [String; 0]);
        assert_eq!(near("4"), [] as [String; 0]);
    }
}
