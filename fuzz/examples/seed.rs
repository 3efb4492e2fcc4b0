//! Makes a seed for the fuzz target `unwind` from an uncompressed core:
//! `cargo run --release --example seed CORE > corpus/unwind/NAME`.

use coreward::elf::{CoreLayout, headers_len};
use coreward::unwind::ReadMemory;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

/// Reads memory from a core, and remembers what was read.
struct RecordingMemory<'a> {
    core: File,
    layout: &'a CoreLayout,
    pages: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl ReadMemory for RecordingMemory<'_> {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        let range = self.layout.file_range(address);
        let read = range.is_some_and(|range| self.core.read_exact_at(buffer, range.start).is_ok());
        if read {
            self.pages.borrow_mut().insert(address, buffer.to_vec());
        }
        read
    }
}

fn main() {
    let path = std::env::args().nth(1).expect("usage: seed CORE");
    let core = File::open(&path).expect("the core can be opened");
    let mut start = vec![0; 4096];
    core.read_exact_at(&mut start, 0).expect("the core has an ELF header");
    let mut headers = vec![0; headers_len(&start).expect("the file is a core") as usize];
    core.read_exact_at(&mut headers, 0).expect("the core has its headers");
    let layout = CoreLayout::read(&headers).expect("the kernel wrote the core");
    let memory = RecordingMemory { core, layout: &layout, pages: RefCell::default() };
    let (id, frames) = coreward_fuzz::analyze(&headers, &memory).expect("the core can be unwound");
    eprintln!("{id}: {} frames, {} pages", frames.len(), memory.pages.borrow().len());
    let mut out = std::io::stdout().lock();
    out.write_all(&(headers.len() as u32).to_le_bytes()).expect("stdout can be written");
    out.write_all(&headers).expect("stdout can be written");
    for (address, page) in memory.pages.borrow().iter() {
        out.write_all(&address.to_le_bytes()).expect("stdout can be written");
        out.write_all(page).expect("stdout can be written");
    }
}
