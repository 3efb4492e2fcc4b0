//! The map of the code that a program compiled at run time, as runtimes write it for perf(1): `/tmp/perf-PID.map` (tools/perf/Documentation/jit-interface.txt
//! in the kernel's sources). A line for each function: first address and length, in hexadecimal, and name.

use crate::crash::Symbol;
use std::io::{self, BufRead, Read};

/// The longest part of a line that is read, in bytes. Names are cut to less.
const MAX_LINE: u64 = 4096;
/// Bytes that are read at most: some million functions.
const MAX_MAP: u64 = 128 << 20;

/// The functions at these addresses, in their order. Where several have an address, the last one is there: code that is thrown away makes room for
/// other code. Reads as long as `goes_on`.
///
/// # Errors
/// The map cannot be read.
pub fn find_in_perf_map(
    map: impl BufRead,
    addresses: &[u64],
    goes_on: impl Fn() -> bool,
) -> io::Result<Vec<Option<Symbol>>> {
    /// Lines that are read before the time is looked at.
    const LINES: usize = 1024;
    let mut found = vec![None; addresses.len()];
    let (mut map, mut line, mut is_start) = (map.take(MAX_MAP), Vec::new(), true);
    for number in 0.. {
        line.clear();
        if map.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 || number % LINES == 0 && !goes_on() {
            break;
        }
        // The rest of a long line is none.
        let begins = std::mem::replace(&mut is_start, line.ends_with(b"\n"));
        let Some((start, length, name)) = parse(&line).filter(|_| begins) else { continue };
        for (address, symbol) in addresses.iter().zip(&mut found) {
            if let Some(offset) = address.checked_sub(start).filter(|offset| *offset < length) {
                *symbol = Some(Symbol::new(name, offset));
            }
        }
    }
    Ok(found)
}

fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut fields = line.trim_ascii_end().splitn(3, |byte| *byte == b' ');
    let hexadecimal = |field: &[u8]| {
        let digits = str::from_utf8(field).ok()?;
        u64::from_str_radix(digits.strip_prefix("0x").unwrap_or(digits), 16).ok()
    };
    let (start, length) = (hexadecimal(fields.next()?)?, hexadecimal(fields.next()?)?);
    let name = fields.next().filter(|name| !name.is_empty())?;
    Some((start, length, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(map: &[u8], addresses: &[u64]) -> Vec<Option<(String, u64)>> {
        let found = find_in_perf_map(map, addresses, || true).unwrap();
        found.into_iter().map(|symbol| symbol.map(|symbol| (symbol.name, symbol.offset))).collect()
    }

    #[test]
    fn the_function_that_was_compiled_last_has_the_address() {
        let map = b"1000 20 LazyCompile:*store /srv/a b.js:3:1\n\
                    0x2000 0x10 old\nno line\n3000 zz x\n4000 10 \n2000 8 new\n5000 10 without a newline";
        let named = |name: &str, offset| Some((name.to_owned(), offset));
        assert_eq!(
            names(map, &[0x101f, 0x1020, 0x2007, 0x2008, 0x3000, 0x4000, 0x5000, 0xfff]),
            [
                named("LazyCompile:*store /srv/a b.js:3:1", 0x1f),
                None,
                named("new", 7),
                named("old", 8),
                None,
                None,
                named("without a newline", 0),
                None
            ]
        );
        assert_eq!(find_in_perf_map(&map[..], &[0x1000], || false).unwrap(), [None]);
    }

    #[test]
    fn the_rest_of_a_long_line_is_no_line() {
        let long = [b"1000 20 ", &b"x".repeat(4096 - 8)[..], b"2000 20 inside\n3000 20 next\n"].concat();
        let mut found = names(&long, &[0x2000, 0x3000, 0x1000]);
        let (name, _) = found.pop().flatten().unwrap();
        assert!(name.len() <= Symbol::MAX_NAME + 3, "{}", name.len());
        assert_eq!(found, [None, Some(("next".to_owned(), 0))]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(lines in prop::collection::vec("[0-9a-f]{0,17} [0-9a-fx ]{0,17}\\PC{0,20}", 0..20), bytes: Vec<u8>) {
            let _ = names(lines.join("\n").as_bytes(), &[0, 1, u64::MAX]);
            let _ = names(&bytes, &[0, u64::MAX]);
        }
    }
}
