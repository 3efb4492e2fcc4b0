//! Whose code a frame is in that no file has: that of a compiler at run time.

use crate::crash::{MapsLine, Record};

/// Files that have a compiler of this kind, by the beginning of their name, and what it is called.
const COMPILERS: [(&str, &str); 10] = [
    ("libjvm.so", "HotSpot"),
    ("libj9jit", "OpenJ9"),
    ("node", "V8"),
    ("libnode.so", "V8"),
    ("libv8.so", "V8"),
    ("libluajit", "LuaJIT"),
    ("luajit", "LuaJIT"),
    ("libclrjit.so", ".NET"),
    ("libmono", "Mono"),
    ("opcache.so", "PHP"),
];

/// Who compiled the code at an address that is in no module: the name that the process gave to the mapping (PR_SET_VMA_ANON_NAME, prctl(2)), else
/// the only compiler among its modules. `None` if there is no such code there.
pub(super) fn compiler_of(record: &Record, address: u64) -> Option<String> {
    let mut mappings = record.maps.lines().filter_map(MapsLine::parse);
    let mapping = mappings.find(|mapping| (mapping.start..mapping.end).contains(&address))?;
    if !mapping.permissions.contains('x') || mapping.name.starts_with('/') {
        return None;
    }
    if let Some(name) = mapping.name.strip_prefix("[anon:").and_then(|name| name.strip_suffix(']')) {
        return Some(name.to_owned());
    }
    let named = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        COMPILERS.iter().find(|(name, _)| file.starts_with(name)).map(|(_, compiler)| *compiler)
    };
    let mut compilers: Vec<&str> = record.modules.iter().filter_map(|module| named(&module.path)).collect();
    compilers.sort_unstable();
    compilers.dedup();
    match compilers.as_slice() {
        [compiler] => Some((*compiler).to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::{Module, fixtures::record};

    #[test]
    fn code_without_a_file_is_its_compilers() {
        let mut record = record(7);
        let module =
            |path: &str| Module { path: path.to_owned(), build_id: None, package: None, bias: 0, start: 0, end: 0 };
        record.maps = "1000-2000 rwxp 00000000 00:00 0 \n2000-3000 rw-p 00000000 00:00 0 \n\
                       3000-4000 r-xp 00000000 00:00 0 [anon:v8]\n4000-5000 r-xp 00000000 08:01 7   /usr/bin/x\n..."
            .to_owned();
        let all = |record: &Record| [0x500, 0x1000, 0x2000, 0x3fff, 0x4000].map(|at| compiler_of(record, at));
        assert_eq!(all(&record), [None, None, None, Some("v8".to_owned()), None]);
        record.modules = vec![module("/usr/bin/java"), module("/usr/lib/jvm/lib/server/libjvm.so")];
        assert_eq!(all(&record)[1].as_deref(), Some("HotSpot"));
        record.modules.push(module("/usr/lib/libluajit-5.1.so.2"));
        assert_eq!(all(&record)[1], None, "either of them");
    }
}
