//! The first instructions of the shim, ahead of the C library's: they begin to trace the exit of the crashed thread (`PTRACE_SEIZE`,
//! ptrace(2)).
//!
//! The kernel writes the core while the shim starts. If something interrupts that, the thread comes to its exit within 100 microseconds,
//! and a C library, which first relocates the program, needs more than that to its `main`. No relocation has been done here, and there are
//! no thread-local variables, so nothing of either library may be called.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod first {
    use nix::libc::{self, c_long};
    use std::arch::{asm, naked_asm};

    /// The entry point of the shim (`-e`, ld(1)). Hands on the registers that the C library's own entry point reads.
    #[unsafe(no_mangle)]
    #[unsafe(naked)]
    #[cfg(target_arch = "x86_64")]
    unsafe extern "C" fn coreward_shim_start() -> ! {
        naked_asm!(
            "mov rbx, rsp",
            "mov r12, rdx",
            "mov rdi, rsp",
            "and rsp, -16",
            "call {trace}",
            "mov rsp, rbx",
            "mov rdx, r12",
            "jmp _start",
            trace = sym trace,
        )
    }

    /// The same for this architecture.
    #[unsafe(no_mangle)]
    #[unsafe(naked)]
    #[cfg(target_arch = "aarch64")]
    unsafe extern "C" fn coreward_shim_start() -> ! {
        naked_asm!(
            "mov x19, sp",
            "mov x20, x0",
            "mov x0, sp",
            "bl {trace}",
            "mov sp, x19",
            "mov x0, x20",
            "b _start",
            trace = sym trace,
        )
    }

    /// Traces the exit of the thread whose ID is the second argument after `--root DIR`, if the kernel started this program: the parent of
    /// its helpers is kthreadd.
    ///
    /// # Safety
    /// `stack` is the stack of a program that starts: the number of its arguments, and pointers to them.
    unsafe extern "C" fn trace(stack: *const *const u8) {
        const KTHREADD: c_long = 2;
        // SAFETY: there are as many pointers as this says, each to a string, behind it.
        let tid = unsafe {
            let (count, argument) = (*stack as usize, |number: usize| *stack.add(1 + number));
            // The same forms as in crates/coreward-shim/src/args.rs, where the kernel has %F and where it has not.
            match count {
                10 | 11 if *argument(1) != b'-' => number(argument(2)),
                12 | 13 if *argument(1) == b'-' => number(argument(4)),
                _ => 0,
            }
        };
        if tid == 0 || system_call(libc::SYS_getppid, [0; 4]) != KTHREADD {
            return;
        }
        let options = c_long::from(libc::PTRACE_O_TRACEEXIT);
        // What comes of it is asked later (waitid(2)).
        system_call(libc::SYS_ptrace, [c_long::from(libc::PTRACE_SEIZE), tid, 0, options]);
    }

    /// The number that the string is; 0 if it is none, or no PID (`PID_MAX_LIMIT`, include/linux/threads.h).
    ///
    /// # Safety
    /// `text` is a string that ends with a zero byte.
    unsafe fn number(mut text: *const u8) -> c_long {
        let mut number: c_long = 0;
        loop {
            // SAFETY: the end has not been passed.
            match unsafe { *text } {
                0 => return number,
                _ if number > 1 << 22 => return 0,
                digit @ b'0'..=b'9' => number = number.wrapping_mul(10).wrapping_add(c_long::from(digit & 15)),
                _ => return 0,
            }
            text = text.wrapping_add(1);
        }
    }

    /// A system call whose arguments are numbers.
    fn system_call(call: c_long, arguments: [c_long; 4]) -> c_long {
        let result;
        // SAFETY: the kernel changes these registers and no memory: no argument is a pointer.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") call => result,
                in("rdi") arguments[0], in("rsi") arguments[1], in("rdx") arguments[2], in("r10") arguments[3],
                lateout("rcx") _, lateout("r11") _,
                options(nostack, preserves_flags)
            );
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            asm!(
                "svc 0",
                inlateout("x0") arguments[0] => result,
                in("x8") call, in("x1") arguments[1], in("x2") arguments[2], in("x3") arguments[3],
                options(nostack, preserves_flags)
            );
        }
        result
    }
}
