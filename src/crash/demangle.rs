//! Names of functions as people write them, from those of symbol tables and DWARF.

use cpp_demangle::{BorrowedSymbol, DemangleOptions};
use std::fmt::{self, Write};

/// The name of a function without its mangling: a path for Rust, without the hash of the compiler; for C++ as gdb shows it in a backtrace, so
/// with template arguments but without the types of parameters and of the result. A name that is not mangled is returned as it is.
///
/// At most `limit` bytes, the last of which are `...` if there would be more. The name may be hostile: a short one can stand for an endless one.
#[must_use]
pub fn demangle(name: &str, limit: usize) -> String {
    let mut text = Bounded { text: String::new(), limit, is_full: false };
    let written = if let Ok(path) = rustc_demangle::try_demangle(name) {
        write!(text, "{path:#}").is_ok()
    } else if name.starts_with("_Z") || name.starts_with("___Z") || name.starts_with("_GLOBAL_") {
        demangle_cpp(name, &mut text)
    } else {
        false
    };
    if !written && !text.is_full {
        text = Bounded { text: String::new(), limit, is_full: false };
        // Writing fails only where the text is full.
        let _ = text.write_str(name);
    }
    text.finish()
}

fn demangle_cpp(name: &str, text: &mut Bounded) -> bool {
    let options = DemangleOptions::new().no_params().no_return_type();
    // What follows the name is the version of a symbol, as in `_Znwm@GLIBCXX_3.4`.
    let Ok((symbol, rest)) = BorrowedSymbol::with_tail(name.as_bytes()) else { return false };
    let is_version = rest.is_empty() || rest.starts_with(b"@");
    is_version && symbol.structured_demangle(text, &options).is_ok() && !text.text.is_empty()
}

/// Text of a bounded length. Writing more fails, which ends whoever writes.
struct Bounded {
    text: String,
    limit: usize,
    is_full: bool,
}

impl Bounded {
    fn finish(mut self) -> String {
        const MARK: &str = "...";
        if self.is_full {
            self.text.truncate(self.text.floor_char_boundary(self.limit.saturating_sub(MARK.len())));
            self.text.push_str(MARK);
        }
        self.text
    }
}

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let part_end = part.floor_char_boundary(self.limit.saturating_sub(self.text.len()));
        self.text.push_str(&part[..part_end]);
        self.is_full |= part_end < part.len();
        if self.is_full { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_people_write() {
        for (name, shown) in [
            ("main", "main"),
            ("_ZN3foo3barEi", "foo::bar"),
            ("_ZN3fooC4Ev", "foo::foo"),
            ("_Z5twiceIiET_S0_", "twice<int>"),
            ("_ZNSt6vectorIiSaIiEE2atEm", "std::vector<int, std::allocator<int> >::at"),
            ("_ZN12_GLOBAL__N_15innerEv", "(anonymous namespace)::inner"),
            ("_ZN5cache3get17h0123456789abcdefE", "cache::get"),
            ("_ZN4core3ptr13drop_in_place17h0123456789abcdefE.llvm.123", "core::ptr::drop_in_place"),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("_ZN3fooEv@VERS_1", "foo"),
            ("_Znwm", "operator new"),
            ("main.(*Cache).Get", "main.(*Cache).Get"),
            ("_Zebra", "_Zebra"),
            ("__cxa_throw", "__cxa_throw"),
            ("", ""),
        ] {
            assert_eq!(demangle(name, 200), shown, "{name}");
        }
    }

    #[test]
    fn a_name_that_grows_without_end_is_cut() {
        // Each substitution doubles what the one before stands for.
        let mut name = String::from("_Z1fI1aIi");
        for _ in 0..60 {
            name.insert_str(6, "1bI");
            name.push_str("S_S_E");
        }
        name.push_str("EEvv");
        assert!(demangle(&name, 200).len() <= 200);
        assert_eq!(demangle(&"x".repeat(500), 20), format!("{}...", "x".repeat(17)));
        assert_eq!(demangle("äöü", 5), "ä...");
        assert_eq!(demangle("äöü", 6), "äöü");
    }
}
