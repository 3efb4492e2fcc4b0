//! Crashes of Rust: generics, closures, traits, inlined functions, panics.
use std::collections::HashMap;
use std::hint::black_box;

trait Shape {
    fn area(&self, scale: u32) -> u32;
}

struct Square(u32);

impl Shape for Square {
    #[inline(never)]
    fn area(&self, scale: u32) -> u32 {
        fault(black_box(8 as *const u32)) * self.0 * scale
    }
}

impl Square {
    #[inline(never)]
    fn side(&self) -> u32 {
        read(black_box(8 as *const u32)) + self.0
    }
}

#[inline(never)]
fn fault(at: *const u32) -> u32 {
    unsafe { at.read_volatile() + 1 }
}

#[inline(always)]
fn read(at: *const u32) -> u32 {
    deeper(at) + 1
}

#[inline(always)]
fn deeper(at: *const u32) -> u32 {
    unsafe { at.read_volatile() }
}

#[inline(never)]
fn generic<T: Into<u64>, F: Fn(T) -> u64>(value: T, function: F) -> u64 {
    function(value) + 1
}

#[inline(never)]
fn index(numbers: &[u32], at: usize) -> u32 {
    numbers[at]
}

#[inline(never)]
fn unwrap(map: &HashMap<String, u32>) -> u32 {
    *map.get("missing").unwrap()
}

fn main() {
    let bug = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let out = match bug {
        1 => Square(2).side(),
        2 => black_box(Box::new(Square(3)) as Box<dyn Shape>).area(4),
        3 => generic(7_u32, |n| u64::from(fault(black_box(8 as *const u32))) + u64::from(n)) as u32,
        4 => index(&[1, 2, 3], black_box(7)),
        5 => unwrap(&HashMap::new()),
        6 => std::thread::spawn(|| Square(5).side()).join().unwrap_or(0),
        _ => 0,
    };
    std::process::exit(out as i32 & 1);
}
