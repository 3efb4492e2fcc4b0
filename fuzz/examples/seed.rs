//! Makes a seed for the target `unwind` of a core that has been exported: `cargo run --release --example seed CORE > corpus/unwind/name`.

use coreward::elf::{CoreLayout, head_length};
use coreward::unwind::ReadMemory;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

struct Recorder<'a> {
    core: File,
    layout: &'a CoreLayout,
    pages: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl ReadMemory for Recorder<'_> {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        let read = self.layout.find(address).is_some_and(|place| self.core.read_exact_at(buffer, place.start).is_ok());
        if read {
            self.pages.borrow_mut().insert(address, buffer.to_vec());
        }
        read
    }
}

fn main() {
    let path = std::env::args().nth(1).expect("usage: seed CORE");
    let core = File::open(&path).expect("the core");
    let mut start = vec![0; 4096];
    core.read_exact_at(&mut start, 0).expect("a head");
    let mut head = vec![0; head_length(&start).expect("a core") as usize];
    core.read_exact_at(&mut head, 0).expect("a whole head");
    let layout = CoreLayout::read(&head).expect("a core of the kernel's");
    let recorder = Recorder { core, layout: &layout, pages: RefCell::default() };
    let (id, frames) = coreward_fuzz::look(&head, &recorder).expect("a core");
    eprintln!("{id}: {} frames, {} pages", frames.len(), recorder.pages.borrow().len());
    let mut out = std::io::stdout().lock();
    out.write_all(&(head.len() as u32).to_le_bytes()).expect("stdout");
    out.write_all(&head).expect("stdout");
    for (address, page) in recorder.pages.borrow().iter() {
        out.write_all(&address.to_le_bytes()).expect("stdout");
        out.write_all(page).expect("stdout");
    }
}
