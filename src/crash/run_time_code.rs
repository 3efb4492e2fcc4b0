//! Whose code is in memory that no file has: that of a compiler at run time.

use super::{MapsLine, Module, Record};

/// Files that have a compiler of this kind, by the beginning of their name, and what it is called. Programs are named by the whole of it.
const COMPILERS: [(&str, &str); 11] = [
    ("libjvm.so", "HotSpot"),
    ("libj9jit", "OpenJ9"),
    ("node", "V8"),
    ("nodejs", "V8"),
    ("libnode.so", "V8"),
    ("libv8.so", "V8"),
    ("libluajit", "LuaJIT"),
    ("luajit", "LuaJIT"),
    ("libclrjit.so", ".NET"),
    ("libmono", "Mono"),
    ("opcache.so", "PHP"),
];

impl MapsLine<'_> {
    /// Whether it is code that is in no file.
    #[must_use]
    pub fn is_run_time_code(&self) -> bool {
        // .NET maps its code twice, once for writing; PHP shares it among processes.
        let is_memory = self.name.starts_with("/memfd:") || self.name.starts_with("/dev/zero");
        let is_kernels = self.name == Module::VDSO || self.name == "[vsyscall]";
        self.permissions.contains('x') && !is_kernels && (is_memory || !self.name.starts_with('/'))
    }

    /// Who compiled the code in this mapping, in a process with these modules: the name that the process gave to the memory
    /// (PR_SET_VMA_ANON_NAME, prctl(2)), else the only compiler among its modules. `None` if that is not certain.
    #[must_use]
    pub fn compiler(&self, modules: &[Module]) -> Option<String> {
        if !self.is_run_time_code() {
            return None;
        }
        let given = self.name.strip_prefix("[anon:").or_else(|| self.name.strip_prefix("[anon_shmem:"));
        if let Some(name) = given.and_then(|name| name.strip_suffix(']')).filter(|name| !name.is_empty()) {
            return Some(name.to_owned());
        }
        if self.name.starts_with("/memfd:doublemapper") {
            return Some(".NET".to_owned());
        }
        let named = |module: &Module| {
            let file = module.file_name();
            let is_file = |name: &str| if name.starts_with("node") { file == name } else { file.starts_with(name) };
            let compiler = COMPILERS.iter().find(|(name, _)| is_file(name));
            compiler.map(|(_, compiler)| *compiler)
        };
        let mut compilers: Vec<&str> = modules.iter().filter_map(named).collect();
        compilers.sort_unstable();
        compilers.dedup();
        match compilers.as_slice() {
            [compiler] => Some((*compiler).to_owned()),
            _ => None,
        }
    }
}

impl Record {
    /// Who compiled the code at an address that is in no module, as far as the beginning of its `maps` tells.
    #[must_use]
    pub fn compiler_of(&self, address: u64) -> Option<String> {
        let mut mappings = self.maps.lines().filter_map(MapsLine::parse);
        mappings.find(|mapping| (mapping.start..mapping.end).contains(&address))?.compiler(&self.modules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::fixtures::{module, record};

    #[test]
    fn code_without_a_file_is_its_compilers() {
        let mut record = record(7);
        record.maps = "1000-2000 rwxp 00000000 00:00 0 \n2000-3000 rw-p 00000000 00:00 0 \n\
                       3000-4000 r-xp 00000000 00:00 0 [anon:v8]\n4000-5000 r-xp 00000000 08:01 7   /usr/bin/x\n\
                       5000-6000 r-xs 00000000 00:01 7   /memfd:doublemapper (deleted)\n\
                       6000-7000 r-xs 00000000 00:01 7   /dev/zero (deleted)\n7000-8000 r-xp 00000000 00:00 0   [vdso]\n..."
            .to_owned();
        let all = |record: &Record| {
            [0x500, 0x1000, 0x2000, 0x3fff, 0x4000, 0x5000, 0x6000, 0x7000].map(|at| record.compiler_of(at))
        };
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(all(&record), [None, None, None, name("v8"), None, name(".NET"), None, None]);
        record.modules = vec![module("/usr/bin/java"), module("/usr/lib/jvm/lib/server/libjvm.so")];
        assert_eq!(all(&record)[1], name("HotSpot"));
        record.modules = vec![module("/usr/lib/php/20220829/opcache.so")];
        assert_eq!(all(&record)[6..], [name("PHP"), None]);
        record.modules.push(module("/usr/lib/libluajit-5.1.so.2"));
        assert_eq!(all(&record)[1], None, "either of them");
        record.modules = vec![module("/usr/bin/node_exporter")];
        assert_eq!(all(&record)[1], None, "a program of another name");
        record.modules = vec![module("/usr/bin/node")];
        assert_eq!(all(&record)[1], name("V8"));
    }
}
