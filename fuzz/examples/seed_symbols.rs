//! Makes a seed for the fuzz targets `dynamic_symbols` and `pclntab` from a running process: the pages that are read for the names of an address.
//! `cargo run --example seed_symbols PID MODULE ADDRESS > corpus/dynamic_symbols/NAME`, with the first address of the module and an address as in
//! its program headers, both hexadecimal.

use coreward::unwind::{ReadMemory, find_symbols};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

const PAGE: u64 = 4096;

/// Reads memory, and remembers the pages.
struct RecordingMemory {
    memory: File,
    pages: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl ReadMemory for RecordingMemory {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        let is_read = self.memory.read_exact_at(buffer, address).is_ok();
        let end = address.saturating_add(buffer.len() as u64);
        for number in (address / PAGE..end.div_ceil(PAGE)).filter(|_| is_read) {
            let mut page = vec![0; PAGE as usize];
            if self.memory.read_exact_at(&mut page, number * PAGE).is_ok() {
                self.pages.borrow_mut().insert(number * PAGE, page);
            }
        }
        is_read
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, pid, module, address] = &arguments[..] else { panic!("usage: seed_symbols PID MODULE ADDRESS") };
    let [module, address] = [module, address].map(|text| u64::from_str_radix(text, 16).expect("a hexadecimal address"));
    let memory = File::open(format!("/proc/{pid}/mem")).expect("the memory can be read");
    let memory = RecordingMemory { memory, pages: RefCell::default() };
    let found = find_symbols(module, &[address], &memory);
    eprintln!("{found:?}: {} pages", memory.pages.borrow().len());
    let mut out = std::io::stdout().lock();
    out.write_all(&[module.to_le_bytes(), address.to_le_bytes()].concat()).expect("stdout can be written");
    for (address, page) in memory.pages.borrow().iter() {
        out.write_all(&address.to_le_bytes()).expect("stdout can be written");
        out.write_all(page).expect("stdout can be written");
    }
}
