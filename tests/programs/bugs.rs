//! Crashes of Rust, compiled with panic=abort.
use std::hint::black_box;

#[inline(never)]
fn index_here(numbers: &[u32], at: usize) -> u32 {
    numbers[at] + 1
}

#[inline(never)]
fn index_there(numbers: &[u32], at: usize) -> u32 {
    numbers[at] + 2
}

#[inline(never)]
fn unwrap_here(text: &str) -> u32 {
    text.parse::<u32>().unwrap()
}

#[inline(never)]
fn unwrap_there(text: &str) -> u32 {
    1 + text.parse::<u32>().unwrap()
}

#[inline(never)]
fn pointer(at: *const u32) -> u32 {
    unsafe { *at + 1 }
}

#[inline(never)]
fn explicit(number: u32) -> u32 {
    if black_box(number) > 0 { panic!("number {}", number) }
    number
}

fn main() {
    let numbers = vec![1, 2, 3];
    let bug = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let out = match bug {
        1 => index_here(&numbers, black_box(7)),
        2 => index_there(&numbers, black_box(7)),
        3 => unwrap_here(black_box("x")),
        4 => unwrap_there(black_box("x")),
        5 => pointer(black_box(std::ptr::null())),
        6 => explicit(6),
        _ => 0,
    };
    std::process::exit(black_box(out) as i32 & 1);
}
